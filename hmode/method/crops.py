"""Random crops and flips for training.

Which images, crops and flips make up a batch is a function of (seed, epoch) alone: any epoch of a
run can be repeated without its past.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hmode.errors import InputError
from hmode.method.image import CrowdImage, inside, normalise


@dataclass(eq=False)
class Batch:
    """Crops of side c: images float32 `[B, 3, c, c]`, normalised; head points `[B, N, 2]`, padded
    to the most crowded crop, with `valid` `[B, N]` False for padding; mask bool `[B, 1, c, c]`,
    True where people are counted, None where no image of the data set has a mask."""

    images: Tensor
    points: Tensor
    valid: Tensor
    mask: Tensor | None = None


class Crop(NamedTuple):
    """Which image, where the crop begins in it (y, x; negative: outside), mirrored or not."""

    image: int
    corner: list[int]
    flip: bool


class Cut(NamedTuple):
    """What a crop of side c shows of its image: uint8 `[C, h, w]`, its upper left corner at
    (top, left) of the crop."""

    pixels: Tensor
    top: int
    left: int


class CropSampler:
    """Batches of random square crops, half of them mirrored.

    An image smaller than the crop is placed at random inside it, the rest filled with the mean
    colour (zero after normalisation). An epoch takes one crop of every image; the last batch is
    filled up from the start of the epoch's order, so that every batch is full. The points of a
    crop are the heads inside it.

    Args:
        images: `CrowdImage`s in memory (`hmode.data.CropSampler` takes any data set).
        crop: side c in pixels.
        batch_size: B, of all processes together.
        seed: of order, crops and flips.
        device: where the batches lie.
        rank, world: this process takes every world-th crop of a batch, from rank on.

    Raises:
        InputError: there are no images, one is not annotated, a number is not positive, or the
            batch size is not a multiple of the number of processes.
    """

    def __init__(
        self,
        images: Sequence[CrowdImage],
        *,
        crop: int,
        batch_size: int,
        seed: int,
        device="cpu",
        rank: int = 0,
        world: int = 1,
    ):
        if len(images) == 0:
            raise InputError("the training set is empty")
        if crop < 1 or batch_size < 1:
            raise InputError(f"crop is {crop} and batch_size {batch_size}, expected positive")
        if batch_size % world:
            raise InputError(
                f"batch_size is {batch_size}, expected a multiple of the {world} processes"
            )
        self.images, self.device = images, torch.device(device)
        self.crop, self.batch_size, self.seed = crop, batch_size, seed
        self.rank, self.world = rank, world
        self.sizes, points, self.masked = self.survey()
        self.points = [
            each[inside(each, size)] for each, size in zip(points, self.sizes, strict=True)
        ]

    def survey(self) -> tuple[np.ndarray, list[np.ndarray], bool]:
        """Every image's (H, W), `[n, 2]`, its points, and whether any image has a mask."""
        for each in self.images:
            if not each.annotated:
                raise InputError(f"{each.name}: not annotated, so nothing to train on")
        sizes = np.array([each.size for each in self.images])
        points = [each.points.numpy() for each in self.images]
        return sizes, points, any(each.mask is not None for each in self.images)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.points) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, the same at every call."""
        rng = np.random.default_rng([self.seed, epoch])
        order = np.resize(rng.permutation(len(self.points)), self.steps * self.batch_size)
        slack = self.sizes[order] - self.crop  # negative where the image is smaller
        corners = rng.integers(np.minimum(slack, 0), np.maximum(slack, 0) + 1)  # [., 2] (y, x)
        flips = rng.random(len(order)) < 0.5
        crops = [*map(Crop, order.tolist(), corners.tolist(), flips.tolist())]
        batches = [
            crops[start + self.rank : start + self.batch_size : self.world]
            for start in range(0, len(crops), self.batch_size)
        ]
        for batch, cuts in zip(batches, self.cuts(batches), strict=True):
            yield self._batch(batch, cuts)

    def cuts(self, batches: list[list[Crop]]) -> Iterable[list[Cut]]:
        """What each batch's crops show."""
        return ([self.cut(crop) for crop in batch] for batch in batches)

    def cut(self, crop: Crop) -> Cut:
        """What a crop shows of its image, and where in the crop that lies."""
        sample = self.images[crop.image]
        (top, left), (height, width) = crop.corner, sample.size
        rows = slice(max(top, 0), min(top + self.crop, height))
        columns = slice(max(left, 0), min(left + self.crop, width))
        pixels = sample.image[:, rows, columns]
        if self.masked:  # as a fourth channel; an image without a mask is counted everywhere
            shown = torch.ones(pixels.shape[1:], dtype=torch.uint8)
            if sample.mask is not None:
                shown = sample.mask[rows, columns].to(torch.uint8)
            pixels = torch.cat([pixels, shown[None].to(pixels.device)])
        start = columns.start - left
        if crop.flip:
            pixels, start = pixels.flip(-1), self.crop - start - pixels.shape[-1]
        return Cut(pixels, rows.start - top, start)

    def _batch(self, crops: list[Crop], cuts: list[Cut]) -> Batch:
        side, channels = self.crop, 3 + self.masked
        pixels = torch.zeros(len(cuts), channels, side, side, dtype=torch.uint8, device=self.device)
        for place, (shown, top, left) in zip(pixels, cuts, strict=True):
            _, height, width = shown.shape
            place[:, top : top + height, left : left + width].copy_(shown, non_blocking=True)
        images = normalise(pixels[:, :3])
        for image, (shown, top, left) in zip(images, cuts, strict=True):
            _, height, width = shown.shape
            if (height, width) != (side, side):  # around it the mean colour
                image[:, :top] = image[:, top + height :] = 0
                image[..., :left] = image[..., left + width :] = 0
        points, valid = self._padded([self._points(crop) for crop in crops])
        mask = pixels[:, 3:] > 0 if self.masked else None
        return Batch(images, points, valid, mask)

    def _points(self, crop: Crop) -> np.ndarray:
        """The heads in a crop, `[n, 2]`, in its own pixels."""
        points = self.points[crop.image] - np.array(crop.corner[::-1], dtype=np.float32)
        points = points[inside(points, (self.crop, self.crop))]
        if crop.flip:
            mirrored = np.minimum(self.crop - points[:, 0], np.nextafter(np.float32(self.crop), 0))
            points = np.stack([mirrored, points[:, 1]], axis=1)
        return points

    def _padded(self, points: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Points of different number as one `[B, N, 2]`, and which of them are valid."""
        most = max(1, *map(len, points))
        padded = np.zeros((len(points), most, 2), dtype=np.float32)
        for row, each in zip(padded, points, strict=True):
            row[: len(each)] = each
        valid = np.arange(most) < np.array([[len(each)] for each in points])
        return (
            torch.from_numpy(padded).to(self.device, non_blocking=True),
            torch.from_numpy(valid).to(self.device, non_blocking=True),
        )
