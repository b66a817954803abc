"""The training loss (eq. 7) of full-size maps, one output, one image and one region at a time."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from hmode.models import Prediction

CELLS, REGIONS, SUBLISTS = 8, 9, 3
THRESHOLD = 1e-5


def total_loss(prediction: Prediction, target: Tensor) -> Tensor:
    """L_Des + L_Rel on every map, L_Att, L_Eim: "paper", sums over an image's pixels.

    Args:
        prediction: of HMoDE, any batch.
        target: `[B, 1, H, W]`, people per pixel.

    Returns:
        A scalar, differentiable.
    """
    size, pixels = target.shape[-2:], target[0].numel()
    truth = target * prediction.scale
    total = 0.0
    for output in prediction.maps.split(1, dim=1):  # [B, 1, h, w] each
        full = F.interpolate(output, size=size, mode="nearest")  # [B, 1, H, W]
        total = total + pixels * F.mse_loss(full, truth) + relative_loss(full, truth)
    attention = F.interpolate(prediction.attention, size=size, mode="nearest")
    foreground = (target > THRESHOLD).to(attention.dtype)
    total = total + pixels * F.binary_cross_entropy(attention, foreground)
    return total + sum(importance_loss(gate) for gate in prediction.gates)


def relative_loss(maps: Tensor, truth: Tensor) -> Tensor:
    """Eq. 2 for one output, `[B, 1, H, W]`: averaged over the batch."""
    losses = [relative_loss_of_image(m[0], t[0]) for m, t in zip(maps, truth, strict=True)]
    return torch.stack(losses).mean()


def relative_loss_of_image(image: Tensor, truth: Tensor) -> Tensor:
    """The hinges of one map `[H, W]` of one image: hard regions, ranked, dealt into sub-lists."""
    found, true = regions(image), regions(truth)
    with torch.no_grad():
        errors = torch.stack([((f - t) ** 2).sum() for f, t in zip(found, true, strict=True)])
        people = torch.stack([t.sum() for t in true]).tolist()
    hardest = sorted(range(len(found)), key=errors.tolist().__getitem__, reverse=True)[:REGIONS]
    ranked = sorted(hardest, key=people.__getitem__, reverse=True)
    counts = [found[region].sum() for region in ranked]
    loss = torch.zeros_like(counts[0])
    for first in range(SUBLISTS):
        for before, after in pairwise(counts[first::SUBLISTS]):
            loss = loss + F.relu(after - before)
    return loss


def regions(image: Tensor) -> list[Tensor]:
    """`[H, W]` → its CELLS x CELLS regions in reading order."""
    return [region for row in image.chunk(CELLS, 0) for region in row.chunk(CELLS, 1)]


def importance_loss(gate: Tensor) -> Tensor:
    """Eq. 6: `[B, M, N, h, w]` → squared coefficients of variation, image by image."""
    losses = []
    for image in gate:
        for group in image:
            importance = group.sum(dim=(-2, -1))  # [N]
            losses.append(importance.var(correction=0) / importance.mean() ** 2)
    return torch.stack(losses).sum() / len(gate)
