"""Counting one's own pictures: of any size and kind, within a stated memory."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hmode.data.pictures import to_pixels
from hmode.device import progress_bar
from hmode.errors import InputError
from hmode.fast.memory import kept_memory
from hmode.models import CountingNetwork, Prediction
from hmode.tiling import LEAST_TILE, can_be_tiled, cut, predict

GIB = 2**30
PROCESS = 0.8  # GiB: Python with torch and this package, before any picture
TILE = 0.5  # GiB: what a tile may take where no limit is given, nor a working size needs more
MAPS = 200  # bytes of all maps and gates in a cell, at most: five experts have 47 of 4 bytes


@dataclass(frozen=True, eq=False)
class Count:
    """What a network counts in one picture of H x W pixels.

    Attributes:
        count: people in the picture.
        prediction: every map and, where the network has them, every gate, as a batch of one on the
            CPU: `prediction.gate1`, `prediction.attention`, …
        picture: (H, W) in pixels of the picture itself; its maps are those of the size at which
            it was counted, see `CountingNetwork.working_pixels`. None: that size.
    """

    count: float
    prediction: Prediction = field(repr=False)
    picture: tuple[int, int] | None = None

    def __post_init__(self):
        if self.picture is None:  # counted at its own size
            object.__setattr__(self, "picture", tuple(self.prediction.size))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels, at which the picture was counted."""
        return self.prediction.size

    @property
    def density(self) -> Tensor:
        """float32 `[h, w]`, people per pixel on the network's grid; see `full_size`."""
        return self.prediction.density[0, 0] / self.prediction.scale

    def full_size(self) -> Tensor:
        """float32 `[H, W]`, people per pixel; its sum is the count."""
        return self.prediction.full_size()[0, 0]

    @property
    def experts(self) -> tuple[float, ...]:
        """People in the picture as each expert alone counts them, the finest first; () without."""
        return tuple(_people(self.prediction, self.prediction.experts[0]).tolist())

    def within(self, left: float, top: float, right: float, bottom: float) -> float:
        """People in a rectangle, in pixels from the upper left corner; cells that lie in it in
        part count in part. What is outside of the picture is empty."""
        down, across = (side / of for side, of in zip(self.size, self.picture, strict=True))
        box = (top * down, bottom * down, left * across, right * across)
        return _people(self.prediction, self.prediction.density[0], box).item()


def count(
    image,
    model: CountingNetwork,
    *,
    max_memory: float | None = None,
    progress: bool | None = False,
    name: str | None = None,
    seconds: float | None = None,
) -> Count:
    """Count the people in a picture.

    With a network that has a working size (`CountingNetwork.working_pixels`) every picture is
    brought to it first. One that does not fit into memory at once is counted in tiles, which
    changes the count by less than 0.01 % (`hmode.tiling`). A side below 32 pixels is padded with
    the mean colour, and nobody is counted in the padding.

    Args:
        image: a path, a PIL image, an array or a tensor, see `hmode.data.pictures.to_pixels`.
        model: a trained network, as of `hmode.load_run`; computes on the device it is on.
        max_memory: GiB that the process may take, 0.8 of them for Python and torch; with the
            network on a GPU, GiB there. None: a tile takes 0.5 GiB, and beside it the picture 3
            bytes a pixel, the maps of HMoDE 4 more: 12,000 x 9,000 pixels at a quarter of the
            network's width in less than 3 GB.
        progress: show a bar over the tiles; None: where somebody watches.
        name: of the picture, for errors; None: its path, where it is one.
        seconds: give up after so many, at the end of a tile; None: never.

    Raises:
        MissingFileError, InputError: the picture cannot be read or is none; the memory does not
            suffice; or the network is none, or counts no number.
    """
    if not isinstance(model, CountingNetwork):
        raise InputError(
            f"model is of type {type(model).__name__}, expected a network, as hmode.load_run gives"
        )
    if max_memory is not None and not 0 < max_memory < math.inf:
        raise InputError(f"max_memory is {max_memory!r}, expected a positive number of GiB or None")
    name = name or (str(image) if isinstance(image, (str, Path)) else "image")
    pixels = to_pixels(image)
    picture = tuple(pixels.shape[1:])
    pixels = fitted(pixels, model.working_pixels)
    tiles = cut(model, pixels.shape[1:], _tile_pixels(model, pixels, max_memory, name))
    stop = math.inf if seconds is None else monotonic() + seconds

    def done() -> None:
        bar.update()
        if monotonic() > stop:
            raise InputError(f"{name}: counting takes longer than {seconds:g} s")

    try:
        with progress_bar(len(tiles), progress, Path(name).name) as bar, kept_memory():
            prediction = predict(model, pixels, tiles, done)
    except torch.OutOfMemoryError:
        raise InputError(
            f"{name}: a tile does not fit into the device's memory; give a smaller max_memory"
        ) from None
    people = _people(prediction, prediction.density[0]).item()
    if not math.isfinite(people):
        raise InputError(f"{name}: the network counts {people} people; its weights are of no use")
    return Count(people, prediction, picture)


def fitted(pixels: Tensor, area: int | None) -> Tensor:
    """A picture, uint8 `[3, H, W]`, made smaller or larger, to about `area` pixels in its own
    shape; as it is with None."""
    height, width = pixels.shape[1:]
    scale = 1.0 if area is None else math.sqrt(area / (height * width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size == (width, height):
        return pixels
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _people(prediction: Prediction, maps: Tensor, box=(0, math.inf, 0, math.inf)) -> Tensor:
    """People in a rectangle (top, bottom, left, right) of each of `maps` `[C, h, w]` → `[C]`."""
    height, width = prediction.size
    rows = _overlaps(maps.shape[-2], prediction.stride, height, *box[:2])
    columns = _overlaps(maps.shape[-1], prediction.stride, width, *box[2:])
    return torch.einsum("chw,h,w->c", maps.double(), rows, columns) / prediction.scale


def _overlaps(cells: int, stride: int, side: int, start: float, stop: float) -> Tensor:
    """`[cells]`: how many of the pixels from `start` to `stop` lie in each cell along a side."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * stride
    return edges.clamp(max(start, 0), max(start, 0, min(stop, side))).diff()


def _tile_pixels(model, pixels: Tensor, max_memory: float | None, name: str) -> int:
    """How many pixels a tile may have, margins included.

    Raises:
        InputError: so few that the picture cannot be counted.
    """
    area, per_pixel = pixels[0].numel(), bytes_per_pixel(model)
    least = min(LEAST_TILE, area) if can_be_tiled(model) else area
    held = sum(p.nbytes for p in model.parameters())
    if next(model.parameters()).device.type == "cpu":
        held += PROCESS * GIB + area * (3 + MAPS / model.stride**2)
    room = max(TILE * GIB, 1.1 * per_pixel * (model.working_pixels or 0))
    if max_memory is not None:
        room = max_memory * GIB - held
    if room < least * per_pixel:
        height, width = pixels.shape[1:]
        how = "in tiles" if can_be_tiled(model) else "at once, as gates of whole images need,"
        given = "allow it with" if max_memory is None else f"found {max_memory:g} GiB in"
        needed = math.ceil(10 * (held + least * per_pixel) / GIB) / 10
        raise InputError(
            f"{name}: counting {width} x {height} pixels {how} takes {needed:g} GiB; "
            f"{given} max_memory"
        )
    return int(room / per_pixel)


def bytes_per_pixel(model: CountingNetwork) -> float:
    """Memory that computing a picture takes, at most; measured on the CPU for widths 1/16 to 1.

    What is largest are the features of the first encoder stage; with four and five experts, those
    of the decoder's last blocks.
    """
    finest = {1: 2.25, 2: 1.5}.get(model.stride, 1.0)
    width = model.config.get("encoder_width") or model.config["width"]
    return (96 + 1200 * width) * finest
