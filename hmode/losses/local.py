"""Other losses on local counts that REL is compared with in Table IX: ALC and REL (MD)."""

import torch
from torch import Generator, Tensor

from hmode.errors import InputError
from hmode.method.losses import cell_side, over_maps, region_sums, uncut, whole_regions

SQUARES = 5
SHRINK = 0.75
# The anchor region's sides, as a share of the image's.
ANCHORS = 1 / 8


def local_count_loss(
    pred: Tensor, target: Tensor, *, cells: int = 8, output_weights: Tensor | None = None
) -> Tensor:
    """ALC (Table IX): mean absolute error of the local counts of cells x cells regions.

    A count stands for its region's mean density here, that is, it is divided by the pixels of its
    region: the loss is in the unit of the maps, and as strong next to L_Des whatever the size of
    image and regions. (REL's "mean" reduction is the same: hinges over pixels.)

    Args:
        pred, output_weights: see `density_loss`, as for the scalar returned.
        target: `[B, 1, H, W]` in the unit of `pred`; H = s h and W = s w for a whole s.
        cells: regions per side; divides H and W.

    Raises:
        InputError: cells does not divide the image, or the grids do not fit.
    """
    whole_regions(target, cells)
    predicted = region_sums(uncut(pred, target, cells), target, cells)  # [B, C, cells²]
    true = region_sums(target, target, cells)  # [B, 1, cells²]
    pixels = target.shape[-2] * target.shape[-1] / cells**2
    per_map = (predicted - true).abs().mean(dim=-1) / pixels
    return over_maps(per_map, output_weights)


def nested_count_loss(
    pred: Tensor,
    target: Tensor,
    *,
    output_weights: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """REL (MD) (Table IX): a hinge on the order of the counts of nested squares.

    As Liu et al. ("Leveraging unlabeled data for crowd counting by learning to rank", CVPR 2018):
    around an anchor point, drawn for each image from its central region (an eighth of its sides),
    the largest square inside the image, and four more, each 0.75 times as wide as the one before.
    With the counts x_1 … x_5 from the outermost inwards, Σ max(0, x_{k+1} - x_k). Borders lie
    anywhere, also inside a pixel, which counts by the share of its area.

    A square of a map without negative values never holds more than the square around it: for a
    network that ends in a ReLU this loss is identically zero, and so is its gradient. Liu et al.
    count every square in a pass of its own through the network, resized, where the order is not
    given. The paper (section IV-F) reports a change for the worse and does not say how squares of
    one density map gave it.

    Args:
        pred, output_weights: see `density_loss`; the scalar returned is in the unit of a summed
            map.
        target: `[B, 1, H, W]`; only its size counts, and that H = s h and W = s w for a whole s.
        generator: draws the anchors, on pred's device.

    Raises:
        InputError: there is no generator, or the grids do not fit.
    """
    if generator is None:
        raise InputError("mining='matryoshka' needs a generator")
    s = cell_side(target, pred.shape[-2:])
    draws = torch.rand(len(pred), 2, generator=generator, device=pred.device, dtype=pred.dtype)
    sizes = torch.cat([pred.new_full((1,), side) for side in target.shape[-2:]])  # on the device
    anchors = sizes * (0.5 + ANCHORS * (draws - 0.5))  # [B, 2] (y, x)
    largest = torch.minimum(anchors, sizes - anchors).amin(dim=1)  # [B], half a side
    halves = largest[:, None] * SHRINK ** torch.arange(SQUARES, device=pred.device)  # [B, 5]
    rows = overlaps(anchors[:, :1], halves, pred.shape[-2], s)  # [B, 5, h]
    columns = overlaps(anchors[:, 1:], halves, pred.shape[-1], s)  # [B, 5, w]
    counts = torch.einsum("bkh,bchw,bkw->bck", rows, pred, columns)  # [B, C, 5]
    hinges = (counts[..., 1:] - counts[..., :-1]).relu()
    return over_maps(hinges.sum(dim=-1), output_weights)


def overlaps(centres: Tensor, halves: Tensor, cells: int, side: int) -> Tensor:
    """Pixels that each of `cells` cells of `side` shares with [centre - half, centre + half].

    `[B, 1]` and `[B, K]` → `[B, K, cells]`, along one axis.
    """
    start = side * torch.arange(cells, device=halves.device, dtype=halves.dtype)
    low, high = (centres - halves)[..., None], (centres + halves)[..., None]
    return (torch.minimum(start + side, high) - torch.maximum(start, low)).clamp(min=0)
