"""What hmode does, as the comparisons call it, and random crops and networks to call it with."""

import numpy as np
import torch
from torch import Tensor

from hmode.data.crops import Batch
from hmode.density import batch_density_maps
from hmode.models import HMoDE, for_inference
from hmode.profiles import Schedule
from hmode.step import TrainingStep, make_accelerator

SCHEDULE = Schedule(crop=128)  # the paper's learning rate, targets and losses


def our_step(network: HMoDE, schedule: Schedule = SCHEDULE) -> TrainingStep:
    """The step of `hmode.fit` on the CPU; call it with a batch."""
    return TrainingStep(make_accelerator("cpu", schedule.precision), network.train(), schedule)


def our_inference(network: HMoDE) -> HMoDE:
    """The network as `hmode count` and `hmode evaluate` use it."""
    return for_inference(network)


@torch.inference_mode()
def our_count(network: HMoDE, images: Tensor) -> Tensor:
    """`[B]`, people, with a network of `our_inference`."""
    return network(images.contiguous(memory_format=torch.channels_last)).count


def our_targets(batch: Batch) -> Tensor:
    """The targets of a batch of crops, as a training step makes them."""
    return batch_density_maps(
        batch.points, batch.valid, batch.images.shape[-2:], sigma=SCHEDULE.sigma
    )


def random_network(width: float, **settings) -> HMoDE:
    """HMoDE with random weights, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return HMoDE(width=width, **settings)


def random_batch(crops: int, side: int, seed: int = 0) -> Batch:
    """Noise with heads as dense as in ShanghaiTech A: one in 1,000 pixels, give or take."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((crops, 3, side, side), dtype=np.float32)
    counts = rng.poisson(side**2 / 1000, crops).clip(1)
    points = rng.uniform(0, side, (crops, counts.max(), 2)).astype(np.float32)
    valid = np.arange(counts.max()) < counts[:, None]
    points[~valid] = 0
    points = points.clip(max=np.nextafter(np.float32(side), np.float32(0)))
    return Batch(*map(torch.from_numpy, (images, points, valid)))
