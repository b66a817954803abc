"""What is compared, with its goals; `docs/benchmarks.md` says the same in plain words.

A case prepares its `Work` when it is run: two calls that do the same, and a check that they do.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from benchmarks import work
from benchmarks.work import Work


def digits(value: float) -> str:
    """A number to three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


WORDING = {
    "ratio": lambda value: f"{digits(value)}x",
    "memory ratio": lambda value: f"{digits(value)}x less memory",
    "seconds": lambda value: f"{digits(1000 * value)} ms",
}


# Bounds on what `benchmarks.running` measures: on "seconds" (ours) from above; on "ratio", how many
# times as long the other takes, and "memory ratio" from below.
Goals = dict[str, float]


def holds(quantity: str, bound: float, value: float, slack: float = 1.0) -> bool:
    """Whether a value keeps a bound; slack below one asks for that share of it only."""
    return value <= bound / slack if quantity == "seconds" else value >= slack * bound


def worded(goals: Goals) -> list[str]:
    """Goals in words."""
    signs = {"seconds": "≤"}
    return [f"{signs.get(name, '≥')} {WORDING[name](bound)}" for name, bound in goals.items()]


@dataclass(frozen=True)
class Case:
    """A comparison.

    Attributes:
        name: on the command line.
        what: what is computed.
        other: what ours is compared with.
        prepare: `cheap` → the work, of a size that takes seconds if asked for.
        goals: at full size.
        cheap_goals: of the cheap version; {} if there is none.
        repetitions: pairs that are timed.
    """

    name: str
    what: str
    other: str
    prepare: Callable[[bool], Work]
    goals: Goals
    cheap_goals: Goals = field(default_factory=dict)
    repetitions: int = 5


def _density(people: int) -> list[Case]:
    what = f"density map, 1024 x 768, {people:,} heads, adaptive sigma"
    loop, stamps = {"ratio": 1000, "seconds": 0.05}, {"ratio": 1}
    filtered = partial(work.filtered_density, people)
    stamped = partial(work.stamped_density, people)
    return [
        Case(f"density-{people}", what, "a filter of the image per head", filtered, loop, loop),
        Case(f"stamps-{people}", what, "a stamped window per head", stamped, stamps, stamps, 25),
    ]


FOR_STEP = "the step they are for (2 % of it = 50x)"
STEP = "training step, full width, 8 crops of 128 x 128"
COUNT = "count of an image, 1024 x 768, full width"
LOSSES = {"ratio": 10, "memory ratio": 5}

# fmt: off
CASES = [
    *_density(500),
    *_density(2000),
    Case("targets-128", "targets of 16 crops of 128 x 128", FOR_STEP,
         partial(work.targets, 128), {"ratio": 50}, {"ratio": 10}, repetitions=3),
    Case("targets-256", "targets of 16 crops of 256 x 256", FOR_STEP,
         partial(work.targets, 256), {"ratio": 50}, repetitions=1),
    Case("losses", "all losses of 7 maps, 16 crops of 256 x 256",
         "full-size maps, a loop per region", work.losses, LOSSES, LOSSES, repetitions=7),
    Case("step", STEP, "a plain step", work.step, {"ratio": 1.7}),
    Case("step-batch-1", STEP, "8 steps of one crop", work.step_in_ones, {"ratio": 2.5}),
    Case("inference", COUNT, "the network in eval mode",
         work.inference, {"ratio": 1.4}, {"ratio": 1.1}),
]
# fmt: on
