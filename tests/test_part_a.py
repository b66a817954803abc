"""The real ShanghaiTech part A, where it is at hand."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import hmode
from hmode.data import true_counts

PLACES = [
    *filter(None, [os.environ.get("HMODE_DATA")]),
    Path(__file__).resolve().parents[1].parent / "shared" / "data",
]
ROOT = next(
    (
        root
        for root in map(Path, PLACES)
        for part in ("part_A", "part_A_final", "ShanghaiTech/part_A", "ShanghaiTech/part_A_final")
        if (root / part).is_dir()
    ),
    None,
)
pytestmark = pytest.mark.skipif(
    ROOT is None, reason="ShanghaiTech part A is not there: set HMODE_DATA to the folder it is in"
)


@pytest.fixture(scope="module")
def parts():
    return {split: hmode.open_dataset("sha", ROOT, split) for split in ("train", "test")}


def test_images_and_people(parts):
    """The files hold 241,275 people; the published total is 241,677."""
    assert {split: len(part) for split, part in parts.items()} == {"train": 300, "test": 182}
    counts = {split: true_counts(part) for split, part in parts.items()}
    assert {split: int(each.sum()) for split, each in counts.items()} == {
        "train": 162_413,
        "test": 78_862,
    }
    assert all((each > 0).all() for each in counts.values())


def test_images_are_in_natural_order(parts):
    for part in parts.values():
        names = [item.name for item in part.items]
        assert names == [f"IMG_{n}" for n in range(1, len(part) + 1)]


def test_one_test_image_is_in_the_training_set(parts):
    """Byte for byte, but annotated twice: 156 people the first time, 153 the second."""
    train, test = parts["train"], parts["test"]
    assert train.items[120].image.read_bytes() == test.items[97].image.read_bytes()
    assert torch.equal(train[120].image, test[97].image)
    assert (train[120].name, test[97].name) == ("IMG_121", "IMG_98")
    assert (train[120].count, test[97].count) == (156, 153)


@pytest.mark.parametrize(("split", "index"), [("train", 0), ("train", 299), ("test", 100)])
def test_a_density_map_sums_to_the_people_in_the_frame(parts, split, index):
    sample = parts[split][index]
    height, width = sample.size
    x, y = sample.points.numpy().T
    inside = np.sum((x >= 0) & (x < width) & (y >= 0) & (y < height))
    assert inside > 0.99 * sample.count
    density = hmode.density_map(sample.points, sample.size)
    assert density.sum().item() == pytest.approx(inside, rel=1e-5)


def test_some_photographs_are_grey_and_all_are_rgb(parts):
    grey = []
    for index in range(0, 300, 15):
        image = parts["train"][index].image
        assert image.shape[0] == 3
        grey.append(bool((image[0] == image[1]).all() and (image[0] == image[2]).all()))
    assert not all(grey)


def test_scaled_down_the_people_stay_where_they_were(parts):
    small = hmode.open_dataset("sha", ROOT, "test", max_side=256)[3]
    full = parts["test"][3]
    assert max(small.size) == 256
    assert small.count == full.count
    relative = small.points / torch.tensor(small.size[::-1])
    torch.testing.assert_close(relative, full.points / torch.tensor(full.size[::-1]))
