"""The paper's tables to be read as it prints them, with our runs beside its numbers.

    as_printed("table4")        # in a notebook, the table

Its numbers are those of the published CSV, digit by digit; ours are means over the stored runs.
Every row of ours has, for every data set of the table, either numbers or the words "not run".
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from hmode.errors import InputError
from hmode.experiments import canonical
from hmode.paper import published
from hmode.results.tables import complete, load

TITLES = {
    "table1": "Table I: comparison with other methods",
    "table2": "Table II: larger crops",
    "table3": "Table III: vehicles on TRANCOS",
    "table4": "Table IV: how to mix",
    "table5": "Table V: designs of gating net 1",
    "table6": "Table VI: what gating net 1 reads",
    "table7": "Table VII: designs of the attention net",
    "table8": "Table VIII: wider and deeper",
    "table9": "Table IX: losses on local counts",
    "table10": "Table X: REL on other networks",
    "table11": "Table XI: sub-lists of REL",
    "table12": "Table XII: experts, groups and the final map, by density level",
}
DATASETS = {
    "sha": "SHA",
    "shb": "SHB",
    "ucf_cc_50": "UCF_CC_50",
    "ucf_qnrf": "UCF-QNRF",
    "jhu": "JHU",
    "nwpu": "NWPU",
    "rgbd": "RGBD",
    "trancos": "TRANCOS",
    "synthetic": "drawn crowd",
    "scales": "drawn, scales",
    "order": "drawn, order",
    "cost": "cost, on SHA",
}
# The most like the paper first.
PROFILES = ("paper", "full", "photos", "quick", "small", "smoke")
LEVELS = {"all": "", "0-50": "low_", "51-500": "medium_", "501+": "high_"}  # of Table XII
COSTS = {"memory_gb": "memory, GB", "epoch_seconds": "epoch, s"}  # of Table VIII
NOT_RUN = "not run"
DASH = "–"


class Part(NamedTuple):
    """A number of a cell, and whether it is the best of its kind."""

    text: str
    best: bool = False


# A cell is a line a profile, a line its parts.
Cell = list[list[Part]]


@dataclass(frozen=True)
class PrintedTable:
    """A table to look at: HTML in a notebook, bold for the best; text elsewhere, * for the best.

    Attributes:
        title: what the paper calls it.
        note: how to read our cells.
        columns: (data set, heading) of each column.
        rows: the name of each row and its cells.
    """

    title: str
    note: str
    columns: list[tuple[str, str]]
    rows: list[tuple[str, list[Cell]]]

    def frame(self, best: str = "{}", line: str = "\n") -> pd.DataFrame:
        """The cells as text, the best parts put into `best`, lines ended by `line`."""
        texts = [[_text(cell, best, line) for cell in cells] for _, cells in self.rows]
        index = pd.Index([name for name, _ in self.rows], name="method")
        return pd.DataFrame(texts, index, pd.MultiIndex.from_tuples(self.columns))

    def __repr__(self) -> str:
        return f"{self.title}\n{self.frame('{}*', ' | ').to_string()}\n{self.note}"

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            cells = self.frame("<b>{}</b>", "<br>").to_html(escape=False)
        return f"<p><b>{self.title}</b></p>{cells}<p>{self.note}</p>"


def _text(cell: Cell, best: str, line: str) -> str:
    return line.join("".join(best.format(p.text) if p.best else p.text for p in x) for x in cell)


def as_printed(name: str, *, figures: str | Path = "figures", also: Iterable = ()) -> PrintedTable:
    """One of the paper's tables: its rows and columns, and beside each data set what we ran.

    Args:
        name: "table1" to "table12".
        figures: the folder of stored results, `<profile>/<data set>/runs.csv`.
        also: more such folders; they go before those of `figures` of the same name.

    Raises:
        InputError: there is no such table.
    """
    if name not in TITLES:
        raise InputError(f"table is {name!r}, expected one of {', '.join(TITLES)}")
    printed = published(name)
    metrics = [key for key in printed[0] if key not in ("method", "experiment", "venue")]
    errors = [key for key in metrics if key not in COSTS]
    best = {key: min(float(row[key]) for row in printed if row[key]) for key in errors}
    places = _places(name, figures, also)
    columns: list[tuple[str, str]] = []
    cells: list[list[Cell]] = [[] for _ in printed]
    for dataset, keys in _by_dataset(metrics, places):
        for key in keys:
            columns.append((DATASETS.get(dataset, dataset), _heading(key)))
            for row, line in zip(printed, cells, strict=True):
                value = row[key]
                line.append([[Part(value or DASH, bool(value) and float(value) == best.get(key))]])
        if dataset == "cost":  # ours stands with our errors
            continue
        ours = [_Ours(name, place, frame) for place, frame in places if place[1] == dataset]
        columns.append((DATASETS.get(dataset, dataset), "ours"))
        for row, line in zip(printed, cells, strict=True):
            line.append(_our_cell(row, ours))
    venue = [f" ({row['venue']})" if row.get("venue") else "" for row in printed]
    names = [row["method"] + where for row, where in zip(printed, venue, strict=True)]
    return PrintedTable(TITLES[name], _note(name), columns, list(zip(names, cells, strict=True)))


def _note(name: str) -> str:
    errors = {
        "table3": "GAME(0) / (1) / (2) / (3)",
        "table12": "MAE / MSE over all images, then of each level",
    }.get(name, "MAE / MSE")
    cost = "; then seconds of its quickest epochs and GiB on the GPU" if name == "table8" else ""
    return (
        f"ours: profile (seeds): {errors}, mean ± standard deviation over the seeds{cost}. "
        f"Bold or *: the least of a column, of ours among the rows of one profile. {DASH}: the "
        "paper prints no number."
    )


def _places(name: str, figures: str | Path, also: Iterable) -> list[tuple[tuple[str, str], Path]]:
    """((profile, data set), folder) of all stored results, the most like the paper's first."""
    file = "07-table12.csv" if name == "table12" else "runs.csv"
    folders = [*Path(figures).glob("*/*"), *map(Path, also)]
    found = {(f.parent.name, f.name): f for f in folders if (f / file).is_file()}
    order = {profile: i for i, profile in enumerate(PROFILES)}
    return sorted(found.items(), key=lambda item: (order.get(item[0][0], 99), item[0]))


def _by_dataset(metrics: list[str], places: list) -> Iterator[tuple[str, list[str]]]:
    """(data set, columns of the paper's), first those of the table, then those only we have."""
    keys: dict[str, list[str]] = {}
    for key in metrics:
        known = [d for d in DATASETS if key.startswith(f"{d}_")]
        keys.setdefault(known[0] if known else "cost", []).append(key)
    yield from keys.items()
    yield from ((d, []) for d in dict.fromkeys(d for (_, d), _ in places) if d not in keys)


def _heading(key: str) -> str:
    """ "MAE" of `sha_mae`, "low MAE" of `jhu_low_mae`, "memory, GB" of `memory_gb`."""
    for dataset in DATASETS:
        key = key.removeprefix(f"{dataset}_")
    words = [word.upper() if word in ("mae", "mse") else word for word in key.split("_")]
    return COSTS.get(key) or " ".join(words).replace("game", "GAME ")


def _our_cell(row: dict, ours: list) -> Cell:
    """What we ran of a row on one data set: a line a profile."""
    if not row["experiment"]:
        return [[Part("")]]
    lines = [line for each in ours if (line := each.line(row))]
    return lines or [[Part(NOT_RUN)]]


class _Ours:
    """The errors of the runs of one profile and data set, for one table: means over the seeds."""

    def __init__(self, name: str, place: tuple[str, str], folder: Path):
        self.profile, self.name = place[0], name
        if name == "table12":
            self._of_maps(pd.read_csv(folder / "07-table12.csv"))
        else:
            self._of_runs(complete(load(folder / "runs.csv")))

    def _of_maps(self, frame: pd.DataFrame) -> None:
        """One network's maps by density level."""
        names = [(level, metric) for level in LEVELS for metric in ("mae", "mse")]
        wide = frame.pivot(index="map", columns="level", values=["mae", "mse"])
        columns = {f"{level} {m}": wide[m].get(level, float("nan")) for level, m in names}
        self.mean = pd.DataFrame(columns, wide.index).rename({"final": "Eout"})
        self.metrics, self.spread = list(columns), self.mean * float("nan")
        self.seeds, self.cost = pd.Series(1, self.mean.index), None

    def _of_runs(self, runs: pd.DataFrame) -> None:
        self.metrics = [f"game{n}" for n in range(4)] if self.name == "table3" else ["mae", "mse"]
        rows = {canonical(r["experiment"]) for r in published(self.name) if r["experiment"]}
        runs = runs[runs["experiment"].isin(rows)]
        groups = runs.groupby(["experiment", "seed"])[self.metrics].mean().groupby("experiment")
        self.mean, self.spread, self.seeds = groups.mean(), groups.std(), groups.size()
        cost = {"seconds_per_epoch": "min", "peak_gib": "max"}
        self.cost = runs.groupby("experiment").agg({k: v for k, v in cost.items() if k in runs})

    def line(self, row: dict) -> list[Part]:
        """Profile, seeds and errors of a row; empty if it was not run."""
        key = row["method"] if self.name == "table12" else canonical(row["experiment"])
        if key not in self.mean.index:
            return []
        seeds = int(self.seeds[key])
        parts = [Part(f"{self.profile} ({seeds}): ")]
        for metric in self.metrics:
            value, spread = self.mean.loc[key, metric], self.spread.loc[key, metric]
            text = DASH if pd.isna(value) else f"{value:.1f}"
            text += f" ± {spread:.1f}" if seeds > 1 else ""
            best = len(self.mean) > 1 and value == self.mean[metric].min()
            parts += [Part(text, best), Part(" / ")]
        return [*parts[:-1], *self._cost(key)]

    def _cost(self, key: str) -> list[Part]:
        if self.name != "table8":
            return []
        spent = self.cost.loc[key]
        numbers = {"{:.2f} s": spent.get("seconds_per_epoch"), "{:.1f} GiB": spent.get("peak_gib")}
        texts = [text.format(value) for text, value in numbers.items() if pd.notna(value)]
        return [Part(f"; {', '.join(texts)}")] if texts else []
