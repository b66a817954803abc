"""Random crops and flips for training.

Every image is decoded once, before training begins, so that a damaged file is found then. As many
as fit into a stated memory stay decoded on the training device; the rest are decoded again by
worker threads, a batch ahead. Which images, crops and flips make up a batch is a function of
(seed, epoch) alone: any epoch of a run can be repeated without its past, with any memory.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

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
        memory: GiB of decoded pixels to keep on the device, at 3 bytes a pixel (4 with a mask):
            the first images of the data set that fit. It changes the speed, not the batches.

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
        memory: float = 4.0,
    ):
        if len(dataset) == 0:
            raise InputError("the training set is empty")
        if crop < 1 or batch_size < 1:
            raise InputError(f"crop is {crop} and batch_size {batch_size}, expected positive")
        if batch_size % world:
            raise InputError(
                f"batch_size is {batch_size}, expected a multiple of the {world} processes"
            )
        if not memory >= 0:
            raise InputError(f"memory is {memory!r}, expected a number of GiB of at least 0")
        self.dataset, self.crop, self.batch_size, self.seed = dataset, crop, batch_size, seed
        self.device, self.rank, self.world = torch.device(device), rank, world
        self._read(memory * 2**30)

    def _read(self, room: float) -> None:
        """Decode every image once: note its size and its heads, keep its pixels while they fit."""
        self.points, sizes, masked = [], [], []
        self._kept: list[Tensor | None] = []
        with ThreadPoolExecutor() as pool:
            for sample in pool.map(self.dataset.__getitem__, range(len(self.dataset))):
                if not sample.annotated:
                    raise InputError(f"{sample.name}: not annotated, so nothing to train on")
                self.points.append(sample.points.numpy())
                sizes.append(sample.size)
                masked.append(sample.mask is not None)
                pixels = _pixels(sample)
                room -= pixels.numel()
                self._kept.append(pixels.to(self.device) if room >= 0 else None)
        self.sizes = np.array(sizes)  # [n, 2] (H, W)
        self.masked = any(masked)

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
        crops = list(zip(order.tolist(), corners.tolist(), flips.tolist(), strict=True))
        batches = [
            crops[start + self.rank : start + self.batch_size : self.world]
            for start in range(0, len(crops), self.batch_size)
        ]
        for batch, cuts in self._cuts(batches):
            yield self._batch(batch, cuts)

    def _cuts(self, batches: list[list]) -> Iterator[tuple[list, list[Tensor]]]:
        """Each batch with its images' crops, decoded ahead where some images are not kept."""
        if all(pixels is not None for pixels in self._kept):
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

    def _cut(self, image: int, corner: list[int], flip: bool) -> Tensor:
        """float32 on the device, a normalised crop `[3, c, c]`, or with its mask `[4, c, c]`."""
        pixels = self._kept[image]
        if pixels is None:
            pixels = _pixels(self.dataset[image])
        top, left = corner
        height, width = pixels.shape[1:]
        # What to add left, right, above and below; a negative number cuts off.
        frame = (-left, left + self.crop - width, -top, top + self.crop - height)
        pixels = F.pad(pixels, [min(side, 0) for side in frame]).to(self.device)
        cut = normalise(pixels[:3])
        if self.masked:  # an image without a mask is counted everywhere
            mask = pixels[3:] if len(pixels) > 3 else torch.ones_like(pixels[:1])
            cut = torch.cat([cut, mask.float()])
        cut = F.pad(cut, [max(side, 0) for side in frame])
        return cut.flip(-1) if flip else cut

    def _batch(self, crops: list[tuple], cuts: list[Tensor]) -> Batch:
        points = [self._crop_points(*crop) for crop in crops]
        most = max(1, *(len(p) for p in points))
        padded = np.zeros((len(points), most, 2), dtype=np.float32)
        for row, p in zip(padded, points, strict=True):
            row[: len(p)] = p
        valid = np.arange(most) < np.array([[len(p)] for p in points])
        images = torch.stack(cuts)
        return Batch(
            images[:, :3],
            torch.from_numpy(padded).to(self.device, non_blocking=True),
            torch.from_numpy(valid).to(self.device, non_blocking=True),
            images[:, 3:] > 0 if self.masked else None,
        )

    def _crop_points(self, image: int, corner: list[int], flip: bool) -> np.ndarray:
        height, width = self.sizes[image]
        points = self.points[image]
        inside = (points >= 0).all(axis=1) & (points < (width, height)).all(axis=1)
        points = points[inside] - np.array(corner[::-1], dtype=np.float32)
        points = points[(points >= 0).all(axis=1) & (points < self.crop).all(axis=1)]
        if flip:
            mirrored = np.minimum(self.crop - points[:, 0], np.nextafter(np.float32(self.crop), 0))
            points = np.stack([mirrored, points[:, 1]], axis=1)
        return points


def _pixels(sample: CrowdImage) -> Tensor:
    """uint8 RGB `[3, H, W]`, with the mask, where there is one, `[4, H, W]`."""
    if sample.mask is None:
        return sample.image
    return torch.cat([sample.image, sample.mask[None].to(torch.uint8)])
