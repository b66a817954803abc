"""The plots of docs/benchmarks.md."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks import scaling
from benchmarks.running import Result

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's colour-blind safe palette
PLAIN = FuncFormatter(lambda value, _: f"{value:,g}")


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
    ax.xaxis.set_major_formatter(PLAIN)
    ax.grid(axis="x", alpha=0.3)
    _bare(ax)
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    return figure


def curves(measured: list[dict]) -> Figure:
    """Time, and below it memory, of each curve against its size, three curves in a row."""
    groups = by_curve(measured)
    columns = min(3, len(groups))
    pairs = -(-len(groups) // columns)  # of rows: time and memory
    figure = Figure(figsize=(3.2 * columns, 4.8 * pairs), layout="constrained")
    axes = figure.subplots(2 * pairs, columns, squeeze=False)
    for i, (name, points) in enumerate(groups.items()):
        row, column = 2 * (i // columns), i % columns
        fits = scaling.fits(points) if scaling.is_power(name) else {}
        _curve(axes[row, column], points, "seconds", fits.get("seconds"))
        _curve(axes[row + 1, column], points, "bytes", fits.get("bytes"))
        axes[row, column].set(title=name, ylabel="time, ms")
        axes[row + 1, column].set(xlabel=points[0]["axis"], ylabel="peak memory, MiB")
    for ax in axes.flat:
        ax.set_visible(bool(ax.lines))
    return figure


def _curve(ax, points: list[dict], key: str, fit: scaling.Fit | None) -> None:
    """One quantity of a curve, on logarithmic axes, with the spread where it has one."""
    sizes = [point["size"] for point in points]
    unit, colour = (1e-3, BLUE) if key == "seconds" else (2**20, ORANGE)
    ax.plot(sizes, [point[key] / unit for point in points], "o-", color=colour)
    if key == "seconds":
        low, high = ([point[f"seconds_{end}"] / unit for point in points] for end in ("min", "max"))
        ax.fill_between(sizes, low, high, color=colour, alpha=0.2)
    if fit is not None:
        ax.text(0.05, 0.92, f"exponent {fit}", transform=ax.transAxes, va="top")
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    low, high = ax.get_ylim()
    subs = (1, 2, 5) if high > 4 * low else (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8)
    ax.yaxis.set_major_locator(LogLocator(subs=subs))
    ax.yaxis.set_major_formatter(PLAIN)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(alpha=0.3)
    _bare(ax)


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
