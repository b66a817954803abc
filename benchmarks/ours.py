"""What hmode does, as the comparisons call it, and random networks, crops and maps for it."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hmode.data.crops import Batch
from hmode.density import batch_density_maps
from hmode.device import make_accelerator
from hmode.models import HMoDE, Prediction, for_inference
from hmode.profiles import Schedule, load_profile
from hmode.step import TrainingStep

SCHEDULE = replace(load_profile("paper", "sha").schedule, precision="no")


def our_step(network: HMoDE, schedule: Schedule = SCHEDULE) -> TrainingStep:
    """The step of `hmode.fit` on the CPU; call it with a batch."""
    return TrainingStep(make_accelerator("cpu", schedule.precision), network.train(), schedule)


our_inference = for_inference  # as `hmode count` and `hmode evaluate` use a network


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


def random_maps(crops: int, side: int) -> list[Tensor]:
    """Experts, groups, final map, gate 1 and attention, as leaves that gradients are taken for."""
    generator = torch.Generator().manual_seed(0)
    channels = (3, 3, 1, 6, 1)
    maps = [torch.rand(crops, c, side, side, generator=generator) for c in channels]
    maps[3] = maps[3].unflatten(1, (3, 2)).softmax(dim=2)
    maps[4] = 0.05 + 0.9 * maps[4]
    return [each.requires_grad_() for each in maps]


def prediction_of(leaves: list[Tensor], side: int) -> Prediction:
    """A prediction of these maps, for crops of `side` pixels."""
    experts, groups, density, gate, attention = leaves
    return Prediction(
        density=density,
        experts=experts,
        size=(side, side),
        stride=4,
        scale=100.0,
        levels=(groups,),
        gates=(gate,),
        attention=attention,
    )


def trained_norms(network: HMoDE) -> None:
    """Give every batch norm other statistics, scales and shifts than a new one's."""
    generator = torch.Generator().manual_seed(0)
    for norm in filter(lambda each: isinstance(each, torch.nn.BatchNorm2d), network.modules()):
        ranges = {"running_mean": (-0.5, 0.5), "running_var": (0.5, 2.0)}
        for name, bounds in (ranges | {"weight": (0.5, 1.5), "bias": (-0.2, 0.2)}).items():
            getattr(norm, name).data.uniform_(*bounds, generator=generator)
