"""Errors of one image inside regions: the cells of GAME, a mask, the foreground.

The people of a region are the annotated points whose pixel lies in it; a point outside the frame
lies in no region. What is predicted for it is the sum of the full-size density map over it.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from hmode.method.image import people_in

# Where a target density map is above this, in people per pixel, is the foreground A^g (eq. 5).
FOREGROUND = 1e-5
# GAME is given for levels 0 to 3.
GAME_LEVELS = 4


def game_errors(density: Tensor, points: Tensor) -> np.ndarray:
    """GAME(0) to GAME(3) of one image (Guerrero-Gómez-Olmedo et al., IbPRIA 2015).

    At level L the image is split into 4^L cells, by halving both sides L times, each part of s
    pixels after int(s / 2) of them. GAME(L) is the sum over the cells of |predicted - true|: an
    error here no longer makes up for one there. It never falls with L, and GAME(0) is |error| of
    the people inside the frame.

    Args:
        density: `[H, W]`, people per pixel.
        points: `[N, 2]`, (x, y) in pixels; those outside the frame are in no cell.

    Returns:
        `[4]`, people.
    """
    differences = cell_sums(density) - cell_people(points, tuple(density.shape))
    return np.array([np.abs(_merge(differences, 2**level)).sum() for level in range(GAME_LEVELS)])


def cell_sums(density: Tensor, level: int = GAME_LEVELS - 1) -> np.ndarray:
    """`[2^level, 2^level]`: a map `[H, W]` summed over GAME's cells."""
    rows, columns = (list(pairwise(_lines(side, level))) for side in density.shape)
    strips = torch.stack([density[top:bottom].sum(dim=0) for top, bottom in rows])
    cells = torch.stack([strips[:, left:right].sum(dim=1) for left, right in columns], dim=1)
    return cells.double().cpu().numpy()


def cell_people(points: Tensor, size: tuple[int, int], level: int = GAME_LEVELS - 1) -> np.ndarray:
    """`[2^level, 2^level]`: how many points `[N, 2]`, (x, y), lie in each of GAME's cells."""
    inside = points[people_in(torch.ones(size, dtype=torch.bool), points)]
    lines = [_lines(side, level) for side in size]
    return np.histogram2d(inside[:, 1].numpy(), inside[:, 0].numpy(), bins=lines)[0]


def _lines(side: int, level: int) -> np.ndarray:
    """`[2^level + 1]`: where GAME's cells of a side begin, and its end."""
    lines = np.array([0, side])
    for _ in range(level):
        lines = np.insert(lines, range(1, len(lines)), (lines[:-1] + lines[1:]) // 2)
    return lines


def _merge(cells: np.ndarray, side: int) -> np.ndarray:
    """`[side, side]` sums of neighbours in `[n, n]`: halving again and again, cells nest."""
    each = len(cells) // side
    return cells.reshape(side, each, side, each).sum(axis=(1, 3))
