"""One's own photographs and points, from any folder."""

from pathlib import Path

import numpy as np
from PIL import Image

from hmode.data.coco import read_coco_points
from hmode.data.formats import read_csv_points
from hmode.data.mat import read_mat_points
from hmode.data.pictures import IMAGE_SUFFIXES, read_image
from hmode.data.source import Item, Listing, Source, list_files, pair
from hmode.errors import InputError, MissingFileError

# Where annotations are looked for, beside the images.
PLACES = ("annotations", "labels", "gt", "ground-truth", "ground_truth")
MAT_FIELDS = ("annPoints", "image_info", "point", "points", "location")


class Folder(Source):
    """A folder of images with the points of the heads in them.

    Images lie in the folder or in its `images`. Points are (x, y) in pixels, in one of

    - one CSV table: a header with the columns image, x, y, then a row for each person; a row with
      an image alone says that nobody is in it;
    - one JSON file of COCO keypoints, see `read_coco_points`;
    - a file for each image, NAME.csv (columns x, y), NAME.json (COCO) or NAME.mat (`annPoints`,
      `point`, `points`, `location` `[N, 2]`, or ShanghaiTech's `image_info`), where NAME may also
      be GT_NAME or NAME_ann,

    beside the images, in the folder, or in its `annotations`, `labels`, `gt`, `ground-truth`. An
    image of which nothing is said is an error: it is not taken as empty.

    With folders `train`, `val` or `test` inside, each like that, these are the splits. Without,
    all images are one split, which goes by every name: it does not tell training from testing.

    Args:
        root: the folder.
        annotations: the file or folder with the points, relative to the split's folder or to the
            root; None: looked for as above.
        upright: turn photographs as the camera noted (EXIF), as programs do in which points are
            set; False where the points are on the pixels as they are stored (MATLAB).
    """

    name = "folder"
    splits = ("train", "val", "test", "all")
    layout = (
        "images with one table .csv (columns image, x, y), one COCO keypoints .json, or a .csv, "
        ".json or .mat for each image, in the folder or in its train, val and test"
    )

    marks = (".",)

    def __init__(
        self, root: str | Path, *, annotations: str | Path | None = None, upright: bool = True
    ):
        self.annotations, self.upright = annotations, upright
        self._points: dict[Path, np.ndarray] = {}
        super().__init__(root)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(s for s in self.splits[:3] if (self.folder / s).is_dir()) or ("all",)

    def find(self, split: str) -> Listing:
        home = self._home(split)
        folder = home / "images" if (home / "images").is_dir() else home
        images = list_files(folder, *IMAGE_SUFFIXES)
        own: dict[str, Path] = {}
        tables = []
        for path in self._annotation_files(home, folder):
            name = _name(path, images)
            if name not in images and path.suffix.lower() != ".mat":
                tables.append(path)
            elif own.setdefault(name, path) != path:
                raise InputError(f"{path}: {own[name]} is of the same image")
        if len(tables) > 1:
            raise InputError(
                f"{home}: both {tables[0].name} and {tables[1].name} may hold the points; "
                "name one with annotations="
            )
        if tables:
            return self._tabled(images, folder, tables[0])
        return pair(images, own, lambda name: folder / f"{name}.csv")

    def read_image(self, item: Item) -> Image.Image:
        return read_image(item.image, upright=self.upright)

    def read_points(self, item: Item) -> np.ndarray:
        if item.image in self._points:
            return self._points[item.image]
        if item.annotation.suffix.lower() == ".mat":
            return read_mat_points(item.annotation, *MAT_FIELDS)
        table = _read_table(item.annotation)
        found = [name for name in table if name in ("", item.image.name, item.name)]
        if len(found) != 1 or len(table) != 1:
            raise InputError(f"{item.annotation}: expected the points of {item.image.name} alone")
        return table[found[0]]

    def describe(self, split: str) -> dict:
        split = split if (self.folder / split).is_dir() else "all"
        about = {"folder": self.folder.resolve().name, "upright": self.upright}
        return super().describe(split) | about

    def _home(self, split: str) -> Path:
        if self.parts == ("all",):
            return self.folder
        if split not in self.parts:
            raise MissingFileError(f"{self.folder}: no folder {split}, only {list(self.parts)}")
        return self.folder / split

    def _annotation_files(self, home: Path, folder: Path) -> list[Path]:
        places = dict.fromkeys([folder, home, *(home / place for place in PLACES)])
        if self.annotations is not None:
            places = [home / self.annotations, self.folder / self.annotations]
            place = next((place for place in places if place.exists()), None)
            if place is None:
                raise MissingFileError(f"{places[0]}: no such file or folder of annotations")
            if place.is_file():
                return [place]
            places = [place]
        found = [list_files(p, ".csv", ".json", ".mat") for p in places if p.is_dir()]
        return [path for files in found for path in files.values()]

    def _tabled(self, images: dict[str, Path], folder: Path, table: Path) -> Listing:
        """The listing of images whose points are in one table."""
        names = {path.name: name for name, path in images.items()} | {name: name for name in images}
        truth: dict[str, Path] = {}
        lost = []
        for entry, points in _read_table(table).items():
            file = Path(entry).name
            if not file:
                raise InputError(f"{table}: no column image, so whose points are these?")
            if file not in names:
                lost.append(folder / file)
                continue
            if names[file] in truth:
                raise InputError(f"{table}: {images[names[file]].name} goes by two names")
            truth[names[file]] = table
            self._points[images[names[file]]] = points
        listing = pair(images, truth, lambda name: f"a row of {images[name].name} in {table}")
        return Listing(listing.items, listing.missing + lost, [])


def _name(annotation: Path, images: dict[str, Path]) -> str:
    """The name of the image that an annotation file is of, by its own."""
    stem = annotation.stem
    return stem if stem in images else stem.removeprefix("GT_").removesuffix("_ann")


def _read_table(path: Path) -> dict[str, np.ndarray]:
    return read_coco_points(path) if path.suffix.lower() == ".json" else read_csv_points(path)
