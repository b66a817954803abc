"""Time and memory against image side, heads, experts and batch size, and the exponents."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import linregress

from benchmarks.measure import peak_memory, seconds
from benchmarks.ours import our_count, our_inference, our_step, random_batch, random_network
from hmode.density import density_map
from hmode.fast.memory import kept_memory

REPETITIONS = 3


class Curve(NamedTuple):
    """Something measured at several sizes.

    Attributes:
        name, what: short, and in words.
        axis: what grows.
        sizes: its values.
        prepare: a size → a call, and the number of parameters of its network (None without one).
        power: whether a power law is fitted; the experts differ in kind, not only in number.
    """

    name: str
    what: str
    axis: str
    sizes: tuple[int, ...]
    prepare: Callable[[int], tuple[Callable[[], object], int | None]]
    power: bool = True


class Fit(NamedTuple):
    """y ~ x^exponent, least squares on logarithms; `error` is the exponent's standard error."""

    exponent: float
    error: float

    def __str__(self) -> str:
        return f"{self.exponent:.2f} ± {self.error:.2f}"


def fit_power(sizes: Sequence[float], values: Sequence[float]) -> Fit:
    """The exponent of a power law, from at least three sizes."""
    line = linregress(np.log(sizes), np.log(values))
    return Fit(float(line.slope), float(line.stderr))


def density(count: int, height: int, width: int):
    points = (np.random.default_rng(0).random((count, 2)) * (width, height)).astype(np.float32)
    return lambda: density_map(torch.from_numpy(points), (height, width)), None


def forward(side: int, width: float = 1.0):
    network = our_inference(random_network(width))
    images = random_batch(1, side).images
    return lambda: our_count(network, images), parameters(network)


def step(crops: int, side: int, width: float = 1.0, **settings):
    network = random_network(width, **settings)
    train, batch = our_step(network), random_batch(crops, side)

    def one():
        network.zero_grad()  # so that gradients of the step before are not counted as its start
        return train(batch)

    return one, parameters(network)


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


SIDE, STEP = "side, pixels", "training step, full width"
# fmt: off
CURVES = [
    Curve("density by side", "density map of a square image, 500 heads", SIDE,
          (512, 1024, 2048, 4096), lambda side: density(500, side, side)),
    Curve("density by heads", "density map of 1024 x 768 pixels", "heads",
          (500, 1000, 2000, 4000, 8000), lambda heads: density(heads, 768, 1024)),
    Curve("count by side", "count of one square image, full width", SIDE,
          (128, 192, 256, 384, 512), forward),
    Curve("step by side", f"{STEP}, 1 square crop", SIDE,
          (128, 256, 384, 512), lambda side: step(1, side)),
    Curve("step by batch", f"{STEP}, crops of 128 x 128", "crops",
          (2, 4, 8, 16), lambda crops: step(crops, 128)),
    Curve("step by experts", f"{STEP}, 2 crops of 128 x 128; K = 2 has no groups (depth 1)",
          "experts K", (2, 3, 4, 5),
          lambda experts: step(2, 128, experts=experts, depth=1 if experts == 2 else 2),
          power=False),
]
# fmt: on


def measure_curve(curve: Curve, repetitions: int = REPETITIONS) -> Iterator[dict]:
    """A row for each size: seconds (median, least, most), bytes at the peak, parameters."""
    for size in curve.sizes:
        call, params = curve.prepare(size)
        with kept_memory():
            call()
            call()
            times = [seconds(call) for _ in range(repetitions)]
        yield {
            "curve": curve.name,
            "what": curve.what,
            "axis": curve.axis,
            "size": size,
            "repetitions": repetitions,
            "seconds": median(times),
            "seconds_min": min(times),
            "seconds_max": max(times),
            "bytes": peak_memory(call),
            "parameters": params,
        }


def measure_scaling() -> Iterator[dict]:
    """The rows of every curve."""
    for curve in CURVES:
        yield from measure_curve(curve)


def fits(rows: list[dict]) -> dict[str, Fit]:
    """The exponents of "seconds" and "bytes" of one curve's rows; {} where it is no power law."""
    if not all(curve.power for curve in CURVES if curve.name == rows[0]["curve"]):
        return {}
    sizes = [row["size"] for row in rows]
    return {name: fit_power(sizes, [row[name] for row in rows]) for name in ("seconds", "bytes")}
