"""People per square metre: a count on flat ground whose scale is known.

Four points on the ground, seen in the picture, and the lengths between them give the homography
from pixels to metres. Heads stand about 1.6 m above the ground and are seen beyond where the feet
are: the lower the camera, the further. Points at the height of heads (on poles, at doors) measure
better than points on the floor.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hmode.counting import Count
from hmode.data.formats import json_points, read_json
from hmode.errors import InputError

# Fruin's levels of service for people who stand and wait (J. J. Fruin, Pedestrian Planning and
# Design, New York 1971, by area: 1.21, 0.93, 0.65, 0.28 and 0.19 square metres a person).
LEVELS = (
    (1 / 1.21, "A", "standing and moving freely"),
    (1 / 0.93, "B", "standing without disturbing others, moving with some care"),
    (1 / 0.65, "C", "standing without touching, moving past disturbs others"),
    (1 / 0.28, "D", "standing without touching is possible, moving through is hard"),
    (1 / 0.19, "E", "touching is unavoidable, moving is impossible"),
    (np.inf, "F", "packed body to body: waves of pressure, danger of panic"),
)
SQUARE = 2.0  # metres: the side of the squares of a plan


@dataclass(frozen=True, eq=False)
class Area:
    """What stands on a piece of ground.

    Attributes:
        people: counted on it.
        square_metres: its area.
        plan: people per square metre in squares of a grid, `[rows, columns]`; the first side of
            the ground runs along the columns. NaN where less than half of a square is on it.
        side: of a square, in metres.
    """

    people: float
    square_metres: float
    plan: np.ndarray = field(repr=False)
    side: float = SQUARE

    @property
    def density(self) -> float:
        """People per square metre, on average."""
        return self.people / self.square_metres

    @property
    def densest(self) -> float:
        """People per square metre in the fullest square; NaN where none is."""
        return float(np.nanmax(self.plan)) if np.isfinite(self.plan).any() else float("nan")

    @property
    def row(self) -> dict:
        """What a table says of it."""
        about = {"ground_people": self.people, "square_metres": self.square_metres}
        name, _ = level(self.density)
        return about | {"per_square_metre": self.density, "densest": self.densest, "level": name}

    def __str__(self) -> str:
        name, meaning = level(self.density)
        return (
            f"{self.people:.1f} on {self.square_metres:.1f} m², {self.density:.2f} per m² (at most "
            f"{self.densest:.2f} in {self.side:g} m squares), Fruin's level {name}: {meaning}"
        )


def level(density: float) -> tuple[str, str]:
    """Fruin's level of people per square metre, "A" (free) to "F" (dangerous), and its meaning."""
    return next((name, meaning) for most, name, meaning in LEVELS if density <= most)


class Ground:
    """A piece of flat ground with four corners.

    Args:
        corners: A, B, C, D in the picture, (x, y) in pixels, around the piece.
        lengths: in metres: AB and BC of a rectangle; or AB, BC, CD, DA and the diagonal AC.

    Raises:
        InputError: these are no such piece.
    """

    def __init__(self, corners, lengths):
        self.corners = np.array(corners, dtype=float)
        self.lengths = lengths = np.array(lengths, dtype=float)
        if self.corners.shape != (4, 2) or not np.isfinite(self.corners).all():
            raise InputError("ground: expected four corners (x, y) in pixels")
        if lengths.shape not in ((2,), (5,)) or not (np.isfinite(lengths) & (lengths > 0)).all():
            raise InputError(
                "ground: expected the lengths AB and BC of a rectangle, or AB, BC, CD, DA and AC, "
                "in metres"
            )
        if len(lengths) == 2:
            lengths = np.array([*lengths, *lengths, np.hypot(*lengths)])
        self.plan = _plan(*lengths)
        for points, where in ((self.corners, "in the picture"), (self.plan, "on the ground")):
            turns = _cross(np.roll(points, -1, 0) - points, np.roll(points, -2, 0) - points)
            if not (np.all(turns > 1e-9) or np.all(turns < -1e-9)):
                raise InputError(
                    f"ground: the corners {where} are no convex quadrangle, one after the other"
                )
        self.homography = _homography(self.corners, self.plan)

    @classmethod
    def read(cls, path: Path) -> "Ground":
        """Of a JSON file {"corners": [[x, y], …], "metres": [AB, BC]}."""
        content = read_json(path)
        if not isinstance(content, dict) or content.keys() != {"corners", "metres"}:
            raise InputError(f'{path}: expected {{"corners": [[x, y], ...], "metres": [AB, BC]}}')
        corners = json_points(content["corners"], f"{path}: corners")
        try:
            return cls(corners, content["metres"])
        except (InputError, TypeError, ValueError) as error:
            raise InputError(f"{path}: {error}") from None

    @property
    def square_metres(self) -> float:
        """The area of the piece."""
        return abs(_cross(self.plan, np.roll(self.plan, -1, 0)).sum()) / 2

    def to_metres(self, points: np.ndarray) -> np.ndarray:
        """Points `[N, 2]` in the picture → on the ground, A at (0, 0) and B at (AB, 0)."""
        mapped = np.column_stack([points, np.ones(len(points))]) @ self.homography.T
        return mapped[:, :2] / mapped[:, 2:]

    def measure(self, counted: Count, side: float = SQUARE) -> Area:
        """The people of a count whose heads are seen on this piece.

        Raises:
            InputError: a corner is outside of the picture, so that part of the piece is not seen.
        """
        height, width = counted.picture
        if (self.corners < 0).any() or (self.corners > (width, height)).any():
            raise InputError(f"ground: a corner lies outside of the {width} x {height} pixels")
        if counted.size != counted.picture:  # counted at another size
            shrunk = np.array(counted.size[::-1]) / (width, height)
            there = Ground(self.corners * shrunk, self.lengths)
            return there.measure(replace(counted, picture=counted.size), side)
        pixels = self._inside()
        cells = pixels.astype(int) // counted.prediction.stride
        people = counted.density.numpy()[cells[:, 1], cells[:, 0]].astype(float)
        depth = np.column_stack([pixels, np.ones(len(pixels))]) @ self.homography[2]
        areas = abs(np.linalg.det(self.homography) / depth**3)  # of a pixel, in square metres
        places = self.to_metres(pixels)
        low, high = self.plan.min(0), self.plan.max(0)
        counts = np.ceil((high - low) / side - 1e-6).astype(int)
        edges = [low[i] + side * np.arange(counts[i] + 1) for i in (0, 1)]
        held, seen = (
            np.histogram2d(places[:, 1], places[:, 0], edges[::-1], weights=weights)[0]
            for weights in (people, areas)
        )
        plan = np.where(seen >= side**2 / 2, held / np.maximum(seen, 1e-12), np.nan)
        return Area(float(people.sum()), self.square_metres, plan, side)

    def _inside(self) -> np.ndarray:
        """`[N, 2]`, the centres (x, y) of the pixels on the piece."""
        low, high = np.floor(self.corners.min(0)), np.ceil(self.corners.max(0))
        x, y = (np.arange(low[i], high[i]) + 0.5 for i in (0, 1))
        pixels = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        edges = zip(self.corners, np.roll(self.corners, -1, 0), strict=True)
        sides = np.stack([_cross(b - a, pixels - a) for a, b in edges])
        return pixels[(sides >= 0).all(0) | (sides <= 0).all(0)]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _plan(ab: float, bc: float, cd: float, da: float, ac: float) -> np.ndarray:
    """The corners on the ground, in metres: A at the origin, B along the first axis."""

    def along(side: float, other: float, base: float) -> np.ndarray:
        """The corner of a triangle at `side` from the start of its base, `other` from its end."""
        x = (side**2 + base**2 - other**2) / (2 * base)
        if not x**2 < side**2:
            raise InputError("ground: no triangle has sides of these lengths")
        return np.array([x, np.sqrt(side**2 - x**2)])

    c = along(ac, bc, ab)
    x, y = along(da, cd, ac)  # from A towards C, and to the other side of it than B
    towards, across = c / ac, np.array([-c[1], c[0]]) / ac
    return np.array([[0, 0], [ab, 0], c, x * towards + y * across])


def _homography(pixels: np.ndarray, metres: np.ndarray) -> np.ndarray:
    """`[3, 3]`, that maps four points to four others (Hartley and Zisserman, chapter 4)."""
    rows, right = [], metres.ravel()
    for (x, y), (u, v) in zip(pixels, metres, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return np.append(np.linalg.solve(rows, right), 1).reshape(3, 3)
