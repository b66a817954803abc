"""The heads that an annotation says are in one image, and where in its pixels they lie."""

from dataclasses import dataclass, replace

import numpy as np

from hmode.data.formats import as_points
from hmode.errors import InputError

WHOLE = {"pixels": None, "fractions": 1, "percent": 100}


@dataclass(frozen=True, eq=False)
class Heads:
    """What an annotation says of one image.

    Attributes:
        points: `[N, 2]`, (x, y) in `units`.
        size: (width, height) of the image in pixels as the annotation states it, or None.
        labels: what each point is of; () where that is not said.
        units: "pixels"; "fractions" or "percent" of width and height.
    """

    points: np.ndarray
    size: tuple[int, int] | None = None
    labels: tuple[str, ...] = ()
    units: str = "pixels"

    def only(self, label: str) -> "Heads":
        """The heads with a label."""
        kept = [i for i, each in enumerate(self.labels) if each == label]
        return replace(self, points=self.points[kept], labels=(label,) * len(kept))


def stated_size(width, height, where: str) -> tuple[int, int] | None:
    """(width, height) of numbers or digits; None where neither is given.

    Raises:
        InputError: one alone, or no positive whole numbers.
    """
    given = [str(side).strip() for side in (width, height) if side not in (None, "")]
    if not given:
        return None
    if len(given) < 2 or not all(side.isdecimal() and 0 < int(side) < 2**31 for side in given):
        raise InputError(f"{where}: states a size of {width!r} x {height!r}, expected pixels")
    return int(given[0]), int(given[1])


def place(heads: Heads, size, orientation: int, upright: bool, where: str) -> np.ndarray:
    """float32 `[N, 2]`, the points in the pixels of an image that is turned upright or not.

    The size that the annotation states tells whether its points are on the stored pixels or on
    the upright image. Where it does not, they are as the image is to be.

    Args:
        size: (width, height) as stored.
        orientation: EXIF's, 1 to 8.
        upright: whether the image is turned.
        where: the annotation, for errors.

    Raises:
        InputError: the stated size is of neither; or a coordinate is not finite.
    """
    stored, turned = tuple(size), tuple(size[::-1] if orientation > 4 else size)
    frame = heads.size or (turned if upright else stored)
    if frame not in (stored, turned):
        also = f" ({turned[0]} x {turned[1]} upright)" if turned != stored else ""
        raise InputError(
            f"{where}: states an image of {frame[0]} x {frame[1]} pixels, the file has "
            f"{stored[0]} x {stored[1]}{also}"
        )
    whole = WHOLE[heads.units]
    points = heads.points if whole is None else heads.points * np.array(frame) / whole
    if stored != turned and (frame == turned) != upright:
        back = {6: 8, 8: 6}.get(orientation, orientation)
        points = turn(points, frame, orientation if upright else back)
    return as_points(points, where)


def turn(points: np.ndarray, size, orientation: int) -> np.ndarray:
    """Points `[N, 2]` on the stored pixels → on the upright image, for orientations 5 to 8.

    Pixel i of n becomes n - 1 - i where a side is mirrored; who is inside stays inside.
    """
    (width, height), (x, y) = size, np.asarray(points, dtype=float).T
    if orientation in (6, 7):
        y = np.where((y > height - 1) & (y < height), 0, height - 1 - y)
    if orientation in (7, 8):
        x = np.where((x > width - 1) & (x < width), 0, width - 1 - x)
    return np.stack([y, x], axis=1)
