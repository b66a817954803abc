"""Where the files of a data set lie: what the readers of all real data sets are made of."""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hmode.data.formats import one_line
from hmode.data.pictures import read_image
from hmode.errors import InputError, MissingFileError


@dataclass(frozen=True)
class Item:
    """The files of one image; `annotation` is None where none is published."""

    name: str
    image: Path
    annotation: Path | None = None
    mask: Path | None = None


@dataclass(frozen=True)
class Listing:
    """The files of one split.

    Attributes:
        items: the images that have all their files, in the split's order.
        missing: files that should be there and are not, or what else is lacking, in words.
        strays: annotations without an image, and images that are in no split.
    """

    items: list[Item]
    missing: list[Path | str]
    strays: list[Path]


class Source:
    """Where the files of a data set lie and how its points are read; base of all real data sets.

    Attributes:
        name: as `open_dataset` knows it.
        splits: as published.
        parts: the splits that together hold every image once.
        layout: how the files must lie.
        max_side, short_side: the customary limits of size, see `AnnotatedImages`.
        folders: names that the data set's own folder goes by, below the root.
        marks: what is in that folder; one of them is enough.

    Args:
        root: the data set's own folder, or one that it lies in.

    Raises:
        MissingFileError: the data set is not there.
    """

    name: str
    splits: tuple[str, ...] = ("train", "test")
    layout: str
    max_side: int | None = None
    short_side: tuple[int | None, int | None] | None = None
    folders: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    def __init__(self, root: str | Path):
        self.folder = self._locate(Path(root))

    @property
    def parts(self) -> tuple[str, ...]:
        return self.splits

    def find(self, split: str) -> Listing:
        """The files of a split, by their names alone: nothing is opened but lists of names.

        Raises:
            MissingFileError: a folder or a list is not there.
        """
        raise NotImplementedError

    def read_image(self, item: Item) -> Image.Image:
        """The decoded image, on whose pixels the points are given: as they are stored, without
        the rotation that a camera may have noted (EXIF).

        Raises:
            InputError: it cannot be read.
        """
        return read_image(item.image)

    def read_points(self, item: Item) -> np.ndarray:
        """float32 `[N, 2]`, (x, y) in pixels.

        Raises:
            InputError: the annotation cannot be read.
        """
        raise NotImplementedError

    def read_mask(self, item: Item) -> np.ndarray | None:
        """bool `[H, W]`, True where people are counted; None where that is everywhere."""
        return None

    def stated_count(self, item: Item) -> int | None:
        """How many people the data set says there are, where it says that beside the points."""
        return None

    def describe(self, split: str) -> dict:
        """What identifies a split of this data set."""
        return {"name": self.name, "split": split}

    def _candidates(self, root: Path) -> list[Path]:
        return [root, *(root / name for name in self.folders)]

    def _locate(self, root: Path) -> Path:
        if not root.is_dir():
            raise MissingFileError(
                f"{root}: no such data folder; give --data-root, or set HMODE_DATA"
            )
        try:
            for folder in self._candidates(root):
                if any((folder / mark).exists() for mark in self.marks):
                    return folder
            found = sorted(name for name in os.listdir(root) if not name.startswith("."))[:8]
        except OSError as error:
            raise InputError(f"{root}: cannot be looked into: {one_line(error)}") from None
        raise MissingFileError(
            f"{root}: no data set {self.name!r} here or in {' or '.join(self.folders[:2])}; "
            f"expected {self.layout}; found {found or 'nothing'}"
        )


def list_files(folder: Path, *suffixes: str) -> dict[str, Path]:
    """The files of a folder with one of the suffixes, {stem: path}, img_2 before img_10.

    Suffixes match in any case; hidden files are left out.

    Raises:
        MissingFileError: the folder is not there.
        InputError: it cannot be read, or holds two files that differ in the suffix alone.
    """
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except FileNotFoundError:
        raise MissingFileError(f"{folder}: no such folder") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {one_line(error)}") from None
    found: dict[str, Path] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes and not hidden(name):
            if stem in found:
                raise InputError(f"{folder}: both {found[stem].name} and {name}; which is meant?")
            found[stem] = folder / name
    return {stem: found[stem] for stem in sorted(found, key=natural)}


def hidden(name: str) -> bool:
    """Whether a file is one that systems leave behind: copies made on a Mac hold "._IMG_1.jpg"
    beside "IMG_1.jpg"."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


def collect(
    names: Iterable[str], *kinds: tuple[dict[str, Path], Callable[[str], Path | str]], strays=()
) -> Listing:
    """The listing of the images named, in that order.

    Args:
        names: of the images.
        kinds: for the fields image, annotation and mask of an `Item`: the files there are,
            {name: path}, and where a name's file belongs.
        strays: files that belong to no image.
    """
    names = list(names)
    whole = [name for name in names if all(name in found for found, _ in kinds)]
    return Listing(
        [Item(name, *(found[name] for found, _ in kinds)) for name in whole],
        [place(name) for name in names for found, place in kinds if name not in found],
        list(strays),
    )


def pair(
    images: dict[str, Path], annotations: dict[str, Path], place: Callable[[str], Path | str]
) -> Listing:
    """The listing of a folder's images with the annotations of the same names."""
    strays = [path for name, path in annotations.items() if name not in images]
    return collect(images, (images, images.get), (annotations, place), strays=strays)


def natural(name: str) -> tuple:
    """A key that sorts numbers in names by their value: img_2 before img_10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
