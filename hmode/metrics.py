"""Counting errors over a test set."""

from dataclasses import dataclass

import numpy as np

from hmode.errors import InputError


def mae(true, predicted) -> float:
    """Mean absolute error of the counts, people."""
    return float(np.abs(_differences(true, predicted)).mean())


def mse(true, predicted) -> float:
    """What the crowd counting papers call MSE: the ROOT of the mean squared error, people."""
    return float(np.sqrt((_differences(true, predicted) ** 2).mean()))


def _differences(true, predicted) -> np.ndarray:
    true, predicted = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
    predicted = np.broadcast_to(predicted, true.shape) if predicted.ndim == 0 else predicted
    if true.shape != predicted.shape or true.size == 0:
        raise InputError(
            f"{true.shape} true and {predicted.shape} predicted counts, expected the "
            "same shape and at least one"
        )
    return predicted - true


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Counts of every image of a test set.

    Attributes:
        names: of the images.
        true: `[n]`, annotated people, those outside the frame included.
        inside: `[n]`, annotated people inside the frame, the sum of the density map.
        by_map: `[n, C]`, the count of each of `Prediction.maps`: experts, groups, final.
    """

    names: list[str]
    true: np.ndarray
    inside: np.ndarray
    by_map: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """`[n]`, the final map's counts."""
        return self.by_map[:, -1]

    @property
    def mae(self) -> float:
        """Mean absolute error against the annotated counts."""
        return mae(self.true, self.predicted)

    @property
    def mse(self) -> float:
        """Root of the mean squared error against the annotated counts."""
        return mse(self.true, self.predicted)

    @property
    def table(self) -> list[dict]:
        """One row an image: name, true, inside, predicted, error, and each map's count."""
        return [
            {
                "name": name,
                "true": int(true),
                "inside": int(inside),
                "predicted": float(counts[-1]),
                "error": float(counts[-1] - true),
                **{f"map{c}": float(count) for c, count in enumerate(counts)},
            }
            for name, true, inside, counts in zip(
                self.names, self.true, self.inside, self.by_map, strict=True
            )
        ]

    @classmethod
    def from_table(cls, rows: list[dict]) -> "Evaluation":
        """The evaluation that `table` describes; values may be text."""
        columns = [name for name in rows[0] if name.startswith("map")]
        return cls(
            [row["name"] for row in rows],
            np.array([float(row["true"]) for row in rows]),
            np.array([float(row["inside"]) for row in rows]),
            np.array([[float(row[name]) for name in columns] for row in rows]),
        )
