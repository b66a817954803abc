"""Random crops and flips for training.

Every image is decoded once, before training begins. As many as fit into a stated memory stay
decoded on the training device (`Resident`); the rest are decoded again by worker threads, some
batches ahead, and go there through pinned memory. Which images, crops and flips make up a batch
is a function of (seed, epoch) alone: any epoch of a run can be repeated without its past, with
any memory.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hmode.data.resident import Resident
from hmode.data.sample import CrowdImage, normalise
from hmode.errors import InputError

AHEAD = 2  # batches that are decoded while one is trained on


@dataclass(eq=False)
class Batch:
    """Crops of side c: images float32 `[B, 3, c, c]`, normalised; head points `[B, N, 2]`, padded
    to the most crowded crop, with `valid` `[B, N]` False for padding; mask bool `[B, 1, c, c]`,
    True where people are counted, None where no image of the data set has a mask."""

    images: Tensor
    points: Tensor
    valid: Tensor
    mask: Tensor | None = None


class Cut(NamedTuple):
    """What a crop of side c shows of its image: uint8 `[C, h, w]`, its upper left corner at
    (top, left) of the crop."""

    pixels: Tensor
    top: int
    left: int

    @property
    def within(self) -> tuple[slice, slice, slice]:
        """Its place in the crop `[C, c, c]`."""
        _, height, width = self.pixels.shape
        here = slice(self.top, self.top + height), slice(self.left, self.left + width)
        return slice(None), *here

    def clear_around(self, image: Tensor) -> None:
        """Set a normalised crop to zero, the mean colour, where it shows nothing."""
        _, height, width = self.pixels.shape
        if (height, width) == image.shape[-2:]:
            return
        image[:, : self.top] = 0
        image[:, self.top + height :] = 0
        image[..., : self.left] = 0
        image[..., self.left + width :] = 0


class CropSampler:
    """Batches of random square crops, half of them mirrored.

    An image smaller than the crop is placed at random inside it, the rest filled with the mean
    colour (zero after normalisation). An epoch takes one crop of every image; the last batch is
    filled up from the start of the epoch's order, so that every batch is full. The points of a
    crop are the heads inside it.

    Args:
        dataset: `CrowdImage`s.
        crop: side c in pixels.
        batch_size: B, of all processes together.
        seed: of order, crops and flips.
        device: where the images lie.
        rank, world: this process takes every world-th crop of a batch, from rank on.
        memory: GiB of decoded pixels to keep on the device, see `Resident`. It changes the speed,
            not the batches.

    Raises:
        InputError: the data set is empty, an image is not annotated, a number is not positive, or
            the batch size is not a multiple of the number of processes.
    """

    def __init__(
        self,
        dataset: Sequence[CrowdImage],
        *,
        crop: int,
        batch_size: int,
        seed: int,
        device="cpu",
        rank: int = 0,
        world: int = 1,
        memory: float | None = None,
    ):
        if len(dataset) == 0:
            raise InputError("the training set is empty")
        if crop < 1 or batch_size < 1:
            raise InputError(f"crop is {crop} and batch_size {batch_size}, expected positive")
        if batch_size % world:
            raise InputError(
                f"batch_size is {batch_size}, expected a multiple of the {world} processes"
            )
        self.crop, self.batch_size, self.seed = crop, batch_size, seed
        self.device, self.rank, self.world = torch.device(device), rank, world
        self.images = Resident(dataset, self.device, memory=memory)
        if self.images.unknown:
            raise InputError(f"{self.images.unknown[0]}: not annotated, so nothing to train on")
        self.points = [
            points[(points >= 0).all(axis=1) & (points < size[::-1]).all(axis=1)]
            for points, size in zip(self.images.points, self.images.sizes, strict=True)
        ]

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.points) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, the same at every call."""
        rng = np.random.default_rng([self.seed, epoch])
        order = np.resize(rng.permutation(len(self.points)), self.steps * self.batch_size)
        slack = self.images.sizes[order] - self.crop  # negative where the image is smaller
        corners = rng.integers(np.minimum(slack, 0), np.maximum(slack, 0) + 1)  # [., 2] (y, x)
        flips = rng.random(len(order)) < 0.5
        crops = list(zip(order.tolist(), corners.tolist(), flips.tolist(), strict=True))
        batches = [
            crops[start + self.rank : start + self.batch_size : self.world]
            for start in range(0, len(crops), self.batch_size)
        ]
        for batch, cuts in self._cuts(batches):
            yield self._batch(batch, cuts)

    def _cuts(self, batches: list[list]) -> Iterator[tuple[list, list[Cut]]]:
        """Each batch with its crops' pixels, decoded ahead where some images are not kept."""
        if self.images.complete:
            yield from ((batch, [self._cut(*crop) for crop in batch]) for batch in batches)
            return
        with ThreadPoolExecutor() as pool:
            ahead: deque = deque()
            for batch in batches:
                ahead.append((batch, [pool.submit(self._cut, *crop) for crop in batch]))
                if len(ahead) > AHEAD:
                    batch, cuts = ahead.popleft()
                    yield batch, [cut.result() for cut in cuts]
            for batch, cuts in ahead:
                yield batch, [cut.result() for cut in cuts]

    def _cut(self, image: int, corner: list[int], flip: bool) -> Cut:
        """What a crop shows of its image, and where in the crop that lies."""
        sample = self.images[image]
        top, left = corner
        height, width = sample.size
        rows = slice(max(top, 0), min(top + self.crop, height))
        columns = slice(max(left, 0), min(left + self.crop, width))
        pixels = sample.image[:, rows, columns]
        if self.images.masked:  # an image without a mask is counted everywhere
            inside = torch.ones(pixels.shape[1:], dtype=torch.uint8)
            if sample.mask is not None:
                inside = sample.mask[rows, columns].to(torch.uint8)
            pixels = torch.cat([pixels, inside[None].to(pixels.device)])
        start = columns.start - left
        if flip:
            pixels, start = pixels.flip(-1), self.crop - start - pixels.shape[-1]
        if self.device.type == "cuda" and pixels.device.type == "cpu":
            pixels = pixels.contiguous().pin_memory()  # copied while the device computes
        return Cut(pixels, rows.start - top, start)

    def _batch(self, crops: list[tuple], cuts: list[Cut]) -> Batch:
        side, channels = self.crop, 3 + self.images.masked
        pixels = torch.zeros(len(cuts), channels, side, side, dtype=torch.uint8, device=self.device)
        for place, cut in zip(pixels, cuts, strict=True):
            place[cut.within].copy_(cut.pixels, non_blocking=True)
        images = normalise(pixels[:, :3])
        for image, cut in zip(images, cuts, strict=True):
            cut.clear_around(image)
        points, valid = self._padded([self._crop_points(*crop) for crop in crops])
        mask = pixels[:, 3:] > 0 if self.images.masked else None
        return Batch(images, points, valid, mask)

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

    def _crop_points(self, image: int, corner: list[int], flip: bool) -> np.ndarray:
        points = self.points[image] - np.array(corner[::-1], dtype=np.float32)
        points = points[(points >= 0).all(axis=1) & (points < self.crop).all(axis=1)]
        if flip:
            mirrored = np.minimum(self.crop - points[:, 0], np.nextafter(np.float32(self.crop), 0))
            points = np.stack([mirrored, points[:, 1]], axis=1)
        return points
