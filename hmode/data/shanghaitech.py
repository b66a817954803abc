"""ShanghaiTech A and B (Zhang et al., CVPR 2016), and ShanghaiTechRGBD (Lian et al., CVPR 2019)."""

from pathlib import Path

import numpy as np

from hmode.data.mat import image_info, read_mat, read_mat_points
from hmode.data.pictures import IMAGE_SUFFIXES
from hmode.data.source import Item, Listing, Source, list_files, pair
from hmode.errors import InputError, MissingFileError


class ShanghaiTech(Source):
    """ShanghaiTech part A or B.

    Args:
        part: "A" or "B".
        root: a folder with `part_A` (or `part_A_final`) in it or in its `ShanghaiTech` folder, or
            that part's folder itself.
    """

    layout = (
        "part_X[_final]/{train,test}_data/images/IMG_<n>.jpg with "
        "ground-truth (or ground_truth)/GT_IMG_<n>.mat"
    )
    marks = ("train_data", "test_data")

    def __init__(self, part: str, root: str | Path):
        self.name = f"sh{part.lower()}"
        names = (f"part_{part}", f"part_{part}_final")
        self.folders = (*names, *(f"ShanghaiTech/{name}" for name in names))
        super().__init__(root)

    def _candidates(self, root: Path) -> list[Path]:
        # Both parts look alike inside: a folder has to have the part's name.
        own = [root] if root.name in self.folders else []
        return own + [root / name for name in self.folders]

    def find(self, split: str) -> Listing:
        folder = self.folder / f"{split}_data"
        images = list_files(folder / "images", ".jpg", ".jpeg")
        places = [folder / name for name in ("ground-truth", "ground_truth")]
        place = next((place for place in places if place.is_dir()), None)
        if place is None:
            raise MissingFileError(f"{folder}: neither ground-truth nor ground_truth is there")
        truth = {stem.removeprefix("GT_"): path for stem, path in list_files(place, ".mat").items()}
        return pair(images, truth, lambda stem: place / f"GT_{stem}.mat")

    def read_points(self, item: Item) -> np.ndarray:
        return read_mat_points(item.annotation, "image_info")

    def stated_count(self, item: Item) -> int | None:
        info = image_info(item.annotation, read_mat(item.annotation)["image_info"])
        number = np.asarray(info.get("number"))
        stated = float(number.item()) if number.dtype.kind in "fiu" and number.size == 1 else 0.5
        return int(stated) if stated.is_integer() else None


class ShanghaiTechRGBD(Source):
    """ShanghaiTechRGBD; its depth is not used.

    Annotations are points (`GT_*.mat`), or boxes whose centres are taken (`BBOX_*.mat`, all that
    the test split comes with), or, in other copies, `DEPTH_*.mat` written as ShanghaiTech A's.
    """

    name = "rgbd"
    layout = (
        "ShanghaiTechRGBD/{train,test}_data/{train,test}_img/IMG_<n>.png with "
        "*_gt/GT_<n>.mat or *_bbox_anno/BBOX_<n>.mat"
    )
    folders = ("ShanghaiTechRGBD", "ShanghaiTech_RGBD", "RGBD", "rgbd")
    marks = ("train_data/train_img", "test_data/test_img")

    def find(self, split: str) -> Listing:
        folder = self.folder / f"{split}_data"
        images = list_files(folder / f"{split}_img", *IMAGE_SUFFIXES)
        kinds = [k for k in ("gt", "bbox_anno", "bbox") if (folder / f"{split}_{k}").is_dir()]
        truth: dict[str, Path] = {}
        for kind in reversed(kinds or ["depth"]):  # points go before boxes
            truth |= _by_number(list_files(folder / f"{split}_{kind}", ".mat"))
        names = {number: path.stem for number, path in _by_number(images).items()}
        truth = {names.get(number, path.name): path for number, path in truth.items()}
        return pair(images, truth, lambda name: folder / f"{split}_gt" / f"GT_{_number(name)}.mat")

    def read_points(self, item: Item) -> np.ndarray:
        return read_mat_points(item.annotation, "point", "bbox", "image_info")


def _number(stem: str) -> str:
    """The "0012" of IMG_0012, GT_0012 and their like."""
    return stem.rpartition("_")[2]


def _by_number(files: dict[str, Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for stem, path in files.items():
        number = _number(stem)
        if number in found:
            raise InputError(f"{path.parent}: both {found[number].name} and {path.name}")
        found[number] = path
    return found
