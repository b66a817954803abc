"""What a run leaves in the docs: tables in the page, and the same numbers as CSV."""

import re
from itertools import groupby
from pathlib import Path

import pandas as pd

from benchmarks import scaling, series
from benchmarks.cases import CASES, WORDING, digits, worded
from hmode.errors import InputError, MissingFileError
from hmode.runs import write_csv


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

    def write_cases(self, measured: list[dict]) -> None:
        """Put these cases in the place of what was measured of them before, elsewhere perhaps."""
        path = self.folder / "cases.csv"
        before = pd.read_csv(path).to_dict("records") if path.is_file() else []
        found = {row["case"]: row for row in (*before, *measured)}
        every = sorted(found.values(), key=lambda row: str(row["machine"]))
        write_csv(path, every)
        self.fill("cases", case_tables(every))

    def write(self, part: str, measured: list[dict]) -> None:
        """The table of one of `TABLES`, and the same numbers as CSV."""
        write_csv(self.folder / f"{part}.csv", measured)
        self.fill(part, TABLES[part](measured))


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


def case_tables(measured: list[dict]) -> str:
    """A table for each machine, of rows that stand together, and one of what none was for."""
    header = ["what", "compared with", "ours", "the other", "ratio", "goal", "of the limit", "held"]
    parts = []
    for machine, group in groupby(measured, key=lambda row: row["machine"]):
        parts += [machine, table(header, [case_line(row) for row in group])]
    names = {row["case"] for row in measured}
    left = [
        [f"{case.what} (`{case.name}`)", case.other, ", ".join(worded(case.goals))]
        for case in CASES
        if case.name not in names
    ]
    if left:
        parts += ["Not measured:", table(["what", "compared with", "goal"], left)]
    return "\n\n".join(parts)


def case_line(row: dict) -> list[str]:
    """What was measured of a case, a row of `benchmarks.running`, in words."""
    ratio, low, high = (digits(row[name]) for name in ("ratio", "ratio_min", "ratio_max"))
    ratio = f"{ratio} [{low}–{high}]"
    ours, other = (duration(row[name]) for name in ("ours_s", "other_s"))
    if pd.notna(row["ours_bytes"]):
        ours, other = f"{ours}, {size(row['ours_bytes'])}", f"{other}, {size(row['other_bytes'])}"
        ratio += f"; memory {WORDING['ratio'](row['other_bytes'] / row['ours_bytes'])}"
    return [
        f"{row['what']} (`{row['case']}`)",
        row["other"],
        ours,
        other,
        ratio,
        row["goals"].replace("; ", ", "),
        f"{row['share_of_limit']:.0%}" if pd.notna(row["share_of_limit"]) else "",
        "yes" if row["held"] else "**no**",
    ]


def scaling_table(measured: list[dict]) -> str:
    lines = []
    for _, group in groupby(measured, key=lambda row: row["curve"]):
        points = list(group)
        fits = scaling.fits(points)
        networks = dict.fromkeys(f"{n / 1e6:.1f} M" for p in points if (n := p["parameters"]))
        lines.append([
            points[0]["what"],
            points[0]["axis"],
            ", ".join(f"{point['size']:,}" for point in points),
            ", ".join(duration(point["seconds"]) for point in points),
            str(fits.get("seconds", "")),
            ", ".join(size(point["bytes"]) for point in points),
            str(fits.get("bytes", "")),
            ", ".join(networks),
        ])  # fmt: skip
    header = ["what", "against", "sizes", "time", "exponent", "memory", "exponent", "parameters"]
    return table(header, lines)


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


TABLES = {"scaling": scaling_table, "series": series_table}
