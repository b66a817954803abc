"""Large pictures through a counting network in tiles, with the maps that the whole would have.

A tile is computed with a margin of what surrounds it, and the part inside is kept. Beyond the
margin nothing that matters reaches a cell: with 128 pixels the counts of trained and of random
networks differ from the whole picture's by less than 0.01 %, with 64 by up to 0.6 %.

One operation looks further. The decoder's bilinear upsampling (align_corners) puts the corners of
the small map on the corners of the large one, so where between two cells it takes a value from
depends on the size of the whole picture. In a tile left alone that moves counts by up to 0.75 %,
whatever the margin; `_AsInTheWhole` makes a tile take its values from where the whole would.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields, replace
from itertools import product
from math import isqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hmode.data import normalise
from hmode.method.network import MIN_SIDE
from hmode.models import CountingNetwork, Prediction

MARGIN = 128
LEAST_TILE = (3 * MARGIN) ** 2  # pixels; of smaller ones nearly all is margin
# Gates that are averages over the whole picture, which a tile does not see.
WHOLE_IMAGE_GATES = ("image", "channel")


class Span(NamedTuple):
    """A tile along one side, in pixels: computed from `start` to `stop`, kept from `first` to
    `last`."""

    start: int
    first: int
    last: int
    stop: int


Tile = tuple[Span, Span]  # rows, columns


def can_be_tiled(model: CountingNetwork) -> bool:
    """Whether the network's maps depend on their surroundings only, not on the whole picture."""
    return model.config.get("gating") not in WHOLE_IMAGE_GATES


def cut(model: CountingNetwork, size: tuple[int, int], most: int) -> list[Tile]:
    """Tiles of at most `most` pixels each, margins included, that cover a picture of (H, W) pixels.

    Tiles begin where cells of all the network's maps begin. A picture that fits is one tile;
    for others `most` must be at least `LEAST_TILE`.
    """
    height, width = size
    rows = min(height, isqrt(most))
    columns = min(width, most // rows)
    rows = min(height, most // columns)
    sides = ((height, rows), (width, columns))
    return list(product(*(_spans(side, longest, model.multiple) for side, longest in sides)))


def _spans(side: int, longest: int, step: int) -> list[Span]:
    """Tiles of at most `longest` pixels along a side: all of the same length, so that memory that
    one has left serves the next."""
    if side <= longest:
        return [Span(0, 0, side, side)]
    parts = -(-side // ((longest - 2 * MARGIN) // step * step))
    kept = _round_up(-(-side // parts), step)
    length = kept + 2 * MARGIN
    spans = []
    for first in range(0, side, kept):
        start = min(max(first - MARGIN, 0), _round_up(side - length, step))
        spans.append(Span(start, first, min(first + kept, side), min(start + length, side)))
    return spans


@torch.no_grad()
def predict(
    model: CountingNetwork,
    image: Tensor,
    tiles: list[Tile],
    done: Callable[[], object] = lambda: None,
) -> Prediction:
    """The maps of one picture, computed tile by tile, on the model's device, and put together on
    the CPU.

    Where a side is shorter than the network takes, the picture is padded with the mean colour, as
    the network itself does with sides that are no multiples of 16; the padding's maps are cut off.

    Args:
        model: is put into evaluation mode and back.
        image: uint8 `[3, H, W]`, RGB.
        tiles: of `cut`.
        done: is called after each tile.
    """
    device, was_training = next(model.parameters()).device, model.training
    size = tuple(image.shape[-2:])
    sides = [_padded_side(side, model.multiple) for side in size]
    whole = None
    model.eval()
    try:
        for rows, columns in tiles:
            part = image[:, rows.start : rows.stop, columns.start : columns.stop].to(device)
            height, width = (_padded_side(side, model.multiple) for side in part.shape[-2:])
            bottom, right = height - part.shape[-2], width - part.shape[-1]
            images = F.pad(normalise(part), (0, right, 0, bottom))[None]
            placed = _AsInTheWhole((rows.start, columns.start), (height, width), sides)
            with placed if len(tiles) > 1 else nullcontext():
                prediction = model(images)
            whole = _empty(prediction, size) if whole is None else whole
            _keep(whole, prediction, rows, columns)
            done()
    finally:
        model.train(was_training)
    return whole


def _padded_side(side: int, step: int) -> int:
    return _round_up(max(side, MIN_SIDE), step)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def maps_of(prediction: Prediction) -> Iterator[Tensor]:
    """Every map and every gate of a prediction, in the order of its fields."""
    for field in fields(prediction):
        value = getattr(prediction, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Tensor):
                yield each


def _empty(like: Prediction, size: tuple[int, int]) -> Prediction:
    """A prediction with the same maps and gates for a picture of another size, yet to be filled."""
    grid = [-(-side // like.stride) for side in size]

    def empty(value):
        if isinstance(value, tuple):
            return tuple(map(empty, value))
        if isinstance(value, Tensor):
            return value.new_empty(*value.shape[:-2], *grid, device="cpu")
        return value

    values = {field.name: empty(getattr(like, field.name)) for field in fields(like)}
    return replace(like, **values | {"size": size})


def _keep(whole: Prediction, part: Prediction, *spans: Span) -> None:
    """Copy what is to be kept of a tile's maps to its place."""
    step = whole.stride
    there = tuple(slice(span.first // step, -(-span.last // step)) for span in spans)
    here = tuple(
        slice(place.start - span.start // step, place.stop - span.start // step)
        for place, span in zip(there, spans, strict=True)
    )
    for target, source in zip(maps_of(whole), maps_of(part), strict=True):
        target[..., *there] = source[..., *here]


class _AsInTheWhole(TorchFunctionMode):
    """Lets `F.interpolate` with align_corners do in a tile what it would do in the whole picture.

    Args:
        starts: where the tile begins in the picture, (row, column) in pixels.
        lengths, sides: (H, W) of the tile and of the picture, as they are padded.
    """

    def __init__(self, starts, lengths, sides):
        super().__init__()
        self.places = list(zip((-2, -1), starts, lengths, sides, strict=True))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        alone = function(*args, **kwargs)
        if function is not F.interpolate or not kwargs.get("align_corners"):
            return alone
        features = args[0]
        for axis, *place in self.places:
            features = _stretch(features, axis, alone.shape[axis], *place)
        return features


def _stretch(x: Tensor, axis: int, cells: int, start: int, length: int, side: int) -> Tensor:
    """Linear interpolation along an axis of a tile of `length` pixels that begins at pixel `start`
    of a picture with `side` pixels; `cells` is how many the tile is to have.

    In the picture n cells become m, and cell i lies at i (n - 1) / (m - 1).
    """
    n, m = x.shape[axis] * side // length, cells * side // length
    first, new_first = x.shape[axis] * start // length, cells * start // length
    i = torch.arange(new_first, new_first + cells, dtype=torch.float64, device=x.device)
    place = (i * (n - 1) / (m - 1) - first).clamp(0, x.shape[axis] - 1)
    below = place.long()
    above = (below + 1).clamp(max=x.shape[axis] - 1)
    part = (place - below).to(x.dtype).view(-1, *[1] * (-1 - axis))
    return torch.lerp(x.index_select(axis, below), x.index_select(axis, above), part)
