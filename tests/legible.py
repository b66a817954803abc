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
    figure.draw_without_rendering()  # also one that pyplot does not know
    undrawn = _undrawn_labels(figure)
    texts = [
        text
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and id(text) not in undrawn
    ]
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


def _undrawn_labels(figure: Figure) -> set[int]:
    """Tick labels that are kept but not drawn: beyond the limits, or of hidden axes."""
    kept, drawn = set(), set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.majorTicks, *axis.minorTicks):
                kept |= {id(tick.label1), id(tick.label2)}
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if ax.axison and low <= tick.get_loc() <= high:
                    drawn |= {id(tick.label1), id(tick.label2)}
    return kept - drawn


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
