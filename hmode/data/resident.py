"""A data set whose decoded images stay in memory, as far as they fit."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

from hmode.data.registry import count_people, describe, fingerprint
from hmode.errors import InputError
from hmode.method.image import CrowdImage

GIB = 2**30
ROOM = 2.0  # GiB kept on a CPU
SHARE = 0.2  # of a GPU's free memory


class Resident(Sequence[CrowdImage]):
    """The same images, each decoded once at construction, so that a damaged file is found then.

    As many of the first as fit into the memory stay decoded, their pixels on the device; the
    others are decoded anew, by whoever asks, and stay on the CPU.

    Args:
        dataset: `CrowdImage`s.
        device: where the pixels lie. Points, masks and perspective stay on the CPU.
        memory: GiB of pixels to keep, at 3 bytes each; None: 2 on a CPU, a fifth of what is free on
            a GPU. It changes the speed, not the images.

    Attributes:
        sizes: int `[n, 2]`, (H, W) of every image in pixels.
        points: float32 arrays `[N, 2]`, the heads of every image.
        masked: whether any image has a mask.
        unknown: names of the images that are not annotated.
        complete: whether all images fit.

    Raises:
        InputError: memory is negative, or an image cannot be read.
    """

    def __init__(self, dataset: Sequence[CrowdImage], device="cpu", *, memory: float | None = None):
        self.dataset, self.device = dataset, torch.device(device)
        room = _room(self.device) if memory is None else memory
        if not room >= 0:
            raise InputError(f"memory is {memory!r}, expected a number of GiB of at least 0")
        room *= GIB
        self._kept: list[CrowdImage | None] = []
        self.points, self.unknown, sizes, masks = [], [], [], []
        with ThreadPoolExecutor() as pool:
            for sample in pool.map(dataset.__getitem__, range(len(dataset))):
                self.points.append(sample.points.numpy())
                sizes.append(sample.size)
                masks.append(sample.mask is not None)
                if not sample.annotated:
                    self.unknown.append(sample.name)
                room -= sample.image.numel()
                self._kept.append(self._there(sample) if room >= 0 else None)
        self.sizes = np.array(sizes).reshape(-1, 2)
        self.masked = any(masks)
        self.complete = all(sample is not None for sample in self._kept)

    def _there(self, sample: CrowdImage) -> CrowdImage:
        return replace(sample, image=sample.image.to(self.device))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> CrowdImage:
        kept = self._kept[index]
        return self.dataset[index] if kept is None else kept

    def describe(self) -> dict:
        """What the images are, for a run's configuration: not that they are kept."""
        return describe(self.dataset)

    def fingerprint(self, index: int) -> bytes | None:
        """As that of the data set: whoever keeps images has seen them when they were decoded."""
        return fingerprint(self.dataset, index)

    def count_people(self, index: int) -> int:
        """Annotated people in one image."""
        kept = self._kept[index]
        return count_people(self.dataset, index) if kept is None else kept.count


def _room(device: torch.device) -> float:
    """GiB to keep where nobody says how much."""
    if device.type != "cuda":
        return ROOM
    free, _ = torch.cuda.mem_get_info(device)
    return SHARE * free / GIB
