"""REL, the relative local counting loss (section III-C, eq. 2)."""

import torch
from torch import Generator, Tensor

from hmode.density import local_counts
from hmode.errors import InputError
from hmode.losses.density import cell_side, over_maps, squared_errors

MINING = ("hard", "random")
FORMS = ("paper", "official")


def relative_count_loss(
    pred: Tensor,
    target: Tensor,
    *,
    scale: float = 1.0,
    judged: Tensor | None = None,
    cells: int = 8,
    regions: int = 9,
    sublists: int = 3,
    mining: str = "hard",
    form: str = "paper",
    output_weights: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """L_Rel: a hinge on the order of the counts of hard-predicted regions.

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
        mining: "hard" (largest error) or "random" (Table IX, RR).
        form: "paper" (eq. 2: next neighbours of a sub-list) or "official" (the released code: all
            pairs of a sub-list, (1,2), (2,3) and (1,3) for S = 9).
        output_weights: `[C]`, or None for equal weights of one.
        generator: draws the random regions, on pred's device; needed for mining="random".

    Returns:
        A scalar in the unit of a summed map, summed over maps and averaged over the batch; value
        and gradient are those of `pred` repeated s x s. The choice and ranking of regions carry
        no gradient.

    Raises:
        InputError: a setting is out of its range or the grids do not fit.
    """
    _check(target, cells, regions, sublists, mining, form, generator)
    pred = uncut(pred, target, cells)
    judged = pred if judged is None else uncut(judged, target, cells)
    predicted = region_sums(pred, target, cells)  # [B, C, cells²]
    true = region_sums(target, target, cells).expand_as(predicted)

    if mining == "hard":
        score = region_sums(squared_errors(judged.detach(), target, scale), target, cells)
        score = score.expand_as(predicted)
    else:
        score = torch.rand(predicted.shape, generator=generator, device=pred.device)
    chosen = score.topk(regions, dim=-1).indices  # [B, C, S]
    ranking = true.gather(-1, chosen).argsort(dim=-1, descending=True, stable=True)
    x = predicted.gather(-1, chosen.gather(-1, ranking))

    # Members of one sub-list lie a multiple of `sublists` apart in the ranking.
    gaps = (sublists,) if form == "paper" else range(sublists, regions, sublists)
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


def _check(target, cells, regions, sublists, mining, form, generator) -> None:
    check_regions(cells, regions, sublists)
    whole_regions(target, cells)
    if mining not in MINING:
        raise InputError(f"mining is {mining!r}, expected one of {MINING}")
    if form not in FORMS:
        raise InputError(f"form is {form!r}, expected one of {FORMS}")
    if mining == "random" and generator is None:
        raise InputError("mining='random' needs a generator")
