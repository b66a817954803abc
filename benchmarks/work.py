"""The two calls of each comparison, and the check that they give the same."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.ours import (
    SCHEDULE,
    our_count,
    our_inference,
    our_step,
    our_targets,
    prediction_of,
    random_batch,
    random_maps,
    random_network,
    trained_norms,
)
from hmode.data.crops import Batch
from hmode.density import adaptive_sigma, density_map
from hmode.losses import total_loss
from hmode.models import HMoDE

SIZE = (768, 1024)  # (H, W) of the images
STEADY = 3  # calls after which a process that keeps its memory needs no more of it
MARGIN = 100  # pixels: heads lie so far from the border that no Gaussian reaches it


class Different(AssertionError):
    """Two forms of a computation do not give the same."""


@dataclass(frozen=True)
class Work:
    """Two calls that compute the same.

    Attributes:
        ours, other: what is timed.
        check: raises `Different` if they do not give the same.
        scale: what the other's time is multiplied by, where it does a share of the work.
        traffic: bytes that ours must move at least: its inputs and outputs, once each.
        memory: whether peaks of memory are compared.
        steady: untimed calls before each timed one of ours and of the other, with kept memory.
    """

    ours: Callable[[], object]
    other: Callable[[], object]
    check: Callable[[], None]
    scale: float = 1.0
    traffic: int = 0
    memory: bool = False
    steady: tuple[int, int] = (0, 0)


def require_close(what: str, found, expected, tolerance: float) -> None:
    """Raise `Different` if the norm of a difference exceeds a share of that of what is expected."""
    found, expected = (torch.as_tensor(value).double().flatten() for value in (found, expected))
    difference = ((found - expected).norm() / expected.norm()).item()
    if not difference <= tolerance:
        raise Different(f"{what}: relative difference {difference:.2g}, expected {tolerance:g}")


def crowd(people: int) -> np.ndarray:
    """Heads `[N, 2]` at random pixel centres, away from the border."""
    rng = np.random.default_rng(0)
    height, width = SIZE
    inner = rng.integers(MARGIN, (width - MARGIN, height - MARGIN), (people, 2))
    return (inner + 0.5).astype(np.float32)


def our_density(points: Tensor) -> Tensor:
    return density_map(points, SIZE, sigma=adaptive_sigma(points))


def filtered_density(people: int, cheap: bool = False) -> Work:
    """The loop is timed on a share of its heads; it takes the same time for each of them.

    Its sigmas are given to it; ours looks for the neighbours itself. The check cuts Gaussians at
    6 sigmas, where ours has no cut, and takes all of 500 heads and some of more.
    """
    points = crowd(people)
    sigmas = plain.adaptive_sigmas(points)
    share = 40 if cheap else 10
    some = np.random.default_rng(1).permutation(people)[: people // share]
    checked = some if cheap or people > 500 else np.arange(people)

    def check():
        expected = plain.filtered(points[checked], SIZE, sigmas[checked], truncate=6)
        sigma = adaptive_sigma(points)[checked]
        found = density_map(points[checked], SIZE, sigma=sigma)
        require_close("density map", found, expected, 1e-4)

    ours = partial(our_density, torch.from_numpy(points))
    other = partial(plain.filtered, points[some], SIZE, sigmas[some])
    return Work(ours, other, check, scale=share, traffic=4 * SIZE[0] * SIZE[1])


def stamped_density(people: int, cheap: bool = False) -> Work:
    """Both look for the neighbours; the windows end at 4 sigmas."""
    del cheap  # cheap as it is
    points = crowd(people)
    ours = partial(our_density, torch.from_numpy(points))

    def stamps(truncate=4.0):
        return plain.stamped(points, SIZE, plain.adaptive_sigmas(points), truncate=truncate)

    def check():
        require_close("density map", ours(), stamps(6.0), 1e-4)

    return Work(ours, stamps, check, traffic=4 * SIZE[0] * SIZE[1])


def targets(side: int, cheap: bool = False) -> Work:
    """The other is the step that the targets are for; checked against a loop over heads."""
    batch = random_batch(16, side)
    step = our_step(random_network(0.25 if cheap else 1.0))

    def check():
        require_close("targets", our_targets(batch), plain.targets(batch), 1e-5)

    traffic = 4 * 16 * side**2
    return Work(partial(our_targets, batch), partial(step, batch), check, traffic=traffic)


def losses(cheap: bool = False) -> Work:
    """Value and gradient of all losses; of maps such as three experts and their groups give."""
    crops, side = (4, 128) if cheap else (16, 256)
    target = our_targets(random_batch(crops, side))
    leaves = random_maps(crops, side // 4)

    def value_and_gradients(loss):
        value = loss(prediction_of(leaves, side), target)
        value = value["total"] if isinstance(value, dict) else value
        return value, *torch.autograd.grad(value, leaves)

    ours = partial(value_and_gradients, total_loss)
    other = partial(value_and_gradients, plain.total_loss)

    def check():
        names = ("loss", "experts", "groups", "final map", "gates", "attention")
        for name, found, expected in zip(names, ours(), other(), strict=True):
            require_close(f"loss or gradient of {name}", found, expected, 1e-4)

    moved = 4 * (target.numel() + 2 * sum(leaf.numel() for leaf in leaves))
    return Work(ours, other, check, traffic=moved, memory=True)


def step(cheap: bool = False) -> Work:
    """Two networks that start from the same weights; the check compares their first steps."""
    del cheap
    batch = random_batch(8, 128)
    network = random_network(1.0)
    plain_network = deepcopy(network)
    ours = our_step(network)
    other = plain.PlainStep(plain_network, SCHEDULE.learning_rate)

    def check():
        require_same_gradients(network, random_batch(2, 128))
        require_close("loss", ours(batch)[0]["total"], other(batch), 1e-5)

    return Work(partial(ours, batch), partial(other, batch), check, steady=(STEADY, 0))


def require_same_gradients(network: HMoDE, batch: Batch) -> None:
    """Compare the gradients of a first step, in double precision, of copies of a network.

    In float32 the order of two regions of nearly the same count, and with it the gradient of REL,
    is a matter of rounding, in one form as in the other.
    """
    batch = replace(batch, images=batch.images.double())
    found, expected = deepcopy(network).double(), deepcopy(network).double()
    our_step(found)(batch)
    plain.PlainStep(expected, SCHEDULE.learning_rate)(batch)
    gradients = (torch.cat([p.grad.flatten() for p in n.parameters()]) for n in (found, expected))
    require_close("gradients", *gradients, 1e-5)


def step_in_ones(cheap: bool = False) -> Work:
    """The same step on 8 crops and on one, eight times; there is nothing to compare."""
    del cheap
    batch, single = random_batch(8, 128), random_batch(1, 128)
    step = our_step(random_network(1.0))
    same = {"scale": 8, "steady": (STEADY, STEADY)}
    return Work(partial(step, batch), partial(step, single), lambda: None, **same)


def inference(cheap: bool = False) -> Work:
    """Batch norms get statistics and weights of a trained network's kind first: not one, not zero.

    The other counts as scripts do, on the final map at full size."""
    width, (height, length) = (0.25, (384, 512)) if cheap else (1.0, SIZE)
    network = random_network(width)
    trained_norms(network)
    images = torch.randn(1, 3, height, length, generator=torch.Generator().manual_seed(0))
    ours = partial(our_count, our_inference(deepcopy(network)), images)
    other = partial(plain.count, network, images)

    def check():
        require_close("count", ours(), other(), 1e-4)

    return Work(ours, other, check, steady=(STEADY, 0))
