"""Running cases: what was measured of each, and whether its goals are held."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from benchmarks.cases import WORDING, Case, Goal
from benchmarks.limits import Limits, machine
from benchmarks.measure import Paired, flops, paired, peak_memory


@dataclass(frozen=True)
class Result:
    """What was measured of a case.

    Attributes:
        goals: those that apply, of the full or the cheap version.
        times: ours and the other's, the latter scaled to the whole work.
        memory: bytes at the peak, ours and the other's, or None.
        flops, traffic: floating-point operations of ours, and bytes it must move at least.
        limits: of the machine, measured in the same run.
    """

    case: Case
    goals: tuple[Goal, ...]
    times: Paired
    memory: tuple[int, int] | None
    flops: int
    traffic: int
    limits: Limits

    @property
    def seconds(self) -> float:
        """Ours, median."""
        return median(self.times.ours)

    @property
    def quantities(self) -> dict[str, float]:
        """What goals are about."""
        values = {
            "ratio": self.times.ratio,
            "seconds": self.seconds,
            "rate": self.flops / self.seconds / self.limits.flops,
        }
        if self.memory is not None:
            values["memory ratio"] = self.memory[1] / self.memory[0]
        return values

    @property
    def share_of_limit(self) -> float | None:
        """The least time that the machine's limits allow, as a share of ours; None if unknown."""
        least = self.limits.least_seconds(self.flops, self.traffic)
        return least / self.seconds or None

    def missed(self, slack: float = 1.0) -> list[str]:
        """Goals that are not held, in words."""
        values = self.quantities
        return [
            f"{self.case.name}: {WORDING[goal.quantity](values[goal.quantity])}, goal {goal}"
            for goal in self.goals
            if not goal.holds(values[goal.quantity], slack)
        ]


def run_case(case: Case, limits: Limits, *, cheap: bool = False, repetitions=None) -> Result:
    """Check that both give the same, then time them, and measure memory and work.

    Raises:
        Different: they do not give the same.
    """
    work = case.prepare(cheap)
    work.check()
    times = paired(
        work.ours,
        work.other,
        repetitions=repetitions or case.repetitions,
        scale=work.scale,
        steady=work.steady,
    )
    memory = None
    if work.memory:
        memory = peak_memory(work.ours), peak_memory(work.other)
    goals = case.cheap_goals if cheap else case.goals
    return Result(case, goals, times, memory, flops(work.ours), work.traffic, limits)


def rows(results: list[Result], slack: float = 1.0) -> Iterator[dict]:
    """A row for each result, in plain numbers."""
    for result in results:
        times, memory = result.times, result.memory or (None, None)
        yield {
            "case": result.case.name,
            "what": result.case.what,
            "other": result.case.other,
            "repetitions": len(times.ours),
            "ours_s": result.seconds,
            "other_s": median(times.other),
            "ratio": times.ratio,
            "ratio_min": min(times.ratios),
            "ratio_max": max(times.ratios),
            "ours_bytes": memory[0],
            "other_bytes": memory[1],
            "flops": result.flops,
            "share_of_limit": result.share_of_limit,
            "goals": "; ".join(map(str, result.goals)),
            "held": not result.missed(slack),
            "machine": machine(result.limits),
        }
