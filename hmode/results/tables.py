"""The paper's tables with our runs beside its numbers, and what became of its claims.

Everything here is made of finished runs: nothing is trained. What is stored for a profile and a
data set are three files: runs.csv (a row a run), tables.csv (a row a table's row, with means,
spreads and differences) and claims.csv (a row a claim).
"""

from pathlib import Path

import numpy as np
import pandas as pd

from hmode.errors import InputError, MissingFileError, OutputError
from hmode.experiments import EXPERIMENTS, canonical, rows
from hmode.outputs import prepare
from hmode.paper import claims, published
from hmode.results.records import collect, complete, image_errors, load, save
from hmode.results.summary import compare, differences, summary

# What the rows of a table are compared with; of Table X, two pairs, see the claims.
DEFAULTS = {"table1": "baseline", "table2": "hmode+rel"}
DEFAULTS |= dict.fromkeys([f"table{n}" for n in (4, 5, 6, 7)], "hmode")
DEFAULTS |= {"table8": "hmode+rel", "table9": "hmode", "table10": None, "table11": "hmode+rel"}
DEFAULTS |= dict.fromkeys(("fig6", "official", "precision", "batch"), "hmode+rel")
# Comparisons of ours: the paper prints no numbers of their rows and claims nothing about them.
OURS = ("official", "precision", "batch")
FILES = ("runs", "tables", "claims")

# What the outcome of a comparison of the first row with the second means for a claim about them.
OUTCOMES = {
    "better": {"better": "held", "worse": "the opposite"},
    "no worse": {"better": "held", "worse": "did not hold", "no difference seen": "held"},
    "alike": {"better": "did not hold", "worse": "did not hold", "no difference seen": "held"},
}


def table(name: str, frame: pd.DataFrame, errors: pd.DataFrame | None = None) -> pd.DataFrame:
    """A table's rows, ours beside the paper's.

    Args:
        name: a key of `DEFAULTS`.
        frame: runs, from `collect`.
        errors: their `image_errors`.

    Returns:
        table, row, title (the paper's, where it has one), experiment; what `summary` says of the
        experiment, compared with `DEFAULTS` (no numbers for a row that was not run); and
        `paper_<data set>_mae`, … where the paper prints them.

    Raises:
        InputError: there is no such table, or as `summary`.
    """
    if name not in DEFAULTS:
        raise InputError(f"table is {name!r}, expected one of {list(DEFAULTS)}")
    experiments = {row: canonical(row) for row in rows(name)}
    own = frame[frame["experiment"].isin(experiments.values())]
    default = DEFAULTS[name] if DEFAULTS[name] in set(own["experiment"]) else None
    found = summary(own, default, errors).to_dict("records") if len(own) else []
    ours = {line["experiment"]: line for line in found}
    printed = _printed(name)
    lines = []
    for row, experiment in experiments.items():
        line = {"table": name, "row": row, "title": EXPERIMENTS[experiment].title}
        line |= {"experiment": experiment} | (printed.get(row) or printed.get(experiment, {}))
        lines.append(line | ours.get(experiment, {}))
    return pd.DataFrame(lines)


def _printed(name: str) -> dict[str, dict]:
    """The paper's name and numbers of each row of ours, by the row's or the experiment's name."""
    if name in ("fig6", *OURS):
        return {}
    return {
        line["experiment"]: {"title": line["method"]}
        | {
            f"paper_{key}": float(value)
            for key, value in line.items()
            if key not in ("method", "experiment", "venue") and value
        }
        for line in published(name)
        if line["experiment"]
    }


def check_claims(frame: pd.DataFrame, errors: pd.DataFrame | None = None) -> pd.DataFrame:
    """What became of each claim that the paper makes about two of its rows, on these runs.

    Returns:
        table, section, wording, relation, first, second; pairs, difference, low, high as
        `compare` gives them, of the first's errors less the second's; outcome: "held", "the
        opposite" or "did not hold" (the interval says so), "no difference seen", or why nothing
        can be said.
    """
    means = complete(frame).groupby(["experiment", "seed"])["mae"].mean()
    there = set(means.index.get_level_values("experiment"))
    lines = []
    for name in DEFAULTS:
        for claim in claims(name) if name not in OURS else []:
            first, second = canonical(claim.first), canonical(claim.second)
            line = {"table": name, "section": claim.section, "wording": claim.wording}
            line |= {"relation": claim.relation, "first": claim.first, "second": claim.second}
            if {first, second} <= there:
                found = compare(differences(means, errors, first, second))
                verdict = found.pop("verdict")
                outcome = OUTCOMES[claim.relation].get(verdict, verdict)
                lines.append(line | found | {"outcome": outcome})
            else:
                lines.append(line | {"outcome": "not run"})
    return pd.DataFrame(lines)


def aggregate(runs: str | Path, profile: str, dataset: str, folder: str | Path) -> None:
    """Write runs.csv, tables.csv and claims.csv of all finished runs into a folder.

    Raises:
        MissingFileError: there is no finished run.
        InputError: as `collect`; or the folder's tables are of runs that are not there, which would
            be lost: from one's own runs nobody can make again what others stored.
        OutputError: the folder cannot be written.
    """
    frame = collect(runs, profile, dataset)
    frame = frame[~frame["experiment"].str.startswith("trap/")].reset_index(drop=True)
    if frame.empty:
        raise MissingFileError(f"{Path(runs) / profile / dataset}: no finished runs")
    errors = image_errors(frame, runs)
    parts = [table(name, frame, errors) for name in DEFAULTS]
    parts = [part for part in parts if "mae" in part]
    folder = Path(folder)
    lost = lacking(frame, folder)
    if lost:
        raise InputError(
            f"{folder / 'runs.csv'}: has {len(lost)} runs that are not in {runs} ({lost[0]}, ...), "
            "so it is not replaced; choose another folder with --to"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from None
    for name in FILES:
        prepare(folder / f"{name}.csv", "table")
    save(frame, folder / "runs.csv")
    save(pd.concat(parts, ignore_index=True), folder / "tables.csv")
    save(check_claims(frame, errors), folder / "claims.csv")


def lacking(frame: pd.DataFrame, folder: str | Path) -> list[str]:
    """The runs of a folder's runs.csv that a table of runs does not have."""
    if not (Path(folder) / "runs.csv").is_file():
        return []
    return sorted(set(stored(folder, "runs")["run"]) - set(frame["run"]))


def stored(folder: str | Path, name: str) -> pd.DataFrame:
    """One of the `FILES` that `aggregate` wrote; "tables" with all rows of all tables, also of
    those of which none was run, without numbers, and with the MAEs of the seeds as a list, by_seed.

    Raises:
        MissingFileError: it is not there.
    """
    path = Path(folder) / f"{name}.csv"
    if not path.is_file():
        raise MissingFileError(
            f"{path}: no stored results; make them with hmode sweep and hmode tables"
        )
    if name == "runs":
        return load(path)
    frame, numbers = pd.read_csv(path), ["pairs", "difference", "low", "high"]
    if name == "tables":
        none = pd.DataFrame(columns=["experiment"])
        more = [table(each, none) for each in DEFAULTS if each not in set(frame["table"])]
        frame = pd.concat([frame, *more], ignore_index=True)
        numbers += ["seeds", "mae", "mae_sd", "mse", "mse_sd"]
        means = complete(stored(folder, "runs")).groupby(["experiment", "seed"])["mae"].mean()
        by_seed = means.groupby("experiment").agg(list)
        frame["by_seed"] = [by_seed.get(name, []) for name in frame["experiment"]]
    return frame.assign(**{each: np.nan for each in numbers if each not in frame})


def source(folder: str | Path) -> str:
    """What stored results are of, in words: data set, profile, seeds, device, versions."""
    frame = stored(folder, "runs")
    first = frame.iloc[0]
    seeds = sorted(frame["seed"].unique())
    which = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    what = f"{len(frame)} runs on {first['dataset']}, profile {first['profile']}, {which}"
    return f"{what}, on {first['device']}, torch {first['torch']}"
