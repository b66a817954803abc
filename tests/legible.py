"""What makes a figure hard to read, found by measuring where its parts lie."""

from itertools import combinations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox

WIDTH = 7.5  # inches: a wider figure is shrunk to it where it is printed
LEAST = 9.0  # points, then
TOUCH = 1.5  # pixels by which the boxes of two texts may overlap: they have room around the letters


def faults(figure: Figure) -> list[str]:
    """Texts that overlap or are too small, and legends that lie on data, each in a line."""
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if _seen(text)]
    boxes = [(text, text.get_window_extent()) for text in texts]
    found = [
        f"{a.get_text()!r} overlaps {b.get_text()!r}"
        for (a, first), (b, second) in combinations(boxes, 2)
        if _overlap(first, second)
    ]
    shrink = min(1.0, WIDTH / figure.get_figwidth())
    found += [
        f"{text.get_text()!r} is printed at {text.get_fontsize() * shrink:.1f} pt"
        for text in texts
        if text.get_fontsize() * shrink < LEAST - 0.01
    ]
    for legend in figure.findobj(Legend):
        frame = legend.get_window_extent()
        for ax in figure.axes:
            points = _data(ax)
            inside = [frame.contains(x, y) for x, y in points if ax.bbox.contains(x, y)]
            if any(inside):
                names = [text.get_text() for text in legend.get_texts()]
                found.append(f"the legend {names} lies on data")
    return found


def _seen(text: Text) -> bool:
    """Whether a text is drawn: tick labels beyond the limits and those of hidden axes are not."""
    if not text.get_text().strip() or not text.get_visible():
        return False
    axes = text.axes
    if axes is None:
        return True
    ticks = [
        label
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
    ]
    if any(text is label for label in ticks):
        return axes.axison and _within(text, axes)
    return True


def _within(label: Text, axes) -> bool:
    """Whether a tick label stands at a place that is on the axes."""
    x, y = label.get_window_extent().get_points().mean(axis=0)
    left, bottom, right, top = axes.bbox.extents
    return (left - 1 <= x <= right + 1) or (bottom - 1 <= y <= top + 1)


def _overlap(first: Bbox, second: Bbox) -> bool:
    shared = Bbox.intersection(first, second)
    return shared is not None and shared.width > TOUCH and shared.height > TOUCH


def _data(ax) -> np.ndarray:
    """Pixels `[n, 2]` on the lines (finely), markers and bars of axes."""
    places = [np.empty((0, 2))]
    for line in ax.lines:
        if line.get_visible() and len(line.get_xdata()):
            path = line.get_transform().transform_path(line.get_path()).interpolated(50)
            places.append(path.vertices)
    for dots in ax.collections:
        offsets = np.asarray(dots.get_offsets())
        if offsets.size:
            places.append(dots.get_offset_transform().transform(offsets))
    for bar in ax.patches:
        corners = bar.get_window_extent().get_points()
        places.append(np.linspace(*corners, 20))
    return np.concatenate(places)
