"""What one map tells about another: mutual information, with a shuffled control."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.stats import entropy, rankdata

from hmode.errors import InputError


def quantile_bins(values, bins: int = 8) -> np.ndarray:
    """Values `[n]` in bins of nearly equal size: int64 `[n]`, 0 … bins-1, rising with the value.

    A value's bin is its rank's; equal values have the mean of their ranks, and so share a bin: with
    many ties some bins stay empty and others are larger.

    Raises:
        InputError: bins is less than 1, or a value is not finite.
    """
    values = np.asarray(values)
    if bins < 1:
        raise InputError(f"bins is {bins!r}, expected at least 1")
    if not np.isfinite(values).all():
        raise InputError(f"{np.sum(~np.isfinite(values))} of {len(values)} values are not finite")
    doubled = (2 * rankdata(values)).astype(np.int64)  # a mean rank may end in a half
    return (doubled - 1) * bins // (2 * len(values))


def mutual_information(first, second) -> float:
    """What one learns about `first` from `second` (and the other way round), in bits.

    Of two arrays `[n]` of small whole numbers from 0, by how often each pair comes: 0 if they are
    independent, the entropy of `first` if `second` gives it away. For n cells of two unrelated
    arrays it comes out at about (a - 1)(b - 1) / (2 n ln 2), with a and b the numbers of different
    values.

    Raises:
        InputError: the arrays have different lengths, are empty or hold other values.
    """
    first, second = np.asarray(first), np.asarray(second)
    whole = all(np.issubdtype(each.dtype, np.integer) for each in (first, second))
    if first.shape != second.shape or first.ndim != 1 or not len(first) or not whole:
        raise InputError(
            f"arrays of {first.dtype} {list(first.shape)} and {second.dtype} "
            f"{list(second.shape)}, expected whole numbers [n] of the same length"
        )
    if min(first.min(), second.min()) < 0:
        raise InputError("a value is negative, expected whole numbers from 0")
    pairs = coo_array((np.ones(len(first)), (first, second))).toarray()
    bits = entropy(pairs.sum(axis=1), base=2) + entropy(pairs.sum(axis=0), base=2)
    return max(0.0, float(bits - entropy(pairs.ravel(), base=2)))


@dataclass(frozen=True)
class Information:
    """What a map tells about the best scale.

    Attributes:
        cells: how many cells have a best scale.
        entropy: H(best scale), bits: what is needed to name it without help.
        bits: mutual information of best scale and map.
        shuffled_mean, shuffled_sd: the same after shuffling, mean and standard deviation.
    """

    cells: int
    entropy: float
    bits: float
    shuffled_mean: float
    shuffled_sd: float

    @property
    def share(self) -> float:
        """Share of the uncertainty about the best scale that the map removes, 0 to 1."""
        return self.bits / self.entropy if self.entropy > 0 else 0.0

    @property
    def shuffled_share(self) -> float:
        """The same after shuffling, mean."""
        return self.shuffled_mean / self.entropy if self.entropy > 0 else 0.0


def scale_information(
    best: Sequence[np.ndarray],
    values: Sequence[np.ndarray],
    *,
    rng: np.random.Generator,
    bins: int = 8,
    shuffles: int = 10,
) -> Information:
    """Does the best scale follow perspective, attention, density? As a share of what is unknown.

    The cells of all images are pooled and the values cut into bins of equal size over the pool.
    Each shuffle deals an image's values anew to the cells of this image: what is left is the bias
    of the estimate, and what the values tell of whole images. Neighbouring cells are alike, so
    that a smooth map of no meaning still tells more than shuffled cells; as a control for that,
    pass the values of other images.

    Args:
        best: `best_scale` of each image, `[h, w]`; cells with -1 are left out.
        values: a map of each image, of the same shape.
        rng: shuffles.
        bins: of the values.
        shuffles: at least two.

    Raises:
        InputError: shapes do not fit, a value is not finite, fewer than two shuffles, or no cell
            of any image has a best scale.
    """
    shapes = [np.shape(each) for each in best]
    if shapes != [np.shape(each) for each in values]:
        raise InputError("best scales and values must be maps of the same images and shapes")
    if shuffles < 2:
        raise InputError(f"shuffles is {shuffles!r}, expected at least 2")
    kept = [np.asarray(each) >= 0 for each in best]
    if not any(each.any() for each in kept):
        raise InputError("no cell has a best scale")
    scale = np.concatenate([np.asarray(b)[k] for b, k in zip(best, kept, strict=True)])
    pooled = np.concatenate([np.asarray(v)[k] for v, k in zip(values, kept, strict=True)])
    binned = quantile_bins(pooled, bins)
    images = np.split(binned, np.cumsum([each.sum() for each in kept])[:-1])
    shuffled = [
        mutual_information(scale, np.concatenate([rng.permutation(each) for each in images]))
        for _ in range(shuffles)
    ]
    return Information(
        cells=len(scale),
        entropy=float(entropy(np.bincount(scale), base=2)),
        bits=mutual_information(scale, binned),
        shuffled_mean=float(np.mean(shuffled)),
        shuffled_sd=float(np.std(shuffled, ddof=1)),
    )
