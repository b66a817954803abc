"""Where the files of a data set lie: what the readers of all real data sets are made of."""

import os
import re
from collections.abc import Iterable
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


@dataclass(frozen=True, eq=False)
class Annotation:
    """What is known of one image.

    Attributes:
        points: float32 `[N, 2]`, (x, y) in pixels.
        mask: bool `[H, W]`, True where people are counted; None where that is everywhere.
        stated: how many people the data set says there are, where it says that beside the points.
    """

    points: np.ndarray
    mask: np.ndarray | None = None
    stated: int | None = None


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

    def read(self, item: Item) -> Annotation:
        """The annotation of an image that has one; its files are read once.

        Raises:
            InputError: it cannot be read.
        """
        raise NotImplementedError

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


class Files(dict[str, Path]):
    """Files by the names of the images that they are or belong to, {name: path}.

    Args:
        folder: where those files should be that are not there.
        pattern: how they are called there: {} is the name, {number} what follows its last "_".
        found: those that are there.
    """

    def __init__(self, folder: Path, pattern: str, found: dict[str, Path]):
        super().__init__(found)
        self.folder, self.pattern = folder, pattern

    def place(self, name: str) -> Path:
        """Where the file of a name belongs."""
        return self.folder / self.pattern.format(name, number=name.rpartition("_")[2])

    @classmethod
    def listed(cls, folder: Path, pattern: str, *suffixes: str) -> "Files":
        """The files of a folder that are called like the pattern, or NAME.SUFFIX.

        Args:
            suffixes: others that will do.

        Raises:
            MissingFileError, InputError: as `list_files`; or two files are of one name.
        """
        before, end = pattern.split("{}")
        after, suffix = os.path.splitext(f"x{end}")
        found = cls(folder, pattern, {})
        for stem, path in list_files(folder, suffix, *suffixes).items():
            name = stem.removeprefix(before).removesuffix(after[1:])
            if found.setdefault(name, path) != path:
                raise InputError(
                    f"{folder}: both {found[name].name} and {path.name}; which is meant?"
                )
        return found


def collect(names: Iterable[str], *kinds: Files, strays=()) -> Listing:
    """The listing of the images named, in that order.

    Args:
        names: of the images.
        kinds: the files for the fields image, annotation and mask of an `Item`.
        strays: files that belong to no image.
    """
    names = list(names)
    whole = [name for name in names if all(name in found for found in kinds)]
    return Listing(
        [Item(name, *(found[name] for found in kinds)) for name in whole],
        [found.place(name) for name in names for found in kinds if name not in found],
        list(strays),
    )


def pair(images: Files, annotations: Files) -> Listing:
    """The listing of a folder's images with the annotations of the same names."""
    strays = [path for name, path in annotations.items() if name not in images]
    return collect(images, images, annotations, strays=strays)


def natural(name: str) -> tuple:
    """A key that sorts numbers in names by their value: img_2 before img_10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
