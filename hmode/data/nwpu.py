"""NWPU-Crowd (Wang et al., TPAMI 2021)."""

from pathlib import Path

import numpy as np

from hmode.data.formats import json_points, read_json, read_names
from hmode.data.mat import read_mat_points
from hmode.data.source import Item, Listing, Source, collect, list_files
from hmode.errors import InputError


class NwpuCrowd(Source):
    """NWPU-Crowd. The people of the test split are not published: its images have no annotation.

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
        images: dict[str, Path] = {}
        for folder in (self.folder / "images", *sorted(self.folder.glob("images_part*"))):
            images |= list_files(folder, ".jpg", ".jpeg") if folder.is_dir() else {}
        truth: dict[str, Path] = {}
        for kind, suffix in (("jsons", ".json"), ("mats", ".mat")):  # .mat goes before
            if (self.folder / kind).is_dir():
                truth |= list_files(self.folder / kind, suffix)
        kinds = [(images, lambda name: self.folder / "images" / f"{name}.jpg")]
        if split != "test":
            kinds.append((truth, lambda name: self.folder / "mats" / f"{name}.mat"))
        strays = [path for name, path in truth.items() if name not in images]
        return collect(read_names(self.folder / f"{split}.txt"), *kinds, strays=strays)

    def read_points(self, item: Item) -> np.ndarray:
        if item.annotation.suffix.lower() == ".mat":
            return read_mat_points(item.annotation, "annPoints")
        content = read_json(item.annotation)
        if not isinstance(content, dict) or "points" not in content:
            raise InputError(f"{item.annotation}: expected a JSON object with the key points")
        return json_points(content["points"], f"{item.annotation}: points")
