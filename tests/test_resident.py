"""Data sets whose images stay decoded: the same images, each read as seldom as it can be."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import crowd, crowds

import hmode
from hmode.data import Resident
from hmode.data.registry import describe, true_counts
from hmode.errors import InputError

PIXELS = 3 * 64 * 64  # bytes of an image
GIB = 2**30


class Counting:
    """Remembers which images were read."""

    def __init__(self, dataset):
        self.dataset, self.read = dataset, []

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        self.read.append(index)
        return self.dataset[index]


@pytest.mark.parametrize(("room", "kept"), [(0, 0), (2.5 * PIXELS, 2), (4 * PIXELS, 4)])
def test_what_fits_is_read_once(room, kept):
    source = Counting(crowds([3, 0, 8, 5]))
    images = Resident(source, memory=room / GIB)
    assert sorted(source.read) == [0, 1, 2, 3]
    assert images.complete is (kept == 4)
    for i in range(4):
        sample = images[i]
        assert torch.equal(sample.image, source.dataset[i].image)
        assert torch.equal(sample.points, source.dataset[i].points)
    assert sorted(source.read[4:]) == list(range(kept, 4))


def test_what_it_says_of_them():
    strange = replace(crowd(0, name="strange"), annotated=False)
    mask = torch.ones(70, 66, dtype=torch.bool)
    images = Resident([crowd(3), replace(crowd(7, (70, 66)), mask=mask), strange])
    assert len(images) == 3
    assert images.sizes.tolist() == [[64, 64], [70, 66], [64, 64]]
    assert [len(points) for points in images.points] == [3, 7, 0]
    assert images.masked
    assert images.unknown == ["strange"]
    assert images[1].mask is mask


def test_it_is_described_and_counted_as_the_data_set():
    dataset = hmode.open_dataset("synthetic", length=3, size=64)
    for memory in (None, 0):
        images = Resident(dataset, memory=memory)
        assert describe(images) == describe(dataset)
        assert true_counts(images).tolist() == [dataset[i].count for i in range(3)]


def test_an_empty_data_set():
    assert len(Resident([])) == 0
    assert Resident([]).complete


@pytest.mark.parametrize("memory", [-1, float("nan")])
def test_an_impossible_memory(memory):
    with pytest.raises(InputError, match=r"memory is .*, expected a number of GiB"):
        Resident(crowds([1]), memory=memory)


def test_a_damaged_file_is_found_at_once(tiny_sha, tmp_path):
    shutil.copytree(tiny_sha, tmp_path / "data")
    (tmp_path / "data/part_A/train_data/images/IMG_3.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"IMG_3\.jpg"):
        Resident(hmode.open_dataset("sha", tmp_path / "data", "train"))


def test_synthetic_people_are_counted_without_drawing():
    dataset = hmode.open_dataset("synthetic", length=6, size=64)
    assert [dataset.count_people(i) for i in range(-6, 6)] == [
        dataset[i].count for i in range(-6, 6)
    ]
    with pytest.raises(IndexError):
        dataset.count_people(6)
    assert np.ptp(true_counts(dataset)) > 0
