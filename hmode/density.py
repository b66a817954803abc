"""Density maps (`hmode.method.density`), and a sigma that follows the crowd."""

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from hmode.errors import InputError
from hmode.method.density import batch_density_maps, checked_points, density_map, local_counts

__all__ = ["adaptive_sigma", "batch_density_maps", "density_map", "local_counts"]


def adaptive_sigma(points, *, neighbours=3, beta=0.3, fallback=4.0) -> Tensor:
    """The geometry-adaptive kernel width of MCNN (Zhang et al., CVPR 2016, section 2.2).

    Args:
        points: `[N, 2]`, (x, y) in pixels.
        neighbours: how many nearest other points to average over; where the image holds fewer,
            those there are.
        beta: sigma is beta times the mean distance.
        fallback: sigma in pixels of a point without a distance to go by: the only one of its
            image, or one whose neighbours all coincide with it.

    Returns:
        float32 `[N]`, pixels, positive, on the device of `points`; not differentiated.

    Raises:
        InputError: points are not `[N, 2]` or not finite, or a setting is not positive.
    """
    points = checked_points(points)
    for name, value in (("neighbours", neighbours), ("beta", beta), ("fallback", fallback)):
        if not value > 0:
            raise InputError(f"{name} is {value}, expected a positive number")
    near = min(neighbours, len(points) - 1)
    if near < 1:
        return points.new_full((len(points),), fallback)
    where = points.detach().cpu().numpy().astype(np.float64)
    # The nearest of all is the point itself, at distance zero: drop it.
    distance, _ = KDTree(where).query(where, k=near + 1)
    mean = distance[:, 1:].mean(axis=1)
    sigma = np.where(mean > 0, beta * mean, fallback).astype(np.float32)
    return torch.from_numpy(sigma).to(points.device)
