"""Do regions come in the order of their true counts? What REL asks for, counted on test images."""

from collections.abc import Iterable

import numpy as np

from hmode.analysis.views import View
from hmode.errors import InputError


def wrong_pairs(predicted, true, *, gap: float = 0.25) -> tuple[float, int]:
    """Pairs of regions whose predicted counts are in the wrong order, and pairs in all.

    Args:
        predicted, true: counts of regions `[..., R]`; pairs are made within the last axis.
        gap: pairs whose true counts differ by less are left out, as nobody could tell their order.

    Returns:
        (wrong, pairs). Equal predictions are half wrong, so that a map which tells nothing has
        half of all pairs wrong.

    Raises:
        InputError: the shapes differ, or the gap is not positive.
    """
    predicted, true = np.asarray(predicted, dtype=float), np.asarray(true, dtype=float)
    if predicted.shape != true.shape or predicted.ndim < 1:
        raise InputError(
            f"predicted counts have shape {list(predicted.shape)} and true ones "
            f"{list(true.shape)}, expected [..., R] both"
        )
    if not gap > 0:
        raise InputError(f"gap is {gap!r}, expected a positive number")
    more = true[..., :, None] - true[..., None, :] >= gap  # [..., R, R]: row before column
    ahead = (predicted[..., :, None] - predicted[..., None, :])[more]
    return float((ahead < 0).sum() + 0.5 * (ahead == 0).sum()), int(more.sum())


def order_errors(
    views: Iterable[View], *, side: int = 4, cells: int = 8, regions: int = 9, gap: float = 0.25
) -> list[dict]:
    """How many pairs of regions each map of a network has in the wrong order.

    Images are cut into the squares that training crops are, and these into the regions of REL
    (`relative_count_loss`), of which the S of largest squared error are the hard ones: each map's
    own. What is left over at the right and the bottom is not looked at.

    Args:
        views: of one network, at least one; may be a generator.
        side: cells of the network's grid in a side of a region; 4 for 16 pixels at stride 4.
        cells: regions in a side of a square, as in `LossSettings`: 8 x 16 is a crop of 128 pixels.
        regions: S, how many are hard.
        gap: see `wrong_pairs`.

    Returns:
        Rows of
        - map: its name.
        - wrong, pairs: of all regions of a square.
        - hard_wrong, hard_pairs: of its hard regions.

    Raises:
        InputError: there is no view, an image is smaller than a square, or S is not 1 to cells².
    """
    if regions not in range(1, cells**2 + 1):
        raise InputError(f"regions is {regions!r}, expected 1 to cells² = {cells**2}")
    rows: dict[str, np.ndarray] = {}
    for each in views:
        true = _regions(each, each.pixels * each.truth, side, cells)
        for name, values in zip(each.names, each.maps, strict=True):
            predicted = _regions(each, each.pixels * values, side, cells)
            squares = each.pixels * ((values - each.truth) ** 2 + each.variance)
            errors = _regions(each, squares, side, cells)
            hard = np.argsort(-errors, axis=-1, kind="stable")[..., :regions]
            chosen = (np.take_along_axis(counts, hard, axis=-1) for counts in (predicted, true))
            found = (*wrong_pairs(predicted, true, gap=gap), *wrong_pairs(*chosen, gap=gap))
            rows[name] = rows.get(name, 0) + np.array(found)
    if not rows:
        raise InputError("there are no views, expected at least one")
    kinds = {"wrong": float, "pairs": int, "hard_wrong": float, "hard_pairs": int}
    return [
        {"map": name} | {key: kind(n) for (key, kind), n in zip(kinds.items(), found, strict=True)}
        for name, found in rows.items()
    ]


def _regions(view: View, values: np.ndarray, side: int, cells: int) -> np.ndarray:
    """Sums over the regions of each whole square: `[h, w]` → `[squares, cells²]`."""
    square = side * cells
    high, wide = (length // square for length in values.shape)
    if not high * wide:
        raise InputError(
            f"{view.name}: {list(values.shape)} cells hold no square of {square} x {square}"
        )
    parts = values[: high * square, : wide * square].astype(float)
    sums = parts.reshape(high * cells, side, wide * cells, side).sum(axis=(1, 3))
    squares = sums.reshape(high, cells, wide, cells).swapaxes(1, 2)
    return squares.reshape(high * wide, cells**2)
