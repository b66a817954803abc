"""Whether gates gate: how undecided they are where people are, and what their choice is worth."""

import numpy as np
import torch
from torch import Tensor

from hmode.analysis.oracle import best_choice, best_mixture
from hmode.analysis.views import view
from hmode.data import CrowdImage
from hmode.errors import InputError
from hmode.models import Prediction

FLOOR = 1e-4  # people per pixel: 1 % of the peak of a lone head with sigma 4


def gate_use(sample: CrowdImage, prediction: Prediction, *, sigma: float = 4.0) -> dict:
    """How a mixture of experts gates one image, as a row of a table.

    Args:
        sample: the image.
        prediction: of a network with gates for that image, a batch of one.
        sigma: of the true density map, see `density_map`.

    Returns:
        - name: of the image.
        - entropy1: mean entropy of gating net 1's weights in bits, over groups and the cells where
          people are (truth above `FLOOR`); 1 where two members are always even, 0 where one is
          always chosen; None where nobody is.
        - entropy2: the same of gating net 2's, or None without one; log2 M where all M are even.
        - average, final, E1, …, EK, choice, mixture: squared errors of density maps against the
          cells' means, summed over the image's pixels, (people per pixel)²: of the plain average of
          the same network's experts, of its final map, of each expert alone, of the best expert in
          each cell and of the best mixture in each cell, which only the truth could choose.

    Raises:
        InputError: the network has no gates.
    """
    if prediction.gate1 is None:
        raise InputError("the network has no gates, expected HMoDE or MoE")
    each = view(sample, prediction, sigma=sigma)
    people = torch.from_numpy(each.truth > FLOOR)
    bits2 = None if prediction.gate2 is None else _mean_entropy(prediction.gate2, people)
    row = {"name": sample.name, "entropy1": _mean_entropy(prediction.gate1[0], people)}
    candidates = {
        "average": each.experts.mean(axis=0),
        "final": each.maps[-1],
        **dict(zip(each.names, each.experts, strict=False)),
        "choice": best_choice(each.experts, each.truth),
        "mixture": best_mixture(each.experts, each.truth),
    }
    errors = {name: each.squares(values) for name, values in candidates.items()}
    return row | {"entropy2": bits2} | errors


def _mean_entropy(weights: Tensor, where: Tensor) -> float | None:
    """Bits; of weights `[M, N, h, w]` that sum to one over N, mean over M and the cells."""
    weights = weights.detach().double().cpu()
    bits = torch.special.entr(weights).sum(dim=1) / np.log(2)  # [M, h, w]
    return float(bits[:, where].mean()) if where.any() else None
