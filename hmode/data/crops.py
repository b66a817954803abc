"""Random crops and flips for training, from a data set that lies decoded on the training device.

Every image is decoded once. A batch is then one gather on the device, and which images, crops and
flips make up a batch is a function of (seed, epoch) alone: any epoch of a run can be repeated
without its past.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmode.data.sample import CrowdImage, normalise
from hmode.errors import InputError


@dataclass(eq=False)
class Batch:
    """Crops of side c: images float32 `[B, 3, c, c]`, normalised; head points `[B, N, 2]`, padded
    to the most crowded crop, with `valid` `[B, N]` False for padding."""

    images: Tensor
    points: Tensor
    valid: Tensor


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

    Raises:
        InputError: the data set is empty, a number is not positive, or the batch size is not a
            multiple of the number of processes.
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
        with ThreadPoolExecutor() as pool:
            samples = list(pool.map(dataset.__getitem__, range(len(dataset))))
        self.points = [sample.points.numpy() for sample in samples]
        self.sizes = np.array([sample.size for sample in samples])  # [n, 2] (H, W)
        ends = self.sizes.prod(axis=1).cumsum()
        self._starts = ends - self.sizes.prod(axis=1)
        self._pixels = torch.cat([s.image.flatten(1) for s in samples], dim=1).to(self.device)

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
        for start in range(0, len(order), self.batch_size):
            mine = slice(start + self.rank, start + self.batch_size, self.world)
            yield self._batch(order[mine], corners[mine], flips[mine])

    def _batch(self, images: np.ndarray, corners: np.ndarray, flips: np.ndarray) -> Batch:
        points = [self._crop_points(*each) for each in zip(images, corners, flips, strict=True)]
        most = max(1, *(len(p) for p in points))
        padded = np.zeros((len(points), most, 2), dtype=np.float32)
        for row, p in zip(padded, points, strict=True):
            row[: len(p)] = p
        valid = np.arange(most) < np.array([[len(p)] for p in points])
        return Batch(
            self._crop_images(images, corners, flips),
            torch.from_numpy(padded).to(self.device, non_blocking=True),
            torch.from_numpy(valid).to(self.device, non_blocking=True),
        )

    def _crop_points(self, image: int, corner: np.ndarray, flip: bool) -> np.ndarray:
        height, width = self.sizes[image]
        points = self.points[image]
        inside = (points >= 0).all(axis=1) & (points < (width, height)).all(axis=1)
        points = points[inside] - corner[::-1].astype(np.float32)
        points = points[(points >= 0).all(axis=1) & (points < self.crop).all(axis=1)]
        if flip:
            mirrored = np.minimum(self.crop - points[:, 0], np.nextafter(np.float32(self.crop), 0))
            points = np.stack([mirrored, points[:, 1]], axis=1)
        return points

    def _crop_images(self, images: np.ndarray, corners: np.ndarray, flips: np.ndarray) -> Tensor:
        """One gather of B crops from the flat pixels, normalised: `[B, 3, c, c]`."""
        numbers = np.concatenate(
            [self._starts[images][:, None], self.sizes[images], corners, flips[:, None]], axis=1
        ).astype(np.int64)
        numbers = torch.from_numpy(numbers).to(self.device, non_blocking=True)
        start, height, width, top, left, flip = (n[:, None, None] for n in numbers.unbind(1))
        step = torch.arange(self.crop, device=self.device)
        y = top + step[:, None]  # [B, c, 1]
        x = left + torch.where(flip.bool(), self.crop - 1 - step, step)  # [B, 1, c]
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)  # [B, c, c]
        index = torch.where(inside, start + y * width + x, 0)
        crops = normalise(self._pixels[:, index].transpose(0, 1))
        return crops * inside[:, None]
