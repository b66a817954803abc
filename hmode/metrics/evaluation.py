"""What was counted in each image of a test set, and the errors over all of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hmode.errors import InputError
from hmode.metrics.counts import LEVELS, density_levels, mae, mse, nae
from hmode.metrics.regions import GAME_LEVELS

GAME_COLUMNS = tuple(f"game{level}" for level in range(GAME_LEVELS))
FOREGROUND_COLUMNS = ("foreground_true", "foreground")


@dataclass(frozen=True)
class ImageCount:
    """What was counted in one image, in people; see `Evaluation` for its fields.

    `true`, `inside`, `game` and `foreground` are not a number where the image has no annotation.
    """

    name: str
    true: float
    inside: float
    by_map: tuple[float, ...]
    game: tuple[float, ...] | None = None
    foreground: tuple[float, float] | None = None

    @property
    def predicted(self) -> float:
        """The final map's count."""
        return self.by_map[-1]

    @property
    def error(self) -> float:
        """Predicted minus true count."""
        return self.predicted - self.true


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Counts of every image of a test set, in people.

    Images without annotation are predicted, and take part in no error; their `true`, `inside`,
    `game` and `foreground` are not a number. Where an image has a mask (TRANCOS), all numbers are
    of what lies in it.

    Attributes:
        names: of the images.
        true: `[n]`, annotated people, those outside the frame included (but for a mask).
        inside: `[n]`, annotated people inside the frame, the sum of the density map.
        by_map: `[n, C]`, the count of each of `Prediction.maps`: experts, groups, final.
        game: `[n, 4]`, each image's GAME(0) to GAME(3) of the final map, see `game_errors`; None
            where it was not asked for.
        foreground: `[n, 2]`, annotated people in the foreground A^g of the image and the final
            map's count there (section IV-E); None as `game`.
    """

    names: list[str]
    true: np.ndarray
    inside: np.ndarray
    by_map: np.ndarray
    game: np.ndarray | None = None
    foreground: np.ndarray | None = None

    @classmethod
    def of(cls, counts: Sequence[ImageCount]) -> "Evaluation":
        """The evaluation of at least one image."""

        def column(name: str) -> np.ndarray | None:
            values = [getattr(each, name) for each in counts]
            return None if any(value is None for value in values) else np.array(values, float)

        columns = ("true", "inside", "by_map", "game", "foreground")
        return cls([each.name for each in counts], *map(column, columns))

    @classmethod
    def joined(cls, parts: Sequence["Evaluation"]) -> "Evaluation":
        """One evaluation of all images of several, of the same maps."""
        return cls.from_table([row for part in parts for row in part.table])

    @property
    def predicted(self) -> np.ndarray:
        """`[n]`, the final map's counts."""
        return self.by_map[:, -1]

    @property
    def annotated(self) -> np.ndarray:
        """`[n]`, bool: the images that errors are of."""
        return ~np.isnan(self.true)

    @property
    def mae(self) -> float:
        """Mean absolute error against the annotated counts."""
        return mae(self._annotated("true"), self._annotated("predicted"))

    @property
    def mse(self) -> float:
        """Root of the mean squared error against the annotated counts."""
        return mse(self._annotated("true"), self._annotated("predicted"))

    @property
    def mean_game(self) -> np.ndarray:
        """`[4]`, GAME(0) to GAME(3), the mean over the images."""
        return self._annotated("game").mean(axis=0)

    @property
    def errors(self) -> dict[str, float]:
        """All of them: mae, mse, nae, game0 to game3, and foreground_mae and foreground_mse, of
        the counts inside the foreground (section IV-E)."""
        foreground = self._annotated("foreground").T
        return {
            "mae": self.mae,
            "mse": self.mse,
            "nae": nae(self._annotated("true"), self._annotated("predicted")),
            **dict(zip(GAME_COLUMNS, self.mean_game.tolist(), strict=True)),
            "foreground_mae": mae(*foreground),
            "foreground_mse": mse(*foreground),
        }

    def _annotated(self, name: str) -> np.ndarray:
        """The rows of a field that errors are of, at least one."""
        values = getattr(self, name)
        if values is None:
            raise InputError(f"this evaluation was stored without '{name}'; evaluate again")
        if not self.annotated.any():
            raise InputError(f"none of the {len(self.names)} images has an annotation")
        return values[self.annotated]

    def levels(self, edges: Sequence[int] = LEVELS) -> dict[str, np.ndarray]:
        """Which images are of each density level, after "all" of them: bool `[n]` each.

        Images without annotation are of none. `edges` are those of `density_levels`.
        """
        bounds = {"all": (0, math.inf)} | density_levels(edges)
        return {
            name: (low <= self.true) & (self.true <= high) for name, (low, high) in bounds.items()
        }

    def by_level(self, edges: Sequence[int] = LEVELS) -> list[dict]:
        """Errors over all images, then by density level: level, images, mae, mse, nae.

        Errors are None for a level without images. `edges` are those of `density_levels`.
        """
        return [
            {"level": name, "images": int(some.sum())}
            | _errors((mae, mse, nae), self.true[some], self.predicted[some])
            for name, some in self.levels(edges).items()
        ]

    def by_map_errors(self, edges: Sequence[int] = LEVELS) -> list[dict]:
        """Errors of each map by density level (Table XII): level, images, map, mae, mse.

        Maps are numbered as in `by_map`. Errors and `edges` as in `by_level`.
        """
        return [
            {"level": name, "images": int(some.sum()), "map": c}
            | _errors((mae, mse), self.true[some], counts[some])
            for name, some in self.levels(edges).items()
            for c, counts in enumerate(self.by_map.T)
        ]

    @property
    def table(self) -> list[dict]:
        """One row an image: name, true, inside, predicted, error, GAME, foreground, each map.

        None where an image has no annotation.
        """
        rows = []
        for i, counts in enumerate(self.by_map.tolist()):
            row = {"name": self.names[i]}
            row |= {"true": _whole(self.true[i]), "inside": _whole(self.inside[i])}
            row |= {"predicted": counts[-1], "error": _number(counts[-1] - self.true[i])}
            if self.game is not None:
                row |= zip(GAME_COLUMNS, map(_number, self.game[i]), strict=True)
            if self.foreground is not None:
                true, predicted = self.foreground[i]
                row |= {"foreground_true": _whole(true), "foreground": _number(predicted)}
            rows.append(row | {f"map{c}": count for c, count in enumerate(counts)})
        return rows

    @classmethod
    def from_table(cls, rows: list[dict]) -> "Evaluation":
        """The evaluation that `table` describes; values may be text.

        Raises:
            InputError: there is no row, a column is missing or a value is no number.
        """
        if not rows:
            raise InputError("the table of an evaluation has no rows")

        def column(*names: str) -> np.ndarray:
            missing = [name for name in ("name", *names) if name not in rows[0]]
            if missing or not names:
                raise InputError(
                    f"not the table of an evaluation: column {missing[0] if missing else 'map0'} "
                    f"is missing, found {list(rows[0])}"
                )
            return np.array([[_read(row, name) for name in names] for row in rows])

        maps = [name for name in rows[0] if name.startswith("map")]
        true = column("true")[:, 0]
        return cls(
            [row["name"] for row in rows],
            true,
            column("inside")[:, 0],
            column(*maps),
            column(*GAME_COLUMNS) if "game0" in rows[0] else None,
            column(*FOREGROUND_COLUMNS) if "foreground" in rows[0] else None,
        )


def _errors(metrics, true: np.ndarray, predicted: np.ndarray) -> dict[str, float | None]:
    return {f.__name__: f(true, predicted) if len(true) else None for f in metrics}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _whole(value: float) -> int | None:
    return None if math.isnan(value) else int(value)


def _read(row: dict, name: str) -> float:
    value = row[name]
    try:
        return math.nan if value in ("", None) else float(value)
    except ValueError:
        raise InputError(f"{row['name']}: {name} is {value!r}, expected a number") from None
