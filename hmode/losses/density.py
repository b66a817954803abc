"""The density loss L_Des (eq. 3) and the attention loss L_Att (eq. 5), on coarse grids.

The paper optimises every map "on the original resolution of the image", that is after nearest
upsampling. For a map p on a grid of s x s pixel cells and a full-size target g with cell means ḡ,

    Σ_pixels (up(p) - g)² = Σ_cells s² [ (p - ḡ)² + Var_cell(g) ],

exactly: the full-size maps never have to be built. Losses that are linear in the target, like the
cross entropy, only need the cell means.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hmode.errors import InputError

REDUCTIONS = ("mean", "sum")


def cell_moments(target: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Mean and (population) variance of `[B, 1, H, W]` over the cells of a grid `[h, w]`."""
    s = cell_side(target, grid)
    mean = F.avg_pool2d(target, s)
    cells = target.unflatten(-1, (grid[1], s)).unflatten(-3, (grid[0], s))  # [B, 1, h, s, w, s]
    # torch.var_mean does the same in one pass, which on a CPU takes ten times as long.
    squares = (cells - mean[..., None, :, None]).square_()  # in place: it is as large as the target
    return mean, F.avg_pool2d(squares.view_as(target), s)


def cell_side(target: Tensor, grid: tuple[int, int]) -> int:
    """How many pixels of `target` one cell of the grid spans.

    Raises:
        InputError: the target's sides are not the same whole multiple of the grid's.
    """
    (height, width), (h, w) = target.shape[-2:], grid
    s = height // h
    if s < 1 or (h * s, w * s) != (height, width):
        raise InputError(
            f"a map of {h} x {w} cells does not tile a target of {height} x {width} "
            "pixels in square cells"
        )
    return s


def squared_errors(pred: Tensor, target: Tensor, scale: float = 1.0) -> Tensor:
    """Mean over each cell's pixels of (up(pred) - scale · target)²: `[B, C, h, w]`."""
    mean, variance = cell_moments(target, pred.shape[-2:])
    return (pred - scale * mean) ** 2 + scale**2 * variance


def density_loss(
    pred: Tensor,
    target: Tensor,
    *,
    scale: float = 1.0,
    reduction: str = "mean",
    output_weights: Tensor | None = None,
) -> Tensor:
    """L_Des (eq. 3), summed over the maps (eq. 7) and averaged over the batch.

    Args:
        pred: `[B, C, h, w]`, all supervised maps.
        target: `[B, 1, H, W]`; H = s h and W = s w for a whole s.
        scale: what the target is multiplied by to be in the unit of `pred`.
        reduction: over the pixels of a map, "mean" (the paper) or "sum" (the released code).
        output_weights: `[C]`, or None for equal weights of one.

    Returns:
        A scalar; value and gradient are those of `pred` repeated s x s.

    Raises:
        InputError: the grids do not fit, or the reduction is unknown.
    """
    per_map = reduce_cells(squared_errors(pred, target, scale), target, reduction)
    return over_maps(per_map, output_weights)


def attention_loss(
    attention: Tensor, target: Tensor, *, threshold: float = 1e-5, reduction: str = "mean"
) -> Tensor:
    """L_Att (eq. 5): cross entropy of A with the foreground A^g, averaged over the batch.

    (Eq. 5 prints the first term with the wrong sign; this is the cross entropy it names.)

    Args:
        attention: `[B, 1, h, w]` in [0, 1].
        target: density map `[B, 1, H, W]` in people per pixel, from which A^g is made: 1 where it
            is above `threshold`. With sigma 4 in a 15 x 15 window that is the whole box around
            each head, untruncated a disc of radius 14.9 pixels.
        reduction: over pixels, "mean" (the paper) or "sum" (the released code).

    Returns:
        A scalar; value and gradient are those of `attention` repeated s x s.
    """
    foreground = (target > threshold).to(attention.dtype)
    share = F.avg_pool2d(foreground, cell_side(target, attention.shape[-2:]))
    # As torch's binary_cross_entropy, which however raises where the attention is NaN.
    tiny = torch.finfo(torch.float32).tiny
    log_a, log_rest = attention.clamp(min=tiny).log(), (1 - attention).clamp(min=tiny).log()
    entropy = -(share * log_a + (1 - share) * log_rest)
    return over_maps(reduce_cells(entropy, target, reduction), None)


def reduce_cells(cells: Tensor, target: Tensor, reduction: str) -> Tensor:
    """Mean or sum over pixels of per-cell pixel means: `[B, C, h, w]` → `[B, C]`."""
    if reduction not in REDUCTIONS:
        raise InputError(f"reduction is {reduction!r}, expected one of {REDUCTIONS}")
    # Not `mean`, whose gradient would be made as large as the cells before it is used.
    mean = cells.sum(dim=(-2, -1)) / (cells.shape[-2] * cells.shape[-1])
    return mean if reduction == "mean" else mean * target.shape[-2] * target.shape[-1]


def over_maps(per_map: Tensor, output_weights: Tensor | None) -> Tensor:
    """Weighted sum over maps, mean over images: `[B, C]` → scalar."""
    if output_weights is not None:
        per_map = per_map * output_weights
    return per_map.sum(dim=1).mean()
