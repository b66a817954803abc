"""Times, peaks of memory and floating-point operations of a call."""

import gc
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from hmode.fast.memory import kept_memory


@dataclass(frozen=True)
class Paired:
    """Seconds of ours and of what it is compared with, measured in turns: pair i of both."""

    ours: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """How many times as long the other took, pair by pair."""
        return [other / ours for ours, other in zip(self.ours, self.other, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of `ratios`."""
        return median(self.ratios)


def paired(
    ours: Callable[[], object],
    other: Callable[[], object],
    *,
    repetitions: int,
    warm_up: int = 1,
    scale: float = 1.0,
    steady: tuple[int, int] = (0, 0),
    clock: Callable[[], float] = time.perf_counter,
) -> Paired:
    """Time two calls in turns: ours, other, ours, other, …

    In turns, so that what else the machine does meets both alike. `warm_up` pairs go untimed
    before: first calls allocate memory and choose algorithms.

    Args:
        scale: what the other's seconds are multiplied by, where it does a share of the work.
        steady: for ours and the other, how many calls go untimed before each timed one, see
            `steady_seconds`.
        clock: seconds, for tests.
    """
    for _ in range(warm_up):
        ours()
        other()
    ours_s, other_s = [], []
    for _ in range(repetitions):
        ours_s.append(steady_seconds(ours, steady[0], clock))
        other_s.append(scale * steady_seconds(other, steady[1], clock))
    return Paired(tuple(ours_s), tuple(other_s))


def steady_seconds(
    call: Callable[[], object], steady: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one call after some others, all with `kept_memory`, as trainings and evaluations
    have it; with `steady` 0 of one call alone, with memory as the system gives it."""
    if not steady:
        return seconds(call, clock)
    with kept_memory():
        for _ in range(steady):
            call()
        return seconds(call, clock)


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call, until a GPU has done its part."""
    _finish()
    started = clock()
    call()
    _finish()
    return clock() - started


def _finish() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak_memory(call: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes of tensors alive at once during a call, beyond those alive at its start.

    On the CPU what torch's allocator gave out and took back, as its profiler saw it: the same at
    every call, whatever else the machine does. Tensors that were alive before and are freed by the
    call are not subtracted there. On "cuda" what torch's caching allocator counts.
    """
    if device == "cuda":
        gc.collect()
        _finish()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        _finish()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_bytes())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    alive: dict[int, int] = {}
    now = most = 0
    for change in sorted(changes, key=lambda event: event["args"]["Ev Idx"]):
        address, size = change["args"]["Addr"], change["args"]["Bytes"]
        if size > 0:
            alive[address] = size
            now, most = now + size, max(most, now + size)
        else:
            now -= alive.pop(address, 0)
    return most


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of a call's matrix products and convolutions, forward and backward.

    A product and a sum are two. Elementwise work is not counted.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
