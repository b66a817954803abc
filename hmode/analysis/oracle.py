"""Which expert is best where, and how far a network is from the best that a gate could do.

All choices are made per cell of the network's grid. Over nearest-upsampled cells the pixel error of
any map is its error against the cell means plus the variance inside the cells (`hmode.losses
.density`), so what is nearest to a cell's mean is also best over its pixels.
"""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from hmode.analysis.views import View
from hmode.errors import InputError
from hmode.metrics import mae, mse


def best_scale(experts, truth, *, floor: float = 1e-4) -> np.ndarray:
    """Which expert is nearest to the truth in each cell (Fig. 1 of the paper).

    Args:
        experts: `[K, h, w]`, at least two.
        truth: `[h, w]`, in the same unit.
        floor: where the truth and all experts are below it, nobody is there and nobody claims so.
            The default, in people per pixel, is 1 % of the peak of a lone head with sigma 4.

    Returns:
        int64 `[h, w]`, 0 … K-1; -1 where the question is idle: below the floor, and where the two
        nearest are equally near (usually because both say 0).

    Raises:
        InputError: there are fewer than two experts, or shapes do not fit.
    """
    experts, truth = _checked(experts, truth)
    errors = np.abs(experts - truth)
    least, second = np.partition(errors, 1, axis=0)[:2]
    idle = (np.maximum(truth, experts.max(axis=0)) < floor) | (least == second)
    return np.where(idle, -1, errors.argmin(axis=0))


def best_choice(experts, truth) -> np.ndarray:
    """The value nearest to the truth among the experts' in each cell: the best hard gate.

    `[K, h, w]` and `[h, w]` → `[h, w]`. Raises as `best_scale`.
    """
    experts, truth = _checked(experts, truth)
    nearest = np.abs(experts - truth).argmin(axis=0)
    return np.take_along_axis(experts, nearest[None], axis=0)[0]


def best_mixture(experts, truth) -> np.ndarray:
    """The nearest value to the truth that weights summing to one can make: the best soft gate.

    At a cell the experts are K numbers; their convex mixtures are all numbers from the least to
    the largest, so the best is the truth clipped to these. `[K, h, w]` and `[h, w]` → `[h, w]`.
    Raises as `best_scale`.
    """
    experts, truth = _checked(experts, truth)
    return np.clip(truth, experts.min(axis=0), experts.max(axis=0))


def oracle_errors(views: Iterable[View]) -> list[dict]:
    """How far a network is from the best that any gate could make of its maps.

    One row for each map of the network, then for gates that know the truth: the "best expert" and
    the "best mixture of experts" in each cell, beside the "average of experts" of a gate that knows
    nothing; and with a hierarchy the "best group" and the "best mixture of groups", for gating
    net 2 alone. What lies between "final" and "best mixture of experts" is what better gates could
    gain with these experts; the rest they cannot. It is a bound and no forecast: somebody is always
    nearest, by luck too; a gate only sees the image, and the paper's shares its weights among
    16 x 16 pixels. The choices mind the density, so that counts, where errors cancel between cells,
    need not profit.

    Args:
        views: of one network, at least one; may be a generator.

    Returns:
        Rows of
        - map: its name.
        - cell_mse: squared error against cell means, mean over all pixels of all images, in
          (people per pixel)².
        - density_mse: the same against the pixels, L_Des of eq. 3: larger by what no map on this
          grid can mend, the same amount in every row.
        - mae, mse: of the counts of images, against the annotated people; mse is the root.

    Raises:
        InputError: there is no view, a network has fewer than two experts, or views have
            different maps.
    """
    squares, counts = defaultdict(float), defaultdict(list)
    true, pixels, within = [], 0.0, 0.0
    for each in views:
        true.append(each.count)
        pixels += each.pixels.sum(dtype=float)
        within += each.people(each.variance)
        for name, values in _candidates(each).items():
            squares[name] += each.squares(values)
            counts[name].append(each.people(values))
    if not true or any(len(each) != len(true) for each in counts.values()):
        raise InputError(f"{len(true)} views, expected at least one, all of the same network")
    return [
        {
            "map": name,
            "cell_mse": squares[name] / pixels,
            "density_mse": (squares[name] + within) / pixels,
            "mae": mae(true, counts[name]),
            "mse": mse(true, counts[name]),
        }
        for name in counts
    ]


def _candidates(view: View) -> dict[str, np.ndarray]:
    """The maps that `oracle_errors` compares, `[h, w]` each."""
    found = dict(zip(view.names, view.maps, strict=True))
    found["best expert"] = best_choice(view.experts, view.truth)
    found["best mixture of experts"] = best_mixture(view.experts, view.truth)
    found["average of experts"] = view.experts.mean(axis=0)
    if len(view.groups) > 1:
        found["best group"] = best_choice(view.groups, view.truth)
        found["best mixture of groups"] = best_mixture(view.groups, view.truth)
    return found


def _checked(experts, truth) -> tuple[np.ndarray, np.ndarray]:
    experts, truth = np.asarray(experts), np.asarray(truth)
    if len(experts) < 2 or experts.ndim != truth.ndim + 1 or experts.shape[1:] != truth.shape:
        raise InputError(
            f"experts have shape {list(experts.shape)} and the truth {list(truth.shape)}, "
            "expected [K, h, w] with K ≥ 2 and [h, w]"
        )
    return experts, truth
