"""The three terms of DM-Count (Wang et al., "Distribution matching for crowd counting", 2020).

L = |count difference| + 0.1 · optimal transport + 0.01 · count · total variation, from the final
map and the heads' points, without Gaussians. Every term is averaged over the batch.
"""

import torch
from torch import Tensor

from hmode.errors import InputError

REG = 10.0
ITERATIONS = 100
# As in the released code: keeps scalings finite, and bounds the potentials by 36.8 · reg.
TINY = 1e-16
# People; what an empty map is divided by.
NOBODY = 1e-6


def count_loss(people: Tensor, valid: Tensor) -> Tensor:
    """Mean over the batch of |predicted - true count|, in people.

    Args:
        people: `[B, 1, h, w]`, predicted people per cell.
        valid: bool `[B, N]`, one True for each head.
    """
    return (people.sum(dim=(1, 2, 3)) - valid.sum(dim=1)).abs().mean()


def variation_loss(people: Tensor, points: Tensor, valid: Tensor, *, stride: int) -> Tensor:
    """Mean over the batch of N · TV(predicted, true), both maps divided by their own sums.

    TV is the total variation distance Σ |p - q| / 2, 0 to 1. (The released code leaves out the
    half.) An image without people costs nothing.

    Args:
        people, points, valid, stride: as in `transport_loss`.

    Returns:
        A scalar, in people.

    Raises:
        InputError: the shapes do not fit each other.
    """
    check_points(people, points, valid)
    true = cell_counts(points, valid, people.shape[-2:], stride)  # [B, h w]
    heads = true.sum(dim=1, keepdim=True)
    distance = (shares(people) - true / heads.clamp(min=1)).abs().sum(dim=1) / 2
    return (heads[:, 0] * distance).mean()


def transport_loss(
    people: Tensor,
    points: Tensor,
    valid: Tensor,
    *,
    stride: int,
    reg: float = REG,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Entropic optimal transport between the predicted map and the heads, both of mass one.

    The cost of moving mass from a cell to a head is the squared distance from the cell's centre
    in pixels. The potentials α of the heads and β of the cells come from Sinkhorn's iteration and
    carry no gradient; the loss is its dual, ⟨a, α⟩ + ⟨b, β⟩ for heads a and cells b. At
    convergence that is the cost of the plan less `reg` times the plan's entropy (so it may be
    negative), and its gradient in b is β: the gradient of the published method, through the
    normalisation of the map.

    As in the released code the potentials are bounded: what lies farther from all heads than
    about 19 pixels is pushed down evenly, however far away it is. The released code also sums over
    the batch, of ten images, where this is a mean, and offers coordinates normalised to the crop,
    off by default, which with this `reg` would leave hardly anything but the entropy.

    Args:
        people: `[B, 1, h, w]`, predicted people per cell; negative values count as none.
        points: `[B, N, 2]`, the heads (x, y) in pixels, inside the image and padded.
        valid: bool `[B, N]`, False for padding.
        stride: pixels per cell side.
        reg: weight of the entropy, squared pixels.
        iterations: of Sinkhorn, all of them always done.

    Returns:
        A scalar in squared pixels. An image without people counts as zero.

    Raises:
        InputError: the shapes do not fit each other.
    """
    check_points(people, points, valid)
    cells = shares(people)  # [B, h w]
    heads = valid.to(cells.dtype) / valid.sum(dim=1, keepdim=True).clamp(min=1)  # [B, N]
    cost = squared_distances(points.to(cells.dtype), people.shape[-2:], stride)
    alpha, beta = potentials(heads, cells.detach(), cost, reg, iterations)
    dual = (heads * alpha).sum(dim=1) + (cells * beta).sum(dim=1)
    return torch.where(valid.any(dim=1), dual, 0.0).mean()


@torch.no_grad()
def potentials(
    heads: Tensor, cells: Tensor, cost: Tensor, reg: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Sinkhorn's iteration: masses `[B, N]`, `[B, M]` and cost `[B, N, M]` → α `[B, N]`, β."""
    kernel = (-cost / reg).exp()
    u = heads
    for _ in range(iterations):
        v = cells / (torch.einsum("bn,bnm->bm", u, kernel) + TINY)
        u = heads / (torch.einsum("bnm,bm->bn", kernel, v) + TINY)
    return reg * (u + TINY).log(), reg * (v + TINY).log()


def squared_distances(points: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """`[B, N, h w]`: squared pixels from each point to each cell's centre."""
    rows, columns = (
        stride * (torch.arange(n, device=points.device, dtype=points.dtype) + 0.5) for n in grid
    )
    x, y = points.unbind(-1)
    across = (x[..., None] - columns) ** 2  # [B, N, w]
    down = (y[..., None] - rows) ** 2  # [B, N, h]
    return (down[..., None] + across[..., None, :]).flatten(-2)


def cell_counts(points: Tensor, valid: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """How many of the points lie in each cell, `[B, h w]`, in reading order."""
    h, w = grid
    x, y = (points / stride).long().unbind(-1)
    index = (y * w + x).clamp(0, h * w - 1)
    counts = points.new_zeros(len(points), h * w)
    return counts.scatter_add(1, index, valid.to(counts.dtype))


def shares(people: Tensor) -> Tensor:
    """Each cell's share of its map, `[B, 1, h, w]` → `[B, h w]`; negative values count as none."""
    cells = people.flatten(1).relu()
    return cells / (cells.sum(dim=1, keepdim=True) + NOBODY)


def check_points(people: Tensor, points: Tensor, valid: Tensor) -> None:
    """Refuse points that do not belong to the maps."""
    batch = len(people)
    if points.ndim != 3 or points.shape[::2] != (batch, 2) or valid.shape != points.shape[:2]:
        raise InputError(
            f"points have shape {list(points.shape)} and valid {list(valid.shape)}, expected "
            f"[{batch}, N, 2] and [{batch}, N]"
        )
