"""Crops of any data set, whose images are decoded once, before training begins.

As many as fit into a stated memory stay decoded on the training device (`Resident`); the rest are
decoded again by worker threads, some batches ahead, and go there through pinned memory. The batches
are the same with any memory.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from hmode.data.resident import Resident
from hmode.errors import InputError
from hmode.method import crops
from hmode.method.crops import Batch, Crop, Cut
from hmode.method.image import CrowdImage

__all__ = ["AHEAD", "Batch", "CropSampler"]

AHEAD = 2  # batches that are decoded while one is trained on


class CropSampler(crops.CropSampler):
    """Batches of random square crops of any data set, see `hmode.method.crops.CropSampler`.

    Args:
        dataset: `CrowdImage`s.
        crop, batch_size, seed, rank, world: as there.
        device: where images and batches lie.
        memory: GiB of decoded pixels to keep on the device, see `Resident`. It changes the speed,
            not the batches.

    Raises:
        InputError: as there, or an image cannot be read.
    """

    def __init__(
        self,
        dataset: Sequence[CrowdImage],
        *,
        device="cpu",
        memory: float | None = None,
        **settings,
    ):
        self.dataset, self.memory = dataset, memory
        super().__init__(dataset, device=device, **settings)

    def survey(self) -> tuple[np.ndarray, list[np.ndarray], bool]:
        self.images = images = Resident(self.dataset, self.device, memory=self.memory)
        if images.unknown:
            raise InputError(f"{images.unknown[0]}: not annotated, so nothing to train on")
        return images.sizes, images.points, images.masked

    def cuts(self, batches: list[list[Crop]]) -> Iterator[list[Cut]]:
        if self.images.complete:
            yield from super().cuts(batches)
            return
        with ThreadPoolExecutor() as pool:
            ahead: deque = deque()
            for batch in batches:
                ahead.append([pool.submit(self.cut, crop) for crop in batch])
                if len(ahead) > AHEAD:
                    yield [cut.result() for cut in ahead.popleft()]
            for cuts in ahead:
                yield [cut.result() for cut in cuts]

    def cut(self, crop: Crop) -> Cut:
        pixels, *place = super().cut(crop)
        if self.device.type == "cuda" and pixels.device.type == "cpu":
            pixels = pixels.contiguous().pin_memory()  # copied while the device computes
        return Cut(pixels, *place)
