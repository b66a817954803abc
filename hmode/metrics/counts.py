"""Errors of counts over a test set."""

import numpy as np

from hmode.errors import InputError


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


def _differences(true, predicted) -> np.ndarray:
    true, predicted = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
    predicted = np.broadcast_to(predicted, true.shape) if predicted.ndim == 0 else predicted
    if true.shape != predicted.shape or true.size == 0:
        raise InputError(
            f"{true.shape} true and {predicted.shape} predicted counts, expected the "
            "same shape and at least one"
        )
    return predicted - true
