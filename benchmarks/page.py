"""What a run leaves in the docs: tables in the page, the same numbers as CSV, and pictures."""

import math
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import pictures, scaling, series
from benchmarks.cases import WORDING, Case, digits
from benchmarks.limits import Limits
from benchmarks.running import Result, rows
from hmode.errors import InputError, MissingFileError
from hmode.runs import write_csv

IMPOSSIBLE = "this processor has no unit that multiplies bfloat16"


class Page:
    """`benchmarks.md` and the folder `benchmarks/` beside it, of tables and pictures.

    The page's tables stand between `<!-- name -->` and `<!-- /name -->`; all else is prose.

    Args:
        docs: the folder that holds both.

    Raises:
        MissingFileError: there is no page.
    """

    def __init__(self, docs: Path):
        self.path, self.folder = docs / "benchmarks.md", docs / "benchmarks"
        if not self.path.is_file():
            raise MissingFileError(f"{self.path}: no such page to fill")
        self.folder.mkdir(exist_ok=True)

    def fill(self, name: str, content: str) -> None:
        """Put a table between the markers of that name."""
        text = self.path.read_text(encoding="utf-8")
        self.path.write_text(filled(text, name, content, self.path), encoding="utf-8")

    def write_cases(self, results: list[Result], left_out: Sequence[Case] = ()) -> None:
        write_csv(self.folder / "cases.csv", list(rows(results)))
        limits = {result.limits.dtype: result.limits for result in results}
        about = machine(list(limits.values()))
        self.fill("cases", f"{about}\n\n{case_table(results, left_out)}")
        pictures.save(pictures.ratios(results), self.folder / "ratios.png")

    def write(self, part: str, measured: list[dict]) -> None:
        """The table of one of `TABLES`, the same numbers as CSV, and the picture of the curves."""
        write_csv(self.folder / f"{part}.csv", measured)
        self.fill(part, TABLES[part](measured))
        if part == "scaling":
            pictures.save(pictures.curves(measured), self.folder / "scaling.png")


def filled(text: str, name: str, content: str, path="page") -> str:
    """The text with what stands between the markers of that name replaced.

    Raises:
        InputError: the text does not hold the two markers once.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    found = len(pattern.findall(text))
    if found != 1:
        raise InputError(f"{path}: {start} … {end} found {found} times, expected once")
    return pattern.sub(lambda _: f"{start}\n{content.strip()}\n{end}", text)


def table(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    every = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)


def machine(found: list[Limits]) -> str:
    """What the numbers were measured on, and its limits in each type."""
    products = ", ".join(
        f"{limits.dtype} matrix product {name} {digits(rate / 1e9)} GFLOP/s"
        for limits in found
        for name, rate in limits.products.items()
    )
    return (
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__.split('+')[0]}. Limits: {products}; "
        f"copy {digits(found[0].bandwidth / 1e9)} GB/s."
    )


def processor() -> str:
    """The processor's name, where the system tells it."""
    about = Path("/proc/cpuinfo")
    if about.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", about.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def case_table(results: list[Result], left_out: Sequence[Case] = ()) -> str:
    header = ["what", "compared with", "ours", "the other", "ratio", "goal", "of the limit", "held"]
    lines = [case_line(result) for result in results]
    for case in left_out:
        goals = ", ".join(map(str, case.goals))
        lines.append(
            [f"{case.what} (`{case.name}`)", case.other, "", "", "", goals, "", IMPOSSIBLE]
        )
    return table(header, lines)


def case_line(result: Result, slack: float = 1.0) -> list[str]:
    row = next(rows([result], slack))
    ratio, low, high = (digits(row[name]) for name in ("ratio", "ratio_min", "ratio_max"))
    ratio = f"{ratio} [{low}–{high}]"
    ours, other = (duration(row[name]) for name in ("ours_s", "other_s"))
    if result.memory:
        ours, other = (
            f"{text}, {size(bytes_)}"
            for text, bytes_ in zip((ours, other), result.memory, strict=True)
        )
        ratio += f"; memory {WORDING['ratio'](result.quantities['memory ratio'])}"
    return [
        f"{row['what']} (`{row['case']}`)",
        row["other"],
        ours,
        other,
        ratio,
        row["goals"].replace("; ", ", "),
        f"{row['share_of_limit']:.0%}" if row["share_of_limit"] else "",
        "yes" if row["held"] else "**no**",
    ]


def scaling_table(measured: list[dict]) -> str:
    lines = []
    for name, points in pictures.by_curve(measured).items():
        fits = scaling.fits(points) if scaling.is_power(name) else None
        lines.append([
            points[0]["what"],
            points[0]["axis"],
            ", ".join(f"{point['size']:,}" for point in points),
            ", ".join(duration(point["seconds"]) for point in points),
            str(fits["seconds"]) if fits else "",
            ", ".join(size(point["bytes"]) for point in points),
            str(fits["bytes"]) if fits else "",
            millions(points),
        ])  # fmt: skip
    header = ["what", "against", "sizes", "time", "exponent", "memory", "exponent", "parameters"]
    return table(header, lines)


def millions(points: list[dict]) -> str:
    """Parameters of the networks along a curve: one number, or where they differ, one each."""
    found = dict.fromkeys(point["parameters"] for point in points)
    return ", ".join(f"{number / 1e6:.1f} M" for number in found if number)


def profile_table(measured: list[dict]) -> str:
    *shares, totals = measured
    header = list(totals)
    lines = [[row["kind"], *(f"{row[name]:.1%}" for name in header[1:])] for row in shares]
    return table(header, [*lines, ["**time**", *(duration(totals[name]) for name in header[1:])]])


def accuracy_table(measured: list[dict]) -> str:
    """The MAE of each row, its difference to the default's, and what its training took."""
    lines = []
    for row in measured:
        difference = ""
        if not math.isnan(row["low"]):  # the default has none, nor has a single seed
            difference = f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"
        lines.append([
            f"{row['title']} (`{row['row']}`)",
            f"{row['mae']:.1f} ± {row['mae_sd']:.1f}",
            difference,
            str(row["verdict"]),
            f"{row['seconds']:.0f} ± {row['seconds_sd']:.0f} s",
        ])  # fmt: skip
    first = measured[0]
    about = (
        f"Profile {first['profile']}, {first['dataset']}, {first['seeds']:.0f} seeds, on "
        f"{first['device']} with {first['threads']} threads, torch {first['torch']}."
    )
    header = ["what", "MAE, people", "difference, 95 % interval", "verdict", "training"]
    return f"{about}\n\n{table(header, lines)}"


def series_table(measured: list[dict]) -> str:
    """Seconds of each notebook and of all, which have a goal."""
    lines = [
        [row["notebook"], *(f"{row[name]:.0f}" for name in series.COLUMNS)]
        for row in [*measured, series.total(measured)]
    ]
    goal = f"**all** (goal ≤ {series.GOAL:.0f})"
    lines[-1] = [goal, *(f"**{text}**" for text in lines[-1][1:])]
    return table(["notebook", "seconds", *series.COLUMNS[1:]], lines)


def duration(seconds: float) -> str:
    """Seconds in words, to three digits."""
    if seconds >= 1:
        return f"{digits(seconds)} s"
    return f"{digits(seconds * 1e3)} ms" if seconds >= 1e-3 else f"{digits(seconds * 1e6)} µs"


def size(bytes_: int) -> str:
    """Bytes in words, to three digits."""
    factor, unit = (2**30, "GiB") if bytes_ >= 2**30 else (2**20, "MiB")
    return f"{digits(bytes_ / factor)} {unit}"


TABLES = {
    "scaling": scaling_table,
    "profile": profile_table,
    "series": series_table,
    "accuracy": accuracy_table,
}
