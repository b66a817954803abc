"""Errors of counts over a test set, and the density levels that they are given by."""

import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np

from hmode.errors import InputError

# The largest counts of the low and the medium level of JHU-CROWD++ (Sindagi et al., TPAMI 2020).
LEVELS = (50, 500)


def mae(true, predicted) -> float:
    """Mean absolute error of the counts, people."""
    return float(np.abs(_differences(true, predicted)).mean())


def mse(true, predicted) -> float:
    """What the crowd counting papers call MSE: the ROOT of the mean squared error, people."""
    return float(np.sqrt((_differences(true, predicted) ** 2).mean()))


def nae(true, predicted) -> float:
    """Mean of |error| / true count, the normalised absolute error of the NWPU benchmark.

    Images without people are left out, as in the sample code of that benchmark (Wang et al.,
    NWPU-Crowd, TPAMI 2021); not a number where there are no others.
    """
    relative = np.abs(_differences(true, predicted))
    true = np.asarray(true, dtype=float)
    crowded = true > 0
    return float((relative[crowded] / true[crowded]).mean()) if crowded.any() else float("nan")


def density_levels(edges: Sequence[int] = LEVELS) -> dict[str, tuple[float, float]]:
    """The least and largest true count of each density level, by its name.

    Args:
        edges: the largest count of each level but the last, rising. (50, 500), the levels that
            JHU-CROWD++ calls low, medium and high, gives {"0-50": (0, 50), "51-500": (51, 500),
            "501+": (501, inf)}.

    Raises:
        InputError: edges are not one or more rising whole numbers of at least 0.
    """
    edges = list(edges)
    whole = all(isinstance(edge, Integral) and edge >= 0 for edge in edges)
    if not edges or not whole or sorted(set(edges)) != edges:
        raise InputError(f"levels end at {edges}, expected rising whole numbers of at least 0")
    lows = [0, *(edge + 1 for edge in edges)]
    levels = {f"{low}-{high}": (low, high) for low, high in zip(lows, edges, strict=False)}
    return levels | {f"{lows[-1]}+": (lows[-1], math.inf)}


def _differences(true, predicted) -> np.ndarray:
    true, predicted = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
    predicted = np.broadcast_to(predicted, true.shape) if predicted.ndim == 0 else predicted
    if true.shape != predicted.shape or true.size == 0:
        raise InputError(
            f"{true.shape} true and {predicted.shape} predicted counts, expected the "
            "same shape and at least one"
        )
    return predicted - true
