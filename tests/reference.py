"""Slow plain versions, written from the equations, that the package is compared with."""

import itertools

import numpy as np
import torch


def density_by_points(points, size, sigmas, window=None) -> np.ndarray:
    """One Gaussian per head on the whole image, divided by its own sum, in float64."""
    height, width = size
    rows, columns = np.mgrid[:height, :width] + 0.5
    total = np.zeros(size)
    for (x, y), sigma in zip(np.asarray(points, float), np.asarray(sigmas, float), strict=True):
        if not (0 <= x < width and 0 <= y < height):
            continue
        if window is not None:
            x, y = np.floor(x) + 0.5, np.floor(y) + 0.5
        exponent = -((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)
        if window is not None:
            half = window // 2
            box = (abs(columns - x) <= half) & (abs(rows - y) <= half)
            exponent = np.where(box, exponent, -np.inf)
        head = np.exp(exponent - exponent.max())
        total += head / head.sum()
    return total


def adaptive_sigma_by_pairs(points, neighbours, beta, fallback) -> np.ndarray:
    points = np.asarray(points, float).reshape(-1, 2)
    sigmas = []
    for i, here in enumerate(points):
        others = [np.hypot(*(here - other)) for j, other in enumerate(points) if j != i]
        near = sorted(others)[:neighbours]
        mean = sum(near) / len(near) if near else 0.0
        sigmas.append(beta * mean if mean > 0 else fallback)
    return np.array(sigmas)


def repeat(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Nearest upsampling: every value becomes `side` x `side` pixels."""
    return maps.repeat_interleave(side, -2).repeat_interleave(side, -1)


def block_sums(image: np.ndarray, cells: int) -> np.ndarray:
    """Sums over `cells` x `cells` equal regions of one `[H, W]` image, in reading order."""
    h, w = image.shape[0] // cells, image.shape[1] // cells
    return np.array([
        image[i * h : (i + 1) * h, j * w : (j + 1) * w].sum()
        for i in range(cells)
        for j in range(cells)
    ])  # fmt: skip


def relative_loss_by_loops(
    pred, target, *, cells, regions, sublists, form="paper", weights=None
) -> float:
    """Eq. 2 for full-size `pred` `[B, C, H, W]`, one image and one map at a time."""
    pred, target = pred.detach().double().numpy(), target.double().numpy()
    total = 0.0
    for image, truth in zip(pred, target, strict=True):
        for c, each in enumerate(image):
            counts, true = block_sums(each, cells), block_sums(truth[0], cells)
            error = block_sums((each - truth[0]) ** 2, cells)
            hard = sorted(range(cells**2), key=lambda r: -error[r])[:regions]
            ranked = sorted(hard, key=lambda r: -true[r])
            x = [counts[r] for r in ranked]
            loss = 0.0
            for start in range(sublists):
                members = x[start::sublists]
                if form == "paper":
                    pairs = itertools.pairwise(members)
                else:
                    pairs = itertools.combinations(members, 2)
                loss += sum(max(0.0, after - before) for before, after in pairs)
            total += loss * (1.0 if weights is None else float(weights[c]))
    return total / len(pred)
