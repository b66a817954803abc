"""One split of a data set on disk, as a sequence that decodes an image when it is asked for."""

import operator
import os
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from hashlib import file_digest, sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hmode.data.formats import one_line
from hmode.data.source import Annotation, Item, Listing, Source
from hmode.errors import InputError, MissingFileError
from hmode.method.image import CrowdImage
from hmode.metrics.regions import people_in

# No small image is enlarged beyond this: 2^27 RGB pixels are 400 MB.
MOST_PIXELS = 2**27
MANY = 10  # points that do not all lie in one corner by chance

_fingerprints: dict[tuple, bytes] = {}  # of files as they were, by their times and sizes


class AnnotatedImages(Sequence):
    """One split of a data set on disk; an image is decoded each time it is asked for.

    Coordinates are taken as they are; grey photographs become RGB; duplicate points are people.

    Args:
        source: the data set.
        split: one of `source.splits`.
        max_side: scale images down so that the longer side has at most so many pixels, the points
            and the mask with them; None: no limit; "usual": the customary one of the data set.
        short_side: (least, most) pixels of the shorter side, each None for no limit; smaller
            images are scaled up, larger ones down. `max_side` has the last word.

    Raises:
        InputError: an option is not one of those; on access, a file cannot be read,
            or was changed since it was first.
        MissingFileError: a folder, an image or an annotation is not there.

    Warns:
        an annotation has no image; on access, most of an image's points lie outside of it, or they
        are not as many as the data set states.
    """

    def __init__(
        self,
        source: Source,
        split: str = "train",
        *,
        max_side: int | str | None = "usual",
        short_side: tuple[int | None, int | None] | str | None = "usual",
    ):
        if split not in source.splits:
            raise InputError(f"split is {split!r}, expected one of {source.splits}")
        self.source, self.split = source, split
        self.max_side = source.max_side if max_side == "usual" else max_side
        self.short_side = source.short_side if short_side == "usual" else short_side
        _check_limits(self.max_side, self.short_side)
        try:
            listing = source.find(split)
        except MissingFileError as error:
            raise MissingFileError(f"{error}; expected {source.layout}") from None
        self.items = _complete(listing, f"{source.folder} ({split})", source.layout)
        self._read: dict[Path, tuple] = {}  # files met so far, and how they were

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> CrowdImage:
        item = self.items[operator.index(index)]
        self._check_unchanged(item)
        image = self.source.read_image(item)
        fitted = self._fitted(item, image.size)
        points, mask = np.zeros((0, 2), np.float32), None
        if item.annotation is not None:
            points, mask = self._scaled(item, self.source.read(item), image.size, fitted)
        if fitted != image.size:
            image = image.resize(fitted, Image.Resampling.LANCZOS)
        return CrowdImage(
            torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous(),
            torch.from_numpy(points),
            name=item.name,
            mask=None if mask is None else torch.from_numpy(mask),
            annotated=item.annotation is not None,
        )

    def count_people(self, index: int) -> int:
        """Annotated people in one image, inside the mask where there is one; decodes no image.

        Raises:
            InputError: its annotation is not published, or cannot be read.
        """
        item = self.items[operator.index(index)]
        if item.annotation is None:
            raise InputError(f"{item.name}: its annotation is not published")
        found = self.source.read(item)
        if found.mask is None:
            return len(found.points)
        size = found.mask.shape[::-1]
        points, mask = self._scaled(item, found, size, self._fitted(item, size))
        return int(people_in(torch.from_numpy(mask), torch.from_numpy(points)).sum())

    def describe(self) -> dict:
        """What this is, for a run's configuration."""
        limits = {"max_side": self.max_side}
        if self.short_side is not None:
            limits["short_side"] = list(self.short_side)
        return {**self.source.describe(self.split), "images": len(self), **limits}

    def fingerprint(self, index: int) -> bytes:
        """A hash of one image: its name, the bytes of its file and its mask's, its points as read.

        Raises:
            InputError: a file cannot be read.
        """
        item = self.items[operator.index(index)]
        files = [path for path in (item.image, item.annotation, item.mask) if path is not None]
        try:
            states = [(found.st_size, found.st_mtime_ns) for found in map(os.stat, files)]
            key = (self.source.name, item, *states)
            if key not in _fingerprints:
                found = sha256(unicodedata.normalize("NFC", item.name).encode())
                for path in (item.image, item.mask):
                    found.update(b"none" if path is None else _bytes_digest(path))
                if item.annotation is not None:
                    found.update(self.source.read(item).points.astype("<f4").tobytes())
                _fingerprints[key] = found.digest()
        except OSError as error:
            if isinstance(error, MissingFileError):
                raise
            raise InputError(f"{item.image}: cannot be read: {one_line(error)}") from None
        return _fingerprints[key]

    def _check_unchanged(self, item: Item) -> None:
        """Another file under the same name, half-way through a training, is an error."""
        for path in filter(None, (item.image, item.annotation, item.mask)):
            if path.is_file():
                now = path.stat().st_size, path.stat().st_mtime_ns
                if self._read.setdefault(path, now) != now:
                    raise InputError(f"{path}: changed since it was first read; start again")

    def _scaled(self, item: Item, found: Annotation, size, fitted) -> tuple:
        """Points and mask of an image of (width, height) pixels, scaled to another size."""
        points, mask = found.points, found.mask
        for doubt in doubts(found, size):
            warnings.warn(f"{item.annotation}: {item.name}: {doubt}", stacklevel=4)
        if mask is not None:
            if mask.shape[::-1] != size:
                raise InputError(
                    f"{item.mask}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, "
                    f"its image {size[0]} x {size[1]}"
                )
            mask = np.array(Image.fromarray(mask).resize(fitted, Image.Resampling.NEAREST))
        return scale_points(points, size, fitted), mask

    def _fitted(self, item: Item, size: tuple[int, int]) -> tuple[int, int]:
        fitted = fitted_size(size, self.max_side, self.short_side)
        if fitted[0] * fitted[1] > max(size[0] * size[1], MOST_PIXELS):
            raise InputError(
                f"{item.image}: {size[0]} x {size[1]} pixels would be enlarged to {fitted[0]} x "
                f"{fitted[1]} by short_side={self.short_side}; set max_side too"
            )
        return fitted


def fitted_size(size, max_side: int | None, short_side: tuple | None) -> tuple[int, int]:
    """(width, height) of an image scaled, its shape kept, to the limits of `AnnotatedImages`."""
    short, scale = min(size), 1.0
    least, most = short_side or (None, None)
    if least is not None and short < least:
        scale = least / short
    elif most is not None and short > most:
        scale = most / short
    if max_side is not None:
        scale = min(scale, max_side / max(size))
    return tuple(max(1, round(side * scale)) for side in size) if scale != 1 else tuple(size)


def scale_points(points: np.ndarray, size, fitted) -> np.ndarray:
    """Points `[N, 2]` of an image of (width, height) pixels on the same image scaled to another.

    Who is inside the frame stays inside, and who is outside, outside.
    """
    if tuple(size) == tuple(fitted):
        return points
    scaled = (points.astype(float) * fitted / size).astype(np.float32)
    below = np.nextafter(np.array(fitted, dtype=np.float32), np.float32(0))
    return np.where(inside_frame(points, size)[:, None], np.minimum(scaled, below), scaled)


def inside_frame(points: np.ndarray, size) -> np.ndarray:
    """`[N]`, bool: which points lie inside an image of (width, height) pixels."""
    return ((points >= 0) & (points < size)).all(axis=1)


def doubts(annotation: Annotation, size) -> list[str]:
    """What looks wrong with the annotation of an image of (width, height) pixels."""
    points, stated = annotation.points, annotation.stated
    inside = inside_frame(points, size)
    outside, repeated = int((~inside).sum()), len(points) - len(np.unique(points, axis=0))
    found = []
    if 2 * outside > len(points):
        swapped = bool(2 * inside_frame(points[:, ::-1], size).sum() > len(points))
        found.append(
            f"{outside} of {len(points)} points lie outside the frame of {size[0]} x {size[1]} "
            "pixels" + swapped * "; most would be inside if they were given as (y, x), or on a "
            "photograph as it is stored, not turned upright"
        )
    elif len(points) and points.max() <= 1 < min(size):
        found.append(
            f"x and y of all {len(points)} points lie in 0 to 1: pixels in the corner, or "
            'fractions of width and height? If so, say units="fractions" (or in hmode.json)'
        )
    elif len(points) >= MANY and points.max() <= 100 and min(size) >= 400:
        found.append(
            f"x and y of all {len(points)} points lie in 0 to 100, the image has {size[0]} x "
            f'{size[1]} pixels: are they per cent? If so, say units="percent" (or in hmode.json)'
        )
    elif len(points) > 1 and 2 * repeated >= len(points):
        found.append(f"{repeated} of {len(points)} points repeat another: written twice?")
    if stated not in (None, len(points)):
        found.append(f"{len(points)} points, but the data set states {stated}")
    return found


def _bytes_digest(path) -> bytes:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").digest()


def _complete(listing: Listing, where: str, layout: str) -> list[Item]:
    """The items of a listing from which nothing is missing."""
    if listing.missing:
        raise MissingFileError(
            f"{listing.missing[0]}: not there{_more(listing.missing)}; expected {layout}"
        )
    if not listing.items:
        raise MissingFileError(f"{where}: no images; expected {layout}")
    if listing.strays:
        warnings.warn(
            f"{where}: {listing.strays[0]}{_more(listing.strays)} belongs to no image of a split",
            stacklevel=4,
        )
    return listing.items


def _more(files: list) -> str:
    return f" (and {len(files) - 1} more)" if len(files) > 1 else ""


def _check_limits(max_side, short_side) -> None:
    def positive(value) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    if max_side is not None and not positive(max_side):
        raise InputError(f"max_side is {max_side!r}, expected None or a positive number of pixels")
    if short_side is None:
        return
    limits = tuple(short_side) if isinstance(short_side, Iterable) else ()
    given = [limit for limit in limits if limit is not None]
    if len(limits) != 2 or not all(map(positive, given)) or given != sorted(given):
        raise InputError(
            f"short_side is {short_side!r}, expected None or (least, most) pixels, each may be None"
        )
