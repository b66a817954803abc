"""What a machine can do at best: matrix products per second, and bytes moved per second."""

import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from benchmarks.measure import seconds

SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}
COPIED = {"cpu": 2**28, "cuda": 2**32}  # bytes of the array, far more than any cache holds


@dataclass(frozen=True)
class Limits:
    """A device's limits, as measured.

    Attributes:
        products: floating-point operations per second of a matrix product, by who computes it.
        bandwidth: bytes read and written per second by a copy.
    """

    products: dict[str, float]
    bandwidth: float

    @property
    def flops(self) -> float:
        """Of the fastest product."""
        return max(self.products.values())

    def least_seconds(self, flops: float, traffic: float) -> float:
        """What work takes at the limits: no less than the longer of computing and moving."""
        return max(flops / self.flops, traffic / self.bandwidth)


def machine(limits: Limits) -> str:
    """What was measured on, and its limits."""
    products = ", ".join(
        f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in limits.products.items()
    )
    return (
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__.split('+')[0]}. Limits: float32 matrix product {products}; "
        f"copy {limits.bandwidth / 1e9:.3g} GB/s."
    )


def processor() -> str:
    """The processor's name, where the system tells it."""
    about = Path("/proc/cpuinfo")
    if about.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", about.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def measure_limits(device: str = "cpu") -> Limits:
    """The limits of a device, in a few seconds."""
    return Limits(product_rates(device), copy_bandwidth(device))


def product_rates(device: str = "cpu", dtype=torch.float32, repetitions=7) -> dict[str, float]:
    """FLOP/s of the product of two square matrices, of the side that suits the device best.

    On a CPU there are two products: `torch.mm` goes to the BLAS that torch was built with, MKL,
    which on some makers' processors leaves half of the speed unused; convolutions go to oneDNN,
    whose product is measured too.
    """
    rates: dict[str, float] = {}
    for side in SIDES[device]:
        for name, product in products(side, device, dtype).items():
            rate = 2 * side**3 / median_seconds(product, repetitions)
            rates[name] = max(rate, rates.get(name, 0.0))
    return rates


def products(side: int, device: str, dtype) -> dict[str, Callable[[], object]]:
    """Calls that multiply two square matrices, by who computes the product."""
    left, right = torch.randn(2, side, side, device=device, dtype=dtype)
    out = torch.empty_like(left)
    calls = {"torch.mm": lambda: torch.mm(left, right, out=out)}
    if device == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        a, b = left.to_mkldnn(), right.to_mkldnn()
        calls["oneDNN"] = torch.inference_mode()(lambda: F.linear(a, b))
    return calls


def copy_bandwidth(device: str = "cpu", repetitions: int = 7) -> float:
    """Bytes per second, read and written, of copying one large array into another."""
    source = torch.ones(COPIED[device] // 4, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), repetitions)


def median_seconds(call: Callable[[], object], repetitions: int, warm_up: int = 1) -> float:
    """Of some calls, after others that are not timed."""
    for _ in range(warm_up):
        call()
    return median(seconds(call) for _ in range(repetitions))
