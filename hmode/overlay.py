"""The picture of a count: the density map drawn over the photograph."""

from pathlib import Path

import numpy as np
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from hmode.counting import Count
from hmode.outputs import maker
from hmode.runs import write_atomically

COLOURS = colormaps["magma"]
LONGEST = 1600  # pixels of the picture's longer side: a panorama is drawn smaller
DPI = 160
FAINT = 1e-3  # people per pixel, a tenth of a lone head's peak: less is not blown up to full colour


def draw_overlay(pixels: Tensor, counted: Count) -> Figure:
    """A photograph, its density over it, the count above, and a colour bar beside.

    Args:
        pixels: uint8 `[3, H, W]`, RGB; what was counted.
        counted: of `hmode.count`.
    """
    height, width = counted.size
    inches = LONGEST / DPI * np.array([width, height]) / max(width, height)
    # Colour bar and title need room of their own, and a strip of a picture some at all.
    fig = Figure(figsize=inches.clip(1.5) + (1.5, 0.6), dpi=DPI, layout="constrained")
    show_overlay(fig.subplots(), pixels, counted)
    return fig


def show_overlay(ax: Axes, pixels: Tensor, counted: Count) -> None:
    """The same on given axes, whose coordinates are the photograph's pixels."""
    height, width = counted.size
    density, cell = _reduced(counted.density, counted.prediction.stride)
    scale = Normalize(0, max(density.max(), FAINT))
    layer = COLOURS(scale(density))
    layer[..., 3] = 0.9 * np.sqrt(scale(density))  # nobody: the photograph alone
    rows, columns = density.shape
    ax.imshow(_thumbnail(pixels), extent=(0, width, height, 0))
    ax.imshow(layer, extent=(0, columns * cell, rows * cell, 0), interpolation="nearest")
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    ax.set_title(f"{counted.count:.1f} people")
    bar = ScalarMappable(scale, COLOURS)
    ax.figure.colorbar(bar, ax=ax, shrink=0.8, label="people per pixel")


def _reduced(density: Tensor, cell: int) -> tuple[np.ndarray, int]:
    """A density map on no more cells than are drawn, and the pixels per side of these."""
    factor = -(-max(density.shape) // LONGEST)
    means = F.avg_pool2d(density[None], factor, ceil_mode=True)[0]
    return means.clamp(min=0).numpy(), cell * factor


def _thumbnail(pixels: Tensor) -> Image.Image:
    step = max(1, max(pixels.shape) // (2 * LONGEST))
    image = Image.fromarray(pixels[:, ::step, ::step].permute(1, 2, 0).numpy())
    image.thumbnail((LONGEST, LONGEST))
    return image


def save_overlay(path: Path, pixels: Tensor, counted: Count) -> None:
    """Write the overlay as a PNG file.

    Raises:
        OutputError: it cannot be written.
    """
    fig = draw_overlay(pixels, counted)
    write_atomically(path, lambda partial: fig.savefig(partial, format="png", metadata=maker(path)))
