"""The published data sets: how the files of each lie, and how its points are read."""

from pathlib import Path

import numpy as np

from hmode.data.formats import (
    as_points,
    json_points,
    read_json,
    read_lines,
    read_names,
    read_numbers,
)
from hmode.data.mat import image_info, read_mat, read_mat_points
from hmode.data.pictures import IMAGE_SUFFIXES
from hmode.data.source import (
    Annotation,
    Files,
    Item,
    Listing,
    Source,
    collect,
    list_files,
    pair,
)
from hmode.errors import InputError, MissingFileError


class ShanghaiTech(Source):
    """ShanghaiTech part A or B (Zhang et al., CVPR 2016).

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
        return [each for each in super()._candidates(root) if each.name in self.folders]

    def find(self, split: str) -> Listing:
        folder = self.folder / f"{split}_data"
        images = Files.listed(folder / "images", "{}.jpg", ".jpeg")
        places = [folder / name for name in ("ground-truth", "ground_truth")]
        place = next((place for place in places if place.is_dir()), None)
        if place is None:
            raise MissingFileError(f"{folder}: neither ground-truth nor ground_truth is there")
        return pair(images, Files.listed(place, "GT_{}.mat"))

    def read(self, item: Item) -> Annotation:
        location, stated = image_info(item.annotation, read_mat(item.annotation))
        return Annotation(location, stated=stated)


class ShanghaiTechRGBD(Source):
    """ShanghaiTechRGBD (Lian et al., CVPR 2019); its depth is not used.

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
        images = Files.listed(folder / f"{split}_img", "{}.png", *IMAGE_SUFFIXES)
        names = {number: path.stem for number, path in _by_number(images).items()}
        kinds = [k for k in ("gt", "bbox_anno", "bbox") if (folder / f"{split}_{k}").is_dir()]
        truth = Files(folder / f"{split}_gt", "GT_{number}.mat", {})
        for kind in reversed(kinds or ["depth"]):  # points go before boxes
            found = _by_number(list_files(folder / f"{split}_{kind}", ".mat"))
            truth |= {names.get(number, path.name): path for number, path in found.items()}
        return pair(images, truth)

    def read(self, item: Item) -> Annotation:
        return Annotation(read_mat_points(item.annotation, "point", "bbox", "image_info"))


def _by_number(found: dict[str, Path]) -> dict[str, Path]:
    """By the "0012" of IMG_0012, GT_0012 and their like."""
    numbers: dict[str, Path] = {}
    for stem, path in found.items():
        if numbers.setdefault(stem.rpartition("_")[2], path) != path:
            raise InputError(f"{path}: another file of this number is there")
    return numbers


# The order in which Oñoro-Rubio and López-Sastre (ECCV 2016) published the images, ten to a fold
# (ccnn/tools/ucf_order.txt and gen_ucf_dataset.py of their code).
FOLDS = (
    (37, 48, 29, 10, 14, 1, 45, 47, 40, 24),
    (25, 49, 18, 13, 28, 34, 17, 3, 26, 15),
    (31, 6, 33, 2, 30, 36, 42, 20, 38, 11),
    (5, 7, 4, 21, 27, 39, 22, 43, 32, 35),
    (8, 50, 12, 19, 44, 23, 9, 46, 16, 41),
)


class UcfCc50(Source):
    """UCF_CC_50 (Idrees et al., CVPR 2013): 50 grey images, evaluated by five-fold
    cross-validation.

    Five people are annotated outside their image (one at x = -358.7): they are people.

    Args:
        fold: 0 to 4; its ten images are the test split, the other forty the training split. The
            split "all" is all fifty.
    """

    name = "ucf_cc_50"
    splits = ("train", "test", "all")
    parts = ("all",)
    layout = "UCF_CC_50/<n>.jpg with <n>_ann.mat, n = 1 to 50"
    folders = ("UCF_CC_50", "ucf_cc_50", "UCFCrowdCountingDataset_CVPR13/UCF_CC_50")
    marks = ("1.jpg", "1_ann.mat", "50_ann.mat")

    def __init__(self, root: str | Path, *, fold: int = 0):
        if isinstance(fold, bool) or fold not in range(len(FOLDS)):
            raise InputError(f"fold is {fold!r}, expected a whole number from 0 to 4")
        self.fold = int(fold)
        super().__init__(root)

    def find(self, split: str) -> Listing:
        test, every = FOLDS[self.fold], [n for fold in FOLDS for n in fold]
        train = [n for n in every if n not in test]
        wanted = {"train": train, "test": test, "all": sorted(every)}[split]
        images = Files.listed(self.folder, "{}.jpg", ".jpeg")
        strays = [path for name, path in images.items() if name not in map(str, every)]
        return collect(
            map(str, wanted), images, Files.listed(self.folder, "{}_ann.mat"), strays=strays
        )

    def read(self, item: Item) -> Annotation:
        return Annotation(read_mat_points(item.annotation, "annPoints"))

    def describe(self, split: str) -> dict:
        fold = {} if split == "all" else {"fold": self.fold}
        return super().describe(split) | fold


class UcfQnrf(Source):
    """UCF-QNRF (Idrees et al., ECCV 2018); its shorter side is usually brought to between 512 and
    2048 pixels."""

    name = "ucf_qnrf"
    layout = "UCF-QNRF_ECCV18/{Train,Test}/img_<n>.jpg with img_<n>_ann.mat"
    short_side = (512, 2048)
    folders = ("UCF-QNRF_ECCV18", "UCF-QNRF", "UCF_QNRF", "ucf_qnrf")
    marks = ("Train", "Test")

    def find(self, split: str) -> Listing:
        folder = self.folder / split.capitalize()
        return pair(Files.listed(folder, "{}.jpg", ".jpeg"), Files.listed(folder, "{}_ann.mat"))

    def read(self, item: Item) -> Annotation:
        return Annotation(read_mat_points(item.annotation, "annPoints"))


class JhuCrowd(Source):
    """JHU-CROWD++ (Sindagi, Yasarla and Patel, TPAMI 2020); its longer side is usually limited to
    2048 pixels.

    An empty annotation is a place without people. `image_labels.txt` states each image's count.
    """

    name = "jhu"
    splits = ("train", "val", "test")
    layout = "jhu_crowd_v2.0/{train,val,test}/images/<id>.jpg with gt/<id>.txt and image_labels.txt"
    max_side = 2048
    folders = ("jhu_crowd_v2.0", "jhu_crowd", "JHU-CROWD++", "jhu")
    marks = ("train/gt", "val/gt", "test/gt")

    def __init__(self, root: str | Path):
        self._stated: dict[Path, int] = {}
        super().__init__(root)

    def find(self, split: str) -> Listing:
        folder = self.folder / split
        images = Files.listed(folder / "images", "{}.jpg", ".jpeg", ".png")
        labels = folder / "image_labels.txt"  # rows id,count,scene,weather,distractor
        for row in read_lines(labels) if labels.is_file() else []:
            name, count = (*row.split(","), "")[:2]
            if name.strip() in images and count.isdecimal():
                self._stated[images[name.strip()]] = int(count)
        return pair(images, Files.listed(folder / "gt", "{}.txt"))

    def read(self, item: Item) -> Annotation:
        rows = read_numbers(item.annotation, "x y w h occlusion blur")
        points = as_points(rows[:, :2], str(item.annotation))
        return Annotation(points, stated=self._stated.get(item.image))


class NwpuCrowd(Source):
    """NWPU-Crowd (Wang et al., TPAMI 2021). The people of the test split are not published: its
    images have no annotation.

    Images are of up to 19,044 pixels; as in the benchmark's own code, the longer side is usually
    limited to 2048.
    """

    name = "nwpu"
    splits = ("train", "val", "test")
    layout = (
        "NWPU-Crowd/images/<id>.jpg (or images_part*/<id>.jpg) with mats/<id>.mat or "
        "jsons/<id>.json, and train.txt, val.txt, test.txt"
    )
    max_side = 2048
    folders = ("NWPU-Crowd", "NWPU", "nwpu")
    marks = ("train.txt", "val.txt", "test.txt")

    def find(self, split: str) -> Listing:
        home = self.folder
        images = Files(home / "images", "{}.jpg", {})
        for folder in (images.folder, *sorted(home.glob("images_part*"))):
            images |= list_files(folder, ".jpg", ".jpeg") if folder.is_dir() else {}
        truth = Files(home / "mats", "{}.mat", {})
        for kind, suffix in (("jsons", ".json"), ("mats", ".mat")):  # .mat goes before
            truth |= list_files(home / kind, suffix) if (home / kind).is_dir() else {}
        kinds = [images] if split == "test" else [images, truth]
        strays = [path for name, path in truth.items() if name not in images]
        return collect(read_names(home / f"{split}.txt"), *kinds, strays=strays)

    def read(self, item: Item) -> Annotation:
        path = item.annotation
        if path.suffix.lower() == ".mat":
            return Annotation(read_mat_points(path, "annPoints"))
        content = read_json(path)
        if not isinstance(content, dict) or "points" not in content:
            raise InputError(f"{path}: expected a JSON object with the key points")
        return Annotation(json_points(content["points"], f"{path}: points"))


LISTS = {"train": "training", "val": "validation", "trainval": "trainval", "test": "test"}


class Trancos(Source):
    """TRANCOS (Guerrero-Gómez-Olmedo et al., IbPRIA 2015): vehicles in traffic jams instead of
    people, counted inside a mask (the variable BW).

    The coordinates in the files count from 1; here, as everywhere, from 0: 1 is taken off. "train"
    and "val" together are "trainval", on which results are usually trained.
    """

    name = "trancos"
    splits = tuple(LISTS)
    parts = ("train", "val", "test")
    layout = (
        "TRANCOS_v3/images/image-<a>-<b>.jpg with image-<a>-<b>.txt and image-<a>-<b>mask.mat, and "
        "image_sets/{training,validation,trainval,test}.txt"
    )
    folders = ("TRANCOS_v3", "TRANCOS", "trancos")
    marks = ("image_sets",)

    def find(self, split: str) -> Listing:
        names = read_names(self.folder / "image_sets" / f"{LISTS[split]}.txt")
        kinds = ("{}.jpg", "{}.txt", "{}mask.mat")
        return collect(names, *(Files.listed(self.folder / "images", kind) for kind in kinds))

    def read(self, item: Item) -> Annotation:
        points = read_numbers(item.annotation, "x y") - 1
        variables = read_mat(item.mask)
        mask = variables.get("BW")
        if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "biuf" or mask.ndim != 2:
            raise InputError(
                f"{item.mask}: expected BW [H, W], found variables {sorted(variables)}"
            )
        return Annotation(as_points(points, str(item.annotation)), mask != 0)
