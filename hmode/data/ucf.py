"""UCF_CC_50 (Idrees et al., CVPR 2013) and UCF-QNRF (Idrees et al., ECCV 2018)."""

from pathlib import Path

import numpy as np

from hmode.data.mat import read_mat_points
from hmode.data.source import Item, Listing, Source, collect, list_files, pair
from hmode.errors import InputError

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
    """UCF_CC_50: 50 grey images, evaluated by five-fold cross-validation.

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
        wanted = [n for i, fold in enumerate(FOLDS) for n in fold if self._takes(split, i)]
        if split == "all":
            wanted = sorted(wanted)
        images = list_files(self.folder, ".jpg", ".jpeg")
        known = {str(n) for fold in FOLDS for n in fold}
        return collect(
            map(str, wanted),
            (images, lambda name: self.folder / f"{name}.jpg"),
            (_annotations(self.folder), lambda name: self.folder / f"{name}_ann.mat"),
            strays=[path for name, path in images.items() if name not in known],
        )

    def read_points(self, item: Item) -> np.ndarray:
        return read_mat_points(item.annotation, "annPoints")

    def describe(self, split: str) -> dict:
        fold = {} if split == "all" else {"fold": self.fold}
        return super().describe(split) | fold

    def _takes(self, split: str, fold: int) -> bool:
        return split == "all" or (split == "test") == (fold == self.fold)


class UcfQnrf(Source):
    """UCF-QNRF; its shorter side is usually brought to between 512 and 2048 pixels."""

    name = "ucf_qnrf"
    layout = "UCF-QNRF_ECCV18/{Train,Test}/img_<n>.jpg with img_<n>_ann.mat"
    short_side = (512, 2048)
    folders = ("UCF-QNRF_ECCV18", "UCF-QNRF", "UCF_QNRF", "ucf_qnrf")
    marks = ("Train", "Test")

    def find(self, split: str) -> Listing:
        folder = self.folder / split.capitalize()
        images = list_files(folder, ".jpg", ".jpeg")
        return pair(images, _annotations(folder), lambda name: folder / f"{name}_ann.mat")

    def read_points(self, item: Item) -> np.ndarray:
        return read_mat_points(item.annotation, "annPoints")


def _annotations(folder: Path) -> dict[str, Path]:
    """{"img_0001": …/img_0001_ann.mat, …}"""
    files = list_files(folder, ".mat")
    return {stem.removesuffix("_ann"): path for stem, path in files.items()}
