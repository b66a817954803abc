"""What is compared, with its goals; `docs/benchmarks.md` says the same in plain words.

A case prepares its `Work` when it is run: two calls that do the same, and a check that they do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks import work
from benchmarks.work import Work


@dataclass(frozen=True)
class Goal:
    """A bound on one of the quantities of `benchmarks.running.Result`.

    Attributes:
        quantity: "ratio" (how many times as long the other takes), "memory ratio", "seconds"
            (ours) or "rate" (floating-point operations per second, as a share of the machine's
            matrix product).
        least, most: the bound, one of the two.
    """

    quantity: str
    least: float | None = None
    most: float | None = None

    def holds(self, value: float, slack: float = 1.0) -> bool:
        """Whether a value keeps the bound; slack below one asks for that share of it only."""
        if self.least is not None:
            return value >= slack * self.least
        return value <= self.most / slack

    def __str__(self) -> str:
        write = WORDING[self.quantity]
        return f"≥ {write(self.least)}" if self.least is not None else f"≤ {write(self.most)}"


def digits(value: float) -> str:
    """A number to three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


WORDING = {
    "ratio": lambda value: f"{digits(value)}x",
    "memory ratio": lambda value: f"{digits(value)}x less memory",
    "seconds": lambda value: f"{digits(1000 * value)} ms",
    "rate": lambda value: f"{value:.0%} of the product rate",
}


@dataclass(frozen=True)
class Case:
    """A comparison.

    Attributes:
        name: on the command line.
        what: what is computed.
        other: what ours is compared with.
        prepare: `cheap` → the work, of a size that takes seconds if asked for.
        goals: at full size.
        cheap_goals: of the cheap version; () if there is none.
        repetitions: pairs that are timed.
        dtype: of ours. bfloat16 is for processors that multiply it in units of their own.
    """

    name: str
    what: str
    other: str
    prepare: Callable[[bool], Work]
    goals: tuple[Goal, ...]
    cheap_goals: tuple[Goal, ...] = ()
    repetitions: int = 5
    dtype: torch.dtype = torch.float32

    @property
    def possible(self) -> bool:
        """Whether this processor is one for it."""
        return self.dtype == torch.float32 or torch.cpu._is_amx_tile_supported()


def _density(people: int) -> list[Case]:
    what = f"density map, 1024 x 768, {people:,} heads, adaptive sigma"
    loop = (Goal("ratio", least=1000), Goal("seconds", most=0.05))
    stamps = (Goal("ratio", least=1),)
    return [
        Case(
            f"density-{people}",
            what,
            "a filter of the image per head",
            partial(work.filtered_density, people),
            loop,
            cheap_goals=loop,
        ),
        Case(
            f"stamps-{people}",
            what,
            "a stamped window per head",
            partial(work.stamped_density, people),
            stamps,
            cheap_goals=stamps,
            repetitions=25,
        ),
    ]


CASES = [
    *_density(500),
    *_density(2000),
    Case(
        "targets-128",
        "targets of 16 crops of 128 x 128",
        "the step they are for (2 % of it = 50x)",
        partial(work.targets, 128),
        (Goal("ratio", least=50),),
        cheap_goals=(Goal("ratio", least=10),),
        repetitions=3,
    ),
    Case(
        "targets-256",
        "targets of 16 crops of 256 x 256",
        "the step they are for (2 % of it = 50x)",
        partial(work.targets, 256),
        (Goal("ratio", least=50),),
        repetitions=1,
    ),
    Case(
        "losses",
        "all losses of 7 maps, 16 crops of 256 x 256",
        "full-size maps, a loop per region",
        work.losses,
        (Goal("ratio", least=10), Goal("memory ratio", least=5)),
        cheap_goals=(Goal("ratio", least=10), Goal("memory ratio", least=5)),
        repetitions=7,
    ),
    Case(
        "step",
        "training step, full width, 8 crops of 128 x 128",
        "a plain step",
        work.step,
        (Goal("ratio", least=1.7),),
        repetitions=5,
    ),
    Case(
        "step-bf16",
        "training step, full width, 8 crops of 128 x 128, bfloat16",
        "a plain step under autocast",
        partial(work.step, low=True, other_low=True),
        (Goal("ratio", least=1.7), Goal("seconds", most=0.6)),
        dtype=torch.bfloat16,
    ),
    Case(
        "step-bf16-float32",
        "training step, full width, 8 crops of 128 x 128, bfloat16",
        "a plain step in float32",
        partial(work.step, low=True),
        (Goal("ratio", least=5),),
        dtype=torch.bfloat16,
    ),
    Case(
        "step-batch-1",
        "training step, full width, 8 crops of 128 x 128",
        "8 steps of one crop",
        work.step_in_ones,
        (Goal("ratio", least=2.5),),
        repetitions=5,
    ),
    Case(
        "inference",
        "count of an image, 1024 x 768, full width",
        "the network in eval mode",
        work.inference,
        (Goal("ratio", least=1.4),),
        cheap_goals=(Goal("ratio", least=1.1),),
        repetitions=5,
    ),
    Case(
        "inference-bf16",
        "count of an image, 1024 x 768, full width, bfloat16",
        "the network in eval mode, under autocast",
        partial(work.inference, low=True),
        (Goal("ratio", least=1.2),),
        dtype=torch.bfloat16,
    ),
]
