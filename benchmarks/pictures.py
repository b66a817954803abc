"""The plots of docs/benchmarks.md."""

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import scaling
from benchmarks.running import Result

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's colour-blind safe palette


def ratios(results: list[Result]) -> Figure:
    """How many times as long the other takes, with the range over repetitions and the goal."""
    figure = Figure(figsize=(8, 0.4 * len(results) + 1.6), layout="constrained")
    ax = figure.subplots()
    for y, result in enumerate(reversed(results)):
        times = result.times
        first = y == 0
        ax.plot(
            [min(times.ratios), max(times.ratios)], [y, y],
            color=BLUE, linewidth=3, alpha=0.5, label="least to most" if first else None,
        )  # fmt: skip
        ax.plot(times.ratio, y, "o", color=BLUE, label="median" if first else None)
        goal = next((goal.least for goal in result.goals if goal.quantity == "ratio"), None)
        if goal is not None:
            label = "goal" if first else None
            ax.plot(goal, y, "|", color=ORANGE, markersize=16, markeredgewidth=3, label=label)
    ax.axvline(1, color="0.6", linewidth=1)
    ax.set(
        xscale="log",
        xlabel="time of the other / time of ours (log scale; right of 1 ours is faster)",
        yticks=range(len(results)),
        yticklabels=[result.case.name for result in reversed(results)],
    )
    ax.grid(axis="x", alpha=0.3)
    _bare(ax)
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    return figure


def curves(measured: list[dict]) -> Figure:
    """Time and memory of each curve against its size, both axes logarithmic."""
    groups = by_curve(measured)
    figure = Figure(figsize=(2.9 * len(groups), 5.4), layout="constrained")
    axes = figure.subplots(2, len(groups), squeeze=False)
    for column, (name, points) in enumerate(groups.items()):
        sizes = [point["size"] for point in points]
        fits = scaling.fits(points) if scaling.is_power(name) else {}
        for row, (key, label, unit, colour) in enumerate((
            ("seconds", "time", "seconds", BLUE),
            ("bytes", "peak memory", "MiB", ORANGE),
        )):  # fmt: skip
            ax, scale = axes[row, column], 1 if key == "seconds" else 2**20
            ax.plot(sizes, [point[key] / scale for point in points], "o-", color=colour)
            if key == "seconds":
                low, high = (
                    [point[f"seconds_{end}"] for point in points] for end in ("min", "max")
                )
                ax.fill_between(sizes, low, high, color=colour, alpha=0.2)
            ax.set(xscale="log", yscale="log", xlabel=points[0]["axis"], title=name)
            ax.set_ylabel(f"{label}, {unit}")
            ax.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
            ax.set_xticks([], minor=True)
            if key in fits:
                ax.text(0.05, 0.9, f"exponent {fits[key]}", transform=ax.transAxes)
            ax.grid(alpha=0.3)
            _bare(ax)
    return figure


def by_curve(measured: list[dict]) -> dict[str, list[dict]]:
    """The rows of each curve, by its name."""
    groups: dict[str, list[dict]] = {}
    for row in measured:
        groups.setdefault(row["curve"], []).append(row)
    return groups


def _bare(ax) -> None:
    ax.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
