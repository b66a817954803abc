"""The network in one drawing, after Fig. 2 of the paper: every module, its shapes, its losses.

The numbers in the boxes are those of the cells of notebook 03 that build them.
"""

from itertools import pairwise

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hmode.method.gating import ATTENTION_CHANNELS, GATE1_CHANNELS, GATE2_CHANNELS
from hmode.method.network import BLOCK_CHANNELS, STAGE_CHANNELS
from hmode.plots import COLOURS

GREY = "0.35"
LOSS = "#b3262e"
ROWS = (36.5, 28.0, 19.5)  # strides 4, 8 and 16
STRIDES = (1, 2, 4, 8, 16)


def network_diagram() -> Figure:
    """HMoDE with K = 3 and N = 2 at full width, for an image of H x W pixels."""
    fig, ax = plt.subplots(figsize=(7.5, 5.6), layout="none")
    fig.subplots_adjust(0, 0, 1, 1)
    ax.set(xlim=(0, 75), ylim=(0, 56))
    ax.axis("off")
    _encoder(ax)
    _decoder_and_experts(ax)
    _mixture(ax)
    _gates(ax)
    text = (
        r"$\mathbf{7\;\;Losses}$ (red): $L=\Sigma_{maps}\,(L_{Des}+L_{Rel})+L_{Att}+L_{Eim}$"
        "\nE1, E2, E3, Gr1, Gr2, Gr3 and the final map each have"
        "\na loss of their own, at the size of the image."
    )
    ax.text(31.5, 49.5, text, fontsize=9, va="center", color=LOSS, linespacing=1.5)
    return fig


def _box(ax: Axes, x: float, y: float, text: str, colour, width: float, height: float = 6.0):
    """A box with its left edge at x, its middle at y."""
    box = plt.Rectangle((x, y - height / 2), width, height, fc="white", ec=colour, lw=1.5, zorder=2)
    ax.add_patch(box)
    ax.text(x + width / 2, y, text, ha="center", va="center", fontsize=9, zorder=3)


def _arrow(ax: Axes, *places: tuple[float, float], colour=GREY, style: str = "-"):
    """A line through places, with a head at its end."""
    for start, end in pairwise(places[:-1]):
        ax.plot(*zip(start, end, strict=True), style, color=colour, lw=1.1, zorder=1)
    arrow = {"arrowstyle": "-|>", "color": colour, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", places[-1], places[-2], arrowprops=arrow | {"linestyle": style}, zorder=1)


def _shape(channels: int, stride: int) -> str:
    return f"[{channels}, H/{stride}, W/{stride}]" if stride > 1 else f"[{channels}, H, W]"


def _encoder(ax: Axes):
    ax.text(0.7, 54.3, r"$\mathbf{1\;\;Encoder}$ (VGG-16)", fontsize=9)
    tops = (50.0, 43.5, *ROWS)
    for i, (y, channels, stride) in enumerate(zip(tops, STAGE_CHANNELS, STRIDES, strict=True)):
        name = f"stage {i + 1}" if i < 4 else "stage 5: feature F"
        _box(ax, 0.7, y, f"{name}\n{_shape(channels, stride)}", "black", 14, 5)
        if i:
            _arrow(ax, (7.7, tops[i - 1] - 2.5), (7.7, y + 2.5))


def _decoder_and_experts(ax: Axes):
    ax.text(17.6, 41.8, r"$\mathbf{2\;\;Decoder}$", fontsize=9)
    ax.text(34.0, 41.8, r"$\mathbf{3\;\;Experts}$", fontsize=9)
    for k, y in enumerate(ROWS):
        stride, block = STRIDES[2 + k], 3 - k
        shape = _shape(BLOCK_CHANNELS[block - 1][1], stride)
        _box(ax, 17.6, y, f"block {block}\n{shape}", "black", 13.4, 5)
        _arrow(ax, (14.7, y), (17.6, y))
        if k:
            _arrow(ax, (24.3, y + 2.5), (24.3, ROWS[k - 1] - 2.5))
            ax.text(24.8, y + 4.2, "×2", fontsize=9, va="center", color=GREY)
        name = f"E{k + 1}"
        _box(ax, 34, y, f"{name}\n{_shape(1, stride)}", COLOURS[name], 11.4, 5)
        _arrow(ax, (31, y), (34, y))


def _mixture(ax: Axes):
    for x in (33.3, 49.3):  # what stands below a column is about all of it
        size = (12.8, ROWS[0] - ROWS[-1] + 6.4)
        ax.add_patch(plt.Rectangle((x, ROWS[-1] - 3.2), *size, fc="0.93", ec="none", zorder=0))
    ax.text(50.0, 41.8, r"$\mathbf{6\;\;Groups}$", fontsize=9)
    ax.text(65.2, 41.8, r"$\mathbf{6\;\;Final}$", fontsize=9)
    for i, (y, group) in enumerate(zip(ROWS, ((0, 1), (0, 2), (1, 2)), strict=True)):
        a, b = group
        text = f"Gr{i + 1}: E{a + 1}, E{b + 1}\n{_shape(1, 4)}"
        _box(ax, 50, y, text, COLOURS["groups"], 11.4, 5)
        for j, k in enumerate(group):
            end = (50, y + (1, -1)[j])
            _arrow(ax, (45.4, ROWS[k]), end, colour=COLOURS[f"E{k + 1}"])
        _arrow(ax, (61.4, y), (64, ROWS[1] + 1.2 * (1 - i)), colour=COLOURS["groups"])
    _box(ax, 64, ROWS[1], f"$E_{{out}}$\n{_shape(1, 4)}", COLOURS["final"], 10.6, 5)
    for x, y in ((39.7, 14.8), (54.2, 14.8), (69.3, 24)):
        ax.text(x, y, "$L_{Des}+L_{Rel}$", ha="center", fontsize=9, color=LOSS)


def _gates(ax: Axes):
    layers = len(GATE1_CHANNELS) + 1
    gate1 = f"$\\bf{{4}}$  gating net 1: {layers} convs, softmax\n[3 groups, 2 members, H/16, W/16]"
    _box(ax, 33, 10.3, gate1, COLOURS["groups"], 28, 5)
    _arrow(ax, (60.3, 12.8), (60.3, 16.3))
    ax.text(61, 14.2, "$G^1$", fontsize=10)
    ax.text(62, 9.7, "$L_{Eim}$", fontsize=9, color=LOSS)
    attention = f"$\\bf{{5}}$  attention A\n{len(ATTENTION_CHANNELS) + 1} convs, sigmoid"
    _box(ax, 11.5, 3.4, attention, "black", 13, 5)
    ax.text(12.2, 6.5, "$L_{Att}$", fontsize=9, color=LOSS)
    ax.text(28.2, 3.4, "×", fontsize=14, ha="center", va="center_baseline")
    layers = len(GATE2_CHANNELS) + 1
    gate2 = f"$\\bf{{4}}$  gating net 2: {layers} convs, softmax\n[3 groups, H/16, W/16]"
    _box(ax, 33, 3.4, gate2, COLOURS["final"], 28, 5)
    _arrow(ax, (61, 3.4), (69.3, 3.4), (69.3, 23.3))
    ax.text(70, 12.9, "$G^2$", fontsize=10)
    # F goes to gating net 1, to the attention net, and past it to the product F' = A F.
    _arrow(ax, (7.7, 17), (7.7, 3.4), (11.5, 3.4))
    _arrow(ax, (7.7, 10.3), (33, 10.3))
    _arrow(ax, (28.2, 10.3), (28.2, 5))
    _arrow(ax, (24.5, 3.4), (27.2, 3.4))
    _arrow(ax, (29.2, 3.4), (33, 3.4))
    ax.text(8.2, 13.3, "F", fontsize=10)
    ax.text(30.2, 5.2, "F'", fontsize=10)
