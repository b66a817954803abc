"""Running cases: what was measured of each, and whether its goals are held."""

from statistics import median

from benchmarks.cases import WORDING, Case, Goals, holds, worded
from benchmarks.limits import Limits, machine
from benchmarks.measure import flops, paired, peak_memory


def run_case(case: Case, limits: Limits, *, cheap: bool = False, repetitions=None) -> dict:
    """Check that both give the same, then time them, and measure memory and work.

    Returns:
        A row of docs/benchmarks/cases.csv: times (medians; the other's scaled to the whole work),
        the ratio of pairs (median, least, most), bytes at the peak, floating-point operations of
        ours, the least time that the machine's limits allow as a share of ours (None if unknown),
        goals, whether they are held, and on what.

    Raises:
        Different: they do not give the same.
    """
    work = case.prepare(cheap)
    work.check()
    options = {"scale": work.scale, "steady": work.steady}
    times = paired(work.ours, work.other, repetitions=repetitions or case.repetitions, **options)
    memory = (peak_memory(work.ours), peak_memory(work.other)) if work.memory else (None, None)
    operations, goals = flops(work.ours), case.cheap_goals if cheap else case.goals
    least = limits.least_seconds(operations, work.traffic)
    row = {
        "case": case.name,
        "what": case.what,
        "other": case.other,
        "repetitions": len(times.ours),
        "ours_s": median(times.ours),
        "other_s": median(times.other),
        "ratio": times.ratio,
        "ratio_min": min(times.ratios),
        "ratio_max": max(times.ratios),
        "ours_bytes": memory[0],
        "other_bytes": memory[1],
        "flops": operations,
        "share_of_limit": least / median(times.ours) or None,
        "goals": "; ".join(worded(goals)),
    }
    return row | {"held": not missed(row, goals), "machine": machine(limits)}


def missed(row: dict, goals: Goals, slack: float = 1.0) -> list[str]:
    """Goals that a row does not hold, in words."""
    values = {"ratio": row["ratio"], "seconds": row["ours_s"]}
    if row["ours_bytes"]:
        values["memory ratio"] = row["other_bytes"] / row["ours_bytes"]
    return [
        f"{row['case']}: {WORDING[name](values[name])}, goal {worded({name: bound})[0]}"
        for name, bound in goals.items()
        if not holds(name, bound, values[name], slack)
    ]
