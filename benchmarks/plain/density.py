"""Density maps head by head, in NumPy and SciPy, float32 `[H, W]`, people per pixel."""

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree


def adaptive_sigmas(points: np.ndarray, neighbours: int = 3, beta: float = 0.3) -> np.ndarray:
    """MCNN's kernel widths (section 2.2): beta times the mean distance to the nearest heads.

    `[N, 2]` → `[N]`, pixels; N is larger than `neighbours`.
    """
    distance, _ = KDTree(points).query(points, k=neighbours + 1)
    return beta * distance[:, 1:].mean(axis=1)


def filtered(points, size, sigmas, *, truncate: float = 4.0) -> np.ndarray:
    """A filter of the full image for each head, the loop of MCNN's and CSRNet's preparation.

    A head stands on its pixel's centre, its Gaussian ends `truncate` sigmas away (4 is SciPy's
    default, which these scripts keep), and what a border cuts off is lost.
    """
    density = np.zeros(size, np.float32)
    for (x, y), sigma in zip(points, sigmas, strict=True):
        head = np.zeros(size, np.float32)
        head[int(y), int(x)] = 1
        density += gaussian_filter(head, sigma, mode="constant", truncate=truncate)
    return density


def stamped(points, size, sigmas, *, truncate: float = 4.0) -> np.ndarray:
    """A Gaussian patch for each head, of mass one inside the frame, added to a slice of the map.

    The patch is the outer product of two short vectors, which is as little work as a head takes.
    """
    height, width = size
    density = np.zeros(size, np.float32)
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    for (x, y), sigma in zip(points, sigmas, strict=True):
        radius = int(truncate * sigma + 0.5)
        across = slice(max(int(x) - radius, 0), int(x) + radius + 1)
        down = slice(max(int(y) - radius, 0), int(y) + radius + 1)
        gx = np.exp(-0.5 * ((columns[across] - x) / sigma) ** 2)
        gy = np.exp(-0.5 * ((rows[down] - y) / sigma) ** 2)
        density[down, across] += np.outer(gy / gy.sum(), gx / gx.sum())
    return density


def untruncated(points, size, sigma: float = 4.0) -> np.ndarray:
    """A Gaussian on all pixels for each head, divided by its sum: the targets of a crop."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    density = np.zeros(size, np.float32)
    for x, y in points:
        squares = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2
        head = np.exp(-squares / (2 * sigma**2))
        density += head / head.sum()
    return density
