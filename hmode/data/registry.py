"""Data sets by name, and the held-out part of a training set."""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from pathlib import Path

import numpy as np

from hmode.data import published
from hmode.data.annotated import AnnotatedImages
from hmode.data.folder import Folder
from hmode.data.scales import OrderCrowd, ScalesCrowd
from hmode.data.source import Source
from hmode.data.synthetic import SyntheticCrowd
from hmode.errors import InputError
from hmode.method.image import CrowdImage

SOURCES: dict[str, Callable[..., Source]] = {
    "sha": partial(published.ShanghaiTech, "A"),
    "shb": partial(published.ShanghaiTech, "B"),
    "ucf_cc_50": published.UcfCc50,
    "ucf_qnrf": published.UcfQnrf,
    "jhu": published.JhuCrowd,
    "nwpu": published.NwpuCrowd,
    "trancos": published.Trancos,
    "rgbd": published.ShanghaiTechRGBD,
    "folder": Folder,
}
DRAWN = {each.name: each for each in (SyntheticCrowd, ScalesCrowd, OrderCrowd)}  # on the fly
DATASETS = (*DRAWN, *SOURCES)


def open_dataset(
    name: str, root: str | Path | None = None, split: str = "train", **options
) -> Sequence[CrowdImage]:
    """A data set's split as a sequence of `CrowdImage`s, which are decoded when asked for.

    Args:
        name: one of `DATASETS`: "synthetic", "scales" or "order" (drawn on the fly), "folder"
            (your own photographs, see `Folder`), or a published one, see `hmode data list`.
        root: the folder that holds real data sets; None: the environment variable HMODE_DATA,
            else `data/`.
        split: "train" or "test"; "val" for jhu, nwpu, trancos and those drawn on the fly;
            "trainval" for trancos; "all" for ucf_cc_50 and folder.
        options: of real data sets, `max_side` and `short_side` (`AnnotatedImages`), `fold` of
            ucf_cc_50 (0 to 4), `annotations` of folder; of those drawn on the fly, `seed`,
            `length` and `size`.

    Raises:
        InputError: name, split or option is unknown.
        MissingFileError: the data are not there.
    """
    if name in DRAWN:
        _check_options(name, DRAWN[name], options)
        return DRAWN[name](split=split, **options)
    limits = {key: options.pop(key) for key in ("max_side", "short_side") if key in options}
    return AnnotatedImages(open_source(name, root, **options), split, **limits)


def open_source(name: str, root: str | Path | None = None, **options) -> Source:
    """A real data set with all its splits: where its files lie, how its points are read.

    Args:
        name, root, options: as for `open_dataset`, but for the limits of size.

    Raises:
        InputError: name or option is unknown.
        MissingFileError: the data are not there.
    """
    if name in DRAWN:
        raise InputError(f"data set {name!r} is drawn on the fly, it has no files")
    if name not in SOURCES:
        raise InputError(f"data set {name!r} is unknown, expected one of {DATASETS}")
    _check_options(name, SOURCES[name], options, "max_side", "short_side")
    return SOURCES[name](Path(root or os.environ.get("HMODE_DATA") or "data"), **options)


def layout(name: str) -> str:
    """How the files of a real data set must lie."""
    reader = SOURCES[name]
    return getattr(reader, "func", reader).layout


def _check_options(name: str, reader: Callable, options: dict, *more: str) -> None:
    keywords = [p.name for p in signature(reader).parameters.values() if p.kind is p.KEYWORD_ONLY]
    allowed = sorted({*keywords, *more} - {"split"})
    for option in options:
        if option not in allowed:
            raise InputError(f"data set {name!r} does not take {option!r}, only {allowed}")


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

    def fingerprint(self, index: int) -> bytes | None:
        """A hash of one image, see `identify`."""
        return fingerprint(self.dataset, self.indices[index])

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


def identify(dataset: Sequence[CrowdImage]) -> dict:
    """A data set's description with a digest of its images, so that no others pass for them.

    The digest is of names, image files, points and masks: the same on any machine, wherever the
    files lie and whenever they were written. Images that are drawn need none. For part A of
    ShanghaiTech it takes half a second; what was not changed is not read again by this process.
    """
    found = [fingerprint(dataset, i) for i in range(len(dataset))]
    if None in found:
        return describe(dataset)
    return describe(dataset) | {"digest": hashlib.sha256(b"".join(found)).hexdigest()[:16]}


def fingerprint(dataset: Sequence[CrowdImage], index: int) -> bytes | None:
    """A hash of one image and its annotation; None where it is drawn from its description."""
    if hasattr(dataset, "fingerprint"):
        return dataset.fingerprint(index)
    return dataset[index].fingerprint()


def count_people(dataset: Sequence[CrowdImage], index: int) -> int:
    """Annotated people in one image, without decoding it where the data set can."""
    if hasattr(dataset, "count_people"):
        return dataset.count_people(index)
    return dataset[index].count


def true_counts(dataset: Sequence[CrowdImage]) -> np.ndarray:
    """`[n]`, annotated people in each image."""
    return np.array([count_people(dataset, i) for i in range(len(dataset))], dtype=float)
