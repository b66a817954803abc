"""Data sets by name, and the held-out part of a training set."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hmode.data.sample import CrowdImage
from hmode.data.shanghaitech import ShanghaiTech
from hmode.data.synthetic import SyntheticCrowd
from hmode.errors import InputError

READERS = {
    "synthetic": lambda root, split, **options: SyntheticCrowd(split=split, **options),
    "sha": lambda root, split, **options: ShanghaiTech("A", root, split, **options),
    "shb": lambda root, split, **options: ShanghaiTech("B", root, split, **options),
}


def open_dataset(
    name: str, root: str | Path | None = None, split: str = "train", **options
) -> Sequence[CrowdImage]:
    """A data set's split as a sequence of `CrowdImage`s.

    Args:
        name: "synthetic" (made on the fly), "sha" or "shb" (ShanghaiTech A, B).
        root: the folder that holds real data sets; None: the environment variable HMODE_DATA,
            else `data/`.
        split: "train" or "test"; "synthetic" has "val" too.
        options: of the reader: `SyntheticCrowd` (seed, length, size), `ShanghaiTech` (max_side).

    Raises:
        InputError: name, split or option is unknown.
        MissingFileError: the data are not there.
    """
    if name not in READERS:
        raise InputError(f"data set {name!r} is unknown, expected one of {sorted(READERS)}")
    if root is None:
        root = os.environ.get("HMODE_DATA") or "data"
    try:
        return READERS[name](Path(root), split, **options)
    except TypeError as error:
        raise InputError(f"data set {name!r} does not take these options: {error}") from None


class Selection(Sequence):
    """Some of a data set's images, in the order given."""

    def __init__(self, dataset: Sequence[CrowdImage], indices: Sequence[int]):
        self.dataset, self.indices = dataset, [int(i) for i in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> CrowdImage:
        return self.dataset[self.indices[index]]

    def describe(self) -> dict:
        """What this is, for a run's configuration."""
        return {**describe(self.dataset), "selected": self.indices}

    def count_people(self, index: int) -> int:
        """Annotated people in one image, without decoding it where the data set can."""
        return count_people(self.dataset, self.indices[index])


def hold_out(
    dataset: Sequence[CrowdImage], *, fraction: float = 0.1, seed: int = 0
) -> tuple[Selection, Selection]:
    """Split a training set at random into the part to train on and the part to select on.

    Returns:
        (train, validation), each with at least one image, validation with about `fraction` of them.

    Raises:
        InputError: there are fewer than two images, or fraction is not in (0, 1).
    """
    if len(dataset) < 2 or not 0 < fraction < 1:
        raise InputError(f"cannot hold out {fraction} of {len(dataset)} images")
    order = np.random.default_rng(seed).permutation(len(dataset))
    held = min(max(1, round(fraction * len(dataset))), len(dataset) - 1)
    return Selection(dataset, sorted(order[held:])), Selection(dataset, sorted(order[:held]))


def describe(dataset: Sequence[CrowdImage]) -> dict:
    """A data set's own description, or its type and length."""
    if hasattr(dataset, "describe"):
        return dataset.describe()
    return {"name": type(dataset).__name__, "images": len(dataset)}


def count_people(dataset: Sequence[CrowdImage], index: int) -> int:
    """Annotated people in one image, without decoding it where the data set can."""
    if hasattr(dataset, "count_people"):
        return dataset.count_people(index)
    return dataset[index].count


def true_counts(dataset: Sequence[CrowdImage]) -> np.ndarray:
    """`[n]`, annotated people in each image."""
    return np.array([count_people(dataset, i) for i in range(len(dataset))], dtype=float)
