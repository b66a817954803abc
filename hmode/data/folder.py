"""One's own photographs and points, from any folder."""

import re
import warnings
from pathlib import Path

from PIL import Image

from hmode.data.formats import read_json
from hmode.data.heads import WHOLE, Heads, place
from hmode.data.labels import SUFFIXES, read_heads
from hmode.data.mat import read_mat_points
from hmode.data.pictures import IMAGE_SUFFIXES, read_image, read_size
from hmode.data.source import (
    Annotation,
    Files,
    Item,
    Listing,
    Source,
    hidden,
    list_files,
    pair,
)
from hmode.errors import InputError, MissingFileError

# Where annotations are looked for, beside the images.
PLACES = ("annotations", "labels", "gt", "ground-truth", "ground_truth")
MAT_FIELDS = ("annPoints", "image_info", "point", "points", "location")
# A JSON object with some of the options, in the root: so that every command knows them.
SETTINGS = "hmode.json"
# What label tools put beside their files, with nobody in it.
ASIDE = (SETTINGS, "classes.txt", "notes.json", "data.yaml", "dataset.yaml", "obj.names")


class Folder(Source):
    """A folder of images with the points of the heads in them.

    Images lie in the folder or in its `images`. Points are in one table (.csv, .json, .xml) or in
    a file for each image, NAME.csv, .json, .xml, .txt or .mat (`annPoints`, `point`, `points`,
    `location` `[N, 2]`, or ShanghaiTech's `image_info`), where NAME may also be GT_NAME or
    NAME_ann; see `hmode.data.labels` and docs/inputs.md for what is read. They lie beside the
    images, in the folder, or in its `annotations`, `labels`, `gt`, `ground-truth`. An image of
    which nothing is said is an error: it is not taken as empty.

    With folders `train`, `val` or `test` inside, each like that, these are the splits (or, as YOLO
    has it, `images/train` with `labels/train`). Without, all images are one split, which goes by
    every name: it does not tell training from testing.

    Options that are not given are as the file hmode.json in the root says, a JSON object, else:

    Args:
        root: the folder.
        annotations: the file or folder with the points, relative to the split's folder or to the
            root; None: looked for as above.
        upright: turn photographs as the camera noted (EXIF), as programs do in which points are
            set; False where the points are on the pixels as they are stored (MATLAB). Where the
            annotation states the image's size, that decides where its points are.
        units: of coordinates in tables, text and .mat: "pixels", "fractions" or "percent" of
            width and height.
        label: whose points to take where there are several labels; "*": all.

    Raises:
        InputError: hmode.json or an option is not that.
    """

    name = "folder"
    splits = ("train", "val", "test", "all")
    layout = (
        "images with one table .csv (columns image, x, y), .json (COCO keypoints, Label Studio, "
        "VIA) or .xml (CVAT), or a .csv, .txt, .json or .mat for each image, in the folder or in "
        "its train, val and test"
    )
    marks = (".",)

    def __init__(
        self,
        root: str | Path,
        *,
        annotations: str | Path | None = None,
        upright: bool | None = None,
        units: str | None = None,
        label: str | None = None,
    ):
        super().__init__(root)
        given = {"annotations": annotations, "upright": upright, "units": units, "label": label}
        options = {"annotations": None, "upright": True, "units": "pixels", "label": None}
        options |= _settings(self.folder / SETTINGS, options.keys())
        options |= {name: value for name, value in given.items() if value is not None}
        self.annotations, self.upright, self.units, self.label = options.values()
        kinds = {"annotations": (str, Path), "upright": bool, "units": str, "label": str}
        for name, value in options.items():
            if value is not None and not isinstance(value, kinds[name]):
                raise InputError(f"{self.folder}: {name} is {value!r}, which is of another type")
        if self.units not in WHOLE:
            raise InputError(
                f"{self.folder}: units is {self.units!r}, expected one of {list(WHOLE)}"
            )
        self._tabled: dict[Path, Heads] = {}
        self._labels: dict[str, Path] = {}  # met so far, and where

    @property
    def parts(self) -> tuple[str, ...]:
        places = (self.folder, self.folder / "images")
        found = [s for s in self.splits[:3] if any((place / s).is_dir() for place in places)]
        return tuple(found) or ("all",)

    def find(self, split: str) -> Listing:
        home, folder, places = self._places(split)
        images = list_files(folder, *IMAGE_SUFFIXES)
        names = _names(images)
        own: dict[str, Path] = {}
        tables = []
        for path in self._annotation_files(home, places):
            name = _own(path, names)
            if name not in images and path.suffix.lower() in (".csv", ".json", ".xml"):
                tables.append(path)
            elif own.setdefault(name, path) != path:
                raise InputError(f"{path}: {own[name]} is of the same image")
        sources = tables + [path for name, path in own.items() if name in images and tables]
        if len(sources) > 1:
            raise InputError(
                f"{home}: both {sources[0].name} and {sources[1].name} may hold the points; "
                "name one with annotations="
            )
        strays = self._left_out(folder, home)
        if tables:
            return self._by_table(images, folder, tables[0], [*own.values(), *strays])
        found = pair(Files(folder, "{}.jpg", images), Files(folder, "{}.csv", own))
        return Listing(found.items, found.missing, found.strays + strays)

    def read_image(self, item: Item) -> Image.Image:
        return read_image(item.image, upright=self.upright)

    def read(self, item: Item) -> Annotation:
        heads = self._chosen(self._heads(item), item.annotation)
        plain = heads.size is None and heads.units == "pixels"
        size, orientation = ((0, 0), 1) if plain else read_size(item.image)
        where = f"{item.annotation}: {item.image.name}"
        return Annotation(place(heads, size, orientation, self.upright, where))

    def describe(self, split: str) -> dict:
        split = split if split in self.parts else "all"
        about = {"folder": self.folder.resolve().name, "upright": self.upright}
        if self.units != "pixels":
            about["units"] = self.units
        if self.label is not None:
            about["label"] = self.label
        return super().describe(split) | about

    def _places(self, split: str) -> tuple[Path, Path, list[Path]]:
        """A split's folder, that of its images, and those in which its annotations may be."""
        if self.parts == ("all",):
            home = self.folder
        elif split not in self.parts:
            raise MissingFileError(f"{self.folder}: no folder {split}, only {list(self.parts)}")
        else:
            home = self.folder / split
        if not home.is_dir():  # YOLO's: images/train, labels/train
            return (
                self.folder,
                self.folder / "images" / split,
                [self.folder / place / split for place in ("images", *PLACES)],
            )
        folder = home / "images" if (home / "images").is_dir() else home
        return home, folder, [folder, home, *(home / place for place in PLACES)]

    def _annotation_files(self, home: Path, places: list[Path]) -> list[Path]:
        if self.annotations is not None:
            named = [home / self.annotations, self.folder / self.annotations]
            place = next((place for place in named if place.exists()), None)
            if place is None:
                raise MissingFileError(f"{named[0]}: no such file or folder of annotations")
            if place.is_file():
                return [place]
            places = [place]
        found = [list_files(p, *SUFFIXES, ".mat") for p in dict.fromkeys(places) if p.is_dir()]
        return [path for files in found for path in files.values() if path.name not in ASIDE]

    def _left_out(self, folder: Path, home: Path) -> list[Path]:
        """What lies among the images and is none, and images that lie elsewhere."""
        known = (*IMAGE_SUFFIXES, *SUFFIXES, ".mat")
        places = ("images", *PLACES, *self.splits)
        found = []
        for path in sorted(folder.iterdir()):
            if hidden(path.name) or path.name in ASIDE:
                continue
            if path.name not in places if path.is_dir() else path.suffix.lower() not in known:
                found.append(path)
        for other in {home: None, self.folder: None}.keys() - {folder}:
            found += list_files(other, *IMAGE_SUFFIXES).values()
        return found

    def _by_table(self, images: dict, folder: Path, table: Path, strays: list) -> Listing:
        """The listing of images whose points are in one table."""
        lost, names, truth = [], _names(images), set()
        for entry, heads in read_heads(table).items():
            if not entry:
                raise InputError(f"{table}: no column image, so whose points are these?")
            name = _meant(entry, names)
            if name is None:
                lost.append(folder / _file(entry))
                continue
            if name in truth:
                raise InputError(f"{table}: {images[name].name} goes by two names")
            if Path(_file(entry)).suffix.lower() not in ("", images[name].suffix.lower()):
                warnings.warn(f"{table}: {entry} is taken for {images[name].name}", stacklevel=5)
            truth.add(name)
            self._tabled[images[name]] = heads
        items = [Item(name, images[name], table) for name in images if name in truth]
        rows = [f"a row of {images[name].name} in {table}" for name in images if name not in truth]
        return Listing(items, rows + lost, strays)

    def _heads(self, item: Item) -> Heads:
        """What is said of an image, in the units that are stated."""
        path = item.annotation
        if path.suffix.lower() == ".mat":
            heads = Heads(read_mat_points(path, *MAT_FIELDS))
        elif item.image in self._tabled:
            heads = self._tabled[item.image]
        else:
            found = read_heads(path)
            names = _names({item.name: item.image}) | {("file", ""): [item.name]}
            if [_meant(entry, names) for entry in found] != [item.name]:
                raise InputError(f"{path}: expected the points of {item.image.name} alone")
            (heads,) = found.values()
        stated = heads.units if heads.units != "pixels" else self.units
        return Heads(heads.points, heads.size, heads.labels, stated)

    def _chosen(self, heads: Heads, path: Path) -> Heads:
        """Those with the label asked for; without one, all, if all have the same."""
        if not heads.labels or self.label == "*":
            return heads
        if self.label is not None:
            return heads.only(self.label)
        for label in heads.labels:
            self._labels.setdefault(label, path)
        if len(self._labels) > 1:
            raise InputError(
                f"{path}: points of several labels, {sorted(self._labels)[:6]}; say whose are "
                'heads with label= (in hmode.json, "label"), "*" for all'
            )
        return heads


def _settings(path: Path, names) -> dict:
    """The options that hmode.json sets."""
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or not content.keys() <= set(names):
        raise InputError(f"{path}: expected a JSON object with some of the keys {list(names)}")
    return {name: value for name, value in content.items() if value is not None}


def _file(entry: str) -> str:
    """A file's name, of a path as any system writes it."""
    return re.split(r"[/\\]", entry)[-1]


def _names(images: dict[str, Path]) -> dict[tuple[str, str], list[str]]:
    """The images by each of the spellings under which `_meant` knows them."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, path in images.items():
        keys = [("file", path.name), ("name", name), ("any case", name.casefold())]
        for key in [*keys, ("any case", path.name.casefold()), ("stem", name.casefold())]:
            names.setdefault(key, []).append(name)
    return names


def _meant(entry: str, names: dict[tuple[str, str], list[str]]) -> str | None:
    """The image that an annotation names: with its suffix, without, in other case, or with
    another image's suffix; None where it is none of them, or several."""
    file = _file(entry)
    keys = [("file", file), ("name", file), ("any case", file.casefold())]
    if Path(file).suffix.lower() in IMAGE_SUFFIXES:
        keys.append(("stem", Path(file).stem.casefold()))
    found = next((names[key] for key in keys if key in names), [])
    return found[0] if len(found) == 1 else None


def _own(annotation: Path, names: dict) -> str:
    """The name of the image that an annotation file is of, by its own."""
    stem = annotation.stem
    short = stem.removeprefix("GT_").removesuffix("_ann")
    return _meant(stem, names) or _meant(short, names) or short
