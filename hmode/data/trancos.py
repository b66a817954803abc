"""TRANCOS: vehicles in traffic jams (Guerrero-Gómez-Olmedo et al., IbPRIA 2015)."""

import numpy as np

from hmode.data.formats import as_points, read_names, read_numbers
from hmode.data.mat import read_mat
from hmode.data.source import Item, Listing, Source, collect, list_files
from hmode.errors import InputError

LISTS = {"train": "training", "val": "validation", "trainval": "trainval", "test": "test"}


class Trancos(Source):
    """TRANCOS: vehicles instead of people, counted inside a mask (the variable BW).

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
        folder = self.folder / "images"
        masks = {
            stem.removesuffix("mask"): path for stem, path in list_files(folder, ".mat").items()
        }
        return collect(
            read_names(self.folder / "image_sets" / f"{LISTS[split]}.txt"),
            (list_files(folder, ".jpg"), lambda name: folder / f"{name}.jpg"),
            (list_files(folder, ".txt"), lambda name: folder / f"{name}.txt"),
            (masks, lambda name: folder / f"{name}mask.mat"),
        )

    def read_points(self, item: Item) -> np.ndarray:
        return as_points(read_numbers(item.annotation, "x y") - 1, str(item.annotation))

    def read_mask(self, item: Item) -> np.ndarray:
        variables = read_mat(item.mask)
        mask = variables.get("BW")
        if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "biuf" or mask.ndim != 2:
            raise InputError(
                f"{item.mask}: expected BW [H, W], found variables {sorted(variables)}"
            )
        return mask != 0
