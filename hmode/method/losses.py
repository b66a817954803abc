"""The training loss: REL (eq. 2), L_Des (3), both on every map (4), L_Att (5), L_Eim (6), and
their sum (7).

The paper optimises every map "on the original resolution of the image", that is after nearest
upsampling. For a map p on a grid of s x s pixel cells and a full-size target g with cell means ḡ,

    Σ_pixels (up(p) - g)² = Σ_cells s² [ (p - ḡ)² + Var_cell(g) ],

exactly: the full-size maps never have to be built. Losses that are linear in the target, like the
cross entropy, only need the cell means. A *cell* is one value of a map; REL's *regions* are larger.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hmode.errors import InputError
from hmode.method.density import local_counts
from hmode.method.prediction import Prediction

REDUCTIONS = ("mean", "sum")


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
        reduction: over the pixels of a map, "mean" (the paper) or "sum" (`LossSettings`).
        output_weights: `[C]`, or None for equal weights of one.

    Returns:
        A scalar; value and gradient are those of `pred` repeated s x s.

    Raises:
        InputError: the grids do not fit, or the reduction is unknown.
    """
    per_map = reduce_cells(squared_errors(pred, target, scale), target, reduction)
    return over_maps(per_map, output_weights)


def squared_errors(pred: Tensor, target: Tensor, scale: float = 1.0) -> Tensor:
    """Mean over each cell's pixels of (up(pred) - scale · target)²: `[B, C, h, w]`."""
    mean, variance = cell_moments(target, pred.shape[-2:])
    return (pred - scale * mean) ** 2 + scale**2 * variance


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


def relative_count_loss(
    pred: Tensor,
    target: Tensor,
    *,
    scale: float = 1.0,
    judged: Tensor | None = None,
    cells: int = 8,
    regions: int = 9,
    sublists: int = 3,
    score: Tensor | None = None,
    gaps: tuple[int, ...] | None = None,
    output_weights: Tensor | None = None,
) -> Tensor:
    """REL, L_Rel (eq. 2): a hinge on the order of the counts of hard-predicted regions.

    Each map of each image is cut into cells x cells regions. The S = `regions` of largest squared
    density error are ranked by their true count, most crowded first, and their predicted counts
    x_1 … x_S dealt into `sublists` sub-lists (1, 4, 7, …), (2, 5, 8, …), (3, 6, 9, …). Within a
    sub-list a count may not be smaller than the next one: Σ max(0, x_{j + sublists} - x_j). With
    S ≤ sublists there is no pair and the loss is zero.

    Args:
        pred: `[B, C, h, w]`, all supervised maps.
        target: `[B, 1, H, W]`; H = s h and W = s w for a whole s.
        scale: what the target is multiplied by to be in the unit of `pred`.
        judged: `[B, C or 1, h, w]`, the maps whose errors choose the hard regions; None: `pred`.
        cells: regions per side, w = 1/cells of the input; divides H and W.
        regions: S, at most cells².
        sublists: number of sub-lists; 1 compares neighbours in the ranking (Table XI).
        score: `[B, C, cells²]`, by which regions are chosen; None: their errors.
        gaps: how far apart in the ranking counts are compared; None: (sublists,), eq. 2.
        output_weights: `[C]`, or None for equal weights of one.

    Returns:
        A scalar in the unit of a summed map, summed over maps and averaged over the batch; value
        and gradient are those of `pred` repeated s x s. The choice and ranking of regions carry
        no gradient.

    Raises:
        InputError: a setting is out of its range or the grids do not fit.
    """
    check_regions(cells, regions, sublists)
    whole_regions(target, cells)
    pred = uncut(pred, target, cells)
    judged = pred if judged is None else uncut(judged, target, cells)
    predicted = region_sums(pred, target, cells)  # [B, C, cells²]
    true = region_sums(target, target, cells).expand_as(predicted)
    if score is None:
        score = region_sums(squared_errors(judged.detach(), target, scale), target, cells)
    chosen = score.expand_as(predicted).topk(regions, dim=-1).indices  # [B, C, S]
    ranking = true.gather(-1, chosen).argsort(dim=-1, descending=True, stable=True)
    x = predicted.gather(-1, chosen.gather(-1, ranking))
    gaps = (sublists,) if gaps is None else gaps
    hinges = [(x[..., gap:] - x[..., :-gap]).relu().sum(dim=-1) for gap in gaps if gap < regions]
    per_map = sum(hinges, start=0.0 * x.sum(dim=-1))  # [B, C]
    return over_maps(per_map, output_weights)


def region_sums(maps: Tensor, target: Tensor, cells: int) -> Tensor:
    """Sums over the pixels of each region: `[B, C, h, w]` → `[B, C, cells²]`."""
    s = cell_side(target, maps.shape[-2:])
    height, width = maps.shape[-2] // cells, maps.shape[-1] // cells
    if height == width:
        sums = local_counts(maps, height)
    else:  # regions of an image that is not square
        sums = maps.unflatten(-1, (cells, width)).unflatten(-3, (cells, height)).sum(dim=(-3, -1))
    return s**2 * sums.flatten(-2)


def uncut(maps: Tensor, target: Tensor, cells: int) -> Tensor:
    """Maps on a grid whose cells no region's border cuts: their own, or else the pixels'.

    Regions may be finer than the grid, or lie across its cells (Fig. 6's w = 1/64).
    """
    if maps.shape[-2] % cells == 0 and maps.shape[-1] % cells == 0:
        return maps
    s = cell_side(target, maps.shape[-2:])
    return maps.repeat_interleave(s, -2).repeat_interleave(s, -1)


def whole_regions(target: Tensor, cells: int) -> None:
    """Refuse regions that would not all be of one size."""
    height, width = target.shape[-2:]
    if not (isinstance(cells, int) and cells >= 1) or height % cells or width % cells:
        raise InputError(f"cells is {cells!r}, expected a divisor of {height} and {width}")


def check_regions(cells: int, regions: int, sublists: int) -> None:
    """Refuse numbers of regions and sub-lists that no image has."""
    if not (isinstance(cells, int) and cells >= 1):
        raise InputError(f"cells is {cells!r}, expected a whole number of at least 1")
    if not 1 <= regions <= cells**2:
        raise InputError(f"regions is {regions!r}, expected 1 to cells² = {cells**2}")
    if sublists < 1:
        raise InputError(f"sublists is {sublists!r}, expected at least 1")


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


def importance_loss(gate: Tensor) -> Tensor:
    """L_Eim (eq. 6): squared coefficient of variation of the experts' importance.

    An expert's importance is the sum of its weights over the pixels of an image. Summed over
    groups, averaged over the batch.

    Args:
        gate: `[B, M, N, h, w]`, weights that sum to one over N.

    Returns:
        A scalar, zero when all members of every group weigh the same.
    """
    importance = gate.sum(dim=(-2, -1))  # [B, M, N]
    variance, mean = torch.var_mean(importance, dim=-1, correction=0)
    return (variance / mean**2).sum(dim=-1).mean()


@dataclass(frozen=True)
class LossSettings:
    """Which terms, with which weight; a weight of zero leaves a term out.

    L_Des grows with (people per pixel x scale)², REL with people x scale, so that their reductions
    and the scale of the maps decide which of them rules. As printed (eq. 2 to 4: L_Des a mean over
    pixels, REL a sum) REL is larger by orders of magnitude, and a map that is zero or flat
    everywhere has no REL: training collapses. Notebook 04 shows it.

    The default sums L_Des, REL and L_Att over an image's pixels, as the released code does, and
    averages over the batch. L_Eim is a number of an image, whatever its size. Only beside sums do
    the paper's weights of 1 make it what it is meant to be, a nudge: beside means over the pixels
    of a crop of 128 x 128 it weighs 16,384 times as much and keeps gating net 1 exactly even
    (notebook 06 shows both).

    Attributes:
        density_weight, relative_weight, attention_weight, importance_weight: of L_Des, REL, L_Att
            and L_Eim.
        density_reduction, attention_reduction: over the pixels, see `density_loss`.
        relative_reduction: "mean" divides REL's sum of hinges by the number of pixels.
        cells, regions, sublists: see `relative_count_loss`.
        attention_threshold: see `attention_loss`.

    Raises:
        InputError: a choice is unknown, or a weight is negative.
    """

    choices: ClassVar[dict[str, tuple]] = {
        f"{term}_reduction": REDUCTIONS for term in ("density", "relative", "attention")
    }

    density_weight: float = 1.0
    density_reduction: str = "sum"
    relative_weight: float = 1.0
    relative_reduction: str = "sum"
    cells: int = 8
    regions: int = 9
    sublists: int = 3
    attention_weight: float = 1.0
    attention_reduction: str = "sum"
    attention_threshold: float = 1e-5
    importance_weight: float = 1.0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            allowed = self.choices.get(field.name)
            if allowed and value not in allowed:
                raise InputError(f"{field.name} is {value!r}, expected one of {allowed}")
            if field.name.endswith("_weight") and not value >= 0:
                raise InputError(f"{field.name} is {value!r}, expected a number of at least 0")
        check_regions(self.cells, self.regions, self.sublists)


@dataclass(eq=False)
class LossInputs:
    """What the terms of a loss are made from."""

    prediction: Prediction
    target: Tensor
    settings: Any  # LossSettings, or what has more terms

    output_weights: ClassVar[Tensor | None] = None  # `[C]`; None: all maps weigh the same

    @property
    def pixels(self) -> int:
        return self.target.shape[-2] * self.target.shape[-1]


def density_term(inputs: LossInputs) -> Tensor:
    """L_Des on each of the C maps."""
    return density_loss(
        inputs.prediction.maps,
        inputs.target,
        scale=inputs.prediction.scale,
        reduction=inputs.settings.density_reduction,
        output_weights=inputs.output_weights,
    )


def relative_term(inputs: LossInputs) -> Tensor:
    """REL on each of the C maps."""
    settings = inputs.settings
    loss = relative_count_loss(
        inputs.prediction.maps,
        inputs.target,
        scale=inputs.prediction.scale,
        cells=settings.cells,
        regions=settings.regions,
        sublists=settings.sublists,
        output_weights=inputs.output_weights,
    )
    return loss / inputs.pixels if settings.relative_reduction == "mean" else loss


def attention_term(inputs: LossInputs) -> Tensor | None:
    """L_Att, where there is attention."""
    attention, settings = inputs.prediction.attention, inputs.settings
    if attention is None:
        return None
    return attention_loss(
        attention,
        inputs.target,
        reduction=settings.attention_reduction,
        threshold=settings.attention_threshold,
    )


def importance_term(inputs: LossInputs) -> Tensor | None:
    """L_Eim on the gates of every inner level, where there are any."""
    gates = inputs.prediction.gates
    return sum(importance_loss(gate) for gate in gates) if gates else None


# A term's name → what makes it, or None where a network has nothing for it to act on. Its weight
# is the field `<name>_weight` of the settings.
TERMS: dict[str, Callable[[LossInputs], Tensor | None]] = {
    "density": density_term,
    "relative": relative_term,
    "attention": attention_term,
    "importance": importance_term,
}


def total_loss(
    prediction: Prediction, target: Tensor, settings: LossSettings | None = None
) -> dict[str, Tensor]:
    """L (eq. 7): L_Des + L_Rel on each of the C maps, L_Att and L_Eim where there are gates.

    Args:
        prediction: of a network, in training mode or not.
        target: density map `[B, 1, H, W]` in people per pixel, at the images' size.
        settings: None: the default.

    Returns:
        The terms that take part, unweighted, by name, and "total", their weighted sum; scalars.

    Raises:
        InputError: the grids do not fit.
    """
    return weighted_sum(LossInputs(prediction, target, settings or LossSettings()), TERMS)


def weighted_sum(inputs: LossInputs, terms: dict[str, Callable]) -> dict[str, Tensor]:
    """The terms of positive weight by name, and "total"."""
    losses, total = {}, torch.zeros((), device=inputs.target.device)
    for name, term in terms.items():
        weight = getattr(inputs.settings, f"{name}_weight")
        loss = term(inputs) if weight > 0 else None
        if loss is not None:
            losses[name] = loss
            total = total + weight * loss
    return losses | {"total": total}
