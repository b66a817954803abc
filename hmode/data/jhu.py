"""JHU-CROWD++ (Sindagi, Yasarla and Patel, TPAMI 2020)."""

from pathlib import Path

import numpy as np

from hmode.data.formats import as_points, read_lines, read_numbers
from hmode.data.source import Item, Listing, Source, list_files, pair


class JhuCrowd(Source):
    """JHU-CROWD++; its longer side is usually limited to 2048 pixels.

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
        images = list_files(folder / "images", ".jpg", ".jpeg", ".png")
        truth = list_files(folder / "gt", ".txt")
        self._stated |= {
            images[name]: count for name, count in _labels(folder).items() if name in images
        }
        return pair(images, truth, lambda name: folder / "gt" / f"{name}.txt")

    def read_points(self, item: Item) -> np.ndarray:
        rows = read_numbers(item.annotation, "x y w h occlusion blur")
        return as_points(rows[:, :2], str(item.annotation))

    def stated_count(self, item: Item) -> int | None:
        return self._stated.get(item.image)


def _labels(folder: Path) -> dict[str, int]:
    """{id: people} of `image_labels.txt`, rows `id,count,scene,weather,distractor`."""
    labels = folder / "image_labels.txt"
    rows = [line.split(",") for line in read_lines(labels)] if labels.is_file() else []
    return {row[0].strip(): int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
