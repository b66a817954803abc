"""One table of runs, a row each, read from their folders; nothing is trained or counted again."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hmode.errors import InputError, MissingFileError
from hmode.experiments import EXPERIMENTS
from hmode.experiments.running import FOLDED
from hmode.metrics import Evaluation
from hmode.runs import RunFolder, read_json, write_atomically

# The columns that everything here needs, and those that hold text.
REQUIRED = ["run", "experiment", "dataset", "fold", "profile", "seed", "mae", "config", "device"]
TEXT = ["run", "experiment", "dataset", "profile", "config"]
TEXT += ["hmode", "torch", "python", "device", "precision"]

# What may not be mixed, within which rows, and the way out.
UNIFORM = [
    ("profile", [], "make one table for each"),
    ("dataset", [], "make one table for each"),
    ("config", ["experiment", "fold"], "remove what is out of date and train it again"),
    ("device", ["experiment"], "choose the runs on one of them"),
]


def collect(
    runs: str | Path,
    profile: str,
    dataset: str,
    experiments: Sequence[str] | None = None,
    *,
    device: str | None = None,
) -> pd.DataFrame:
    """One row a finished run: its folder inside `runs`, and what its result.json says.

    Args:
        runs: the folder of all runs.
        profile, dataset: which of them.
        experiments: only these, in this order; None: all, by name.
        device: only the runs on this device, as result.json names it: "cpu" or a GPU's name.

    Raises:
        InputError: a result.json is unreadable or belongs elsewhere, or the runs should not stand
            in one table, see `require_uniform`.
    """
    home = Path(runs) / profile / dataset
    paths = [*home.glob("*-seed*/result.json"), *home.glob("*-seed*/fold*/result.json")]
    rows = []
    for path in paths:
        run = path.parent.relative_to(runs).as_posix()
        if ".partial" in run:  # on its way to be removed
            continue
        rows.append({"run": run, **_read_result(path, profile=profile, dataset=dataset)})
    frame = _typed(pd.DataFrame(rows, columns=None if rows else REQUIRED))
    if device is not None:
        frame = frame[frame["device"] == device]
    names = sorted(frame["experiment"].unique()) if experiments is None else list(experiments)
    frame = frame[frame["experiment"].isin(names)]
    place = frame["experiment"].map(names.index).astype(int)
    order = ["place", "seed", "fold", "run"]
    frame = frame.assign(place=place).sort_values(order, ignore_index=True).drop(columns="place")
    require_uniform(frame)
    return frame


def _read_result(path: Path, **expected: str) -> dict:
    result = read_json(path)
    if not isinstance(result, dict):
        raise InputError(f"{path}: not a run's result, expected an object")
    for name in REQUIRED[1:]:
        if name not in result:
            raise InputError(f"{path}: not a run's result, {name!r} is missing")
    if result["experiment"] not in list(EXPERIMENTS):
        raise InputError(f"{path}: experiment is {result['experiment']!r:.60}, no row of ours")
    for name, value in result.items():
        wanted = (str,) if name in TEXT else (int,) if name == "seed" else (int, float, type(None))
        if not isinstance(value, wanted) or isinstance(value, bool):
            kind = "a text" if wanted == (str,) else "a number"
            raise InputError(f"{path}: {name} is {value!r:.60}, expected {kind}")
    for name, value in expected.items():
        if result[name] != value:
            raise InputError(f"{path}: {name} is {result[name]!r}, expected {value!r}")
    return result


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The same kinds of columns, wherever the values come from."""
    kinds = {name: "str" for name in TEXT if name in frame} | {"fold": "Int64", "seed": "int64"}
    numbers = {name: pd.to_numeric(frame[name]) for name in frame if name not in TEXT}
    return frame.assign(**numbers).astype(kinds)


def require_uniform(frame: pd.DataFrame) -> None:
    """See that a mean over a table's runs is one of like things.

    Raises:
        InputError: naming two runs of different profiles or data sets; or, of one experiment, of
            different configurations or devices; or of the same fold and seed.
    """
    for column, within, way_out in UNIFORM:
        for _, group in frame.groupby(within, dropna=False) if within else [((), frame)]:
            kinds = group.drop_duplicates(column)
            if len(kinds) > 1:
                found = [f"{row['run']} has {row[column]}" for _, row in kinds[:2].iterrows()]
                raise InputError(f"mixed table: {column} of {', '.join(found)}; {way_out}")
    twice = frame[frame.duplicated(["experiment", "fold", "seed"], keep=False)]
    if len(twice):
        first, second = twice["run"].iloc[:2]
        raise InputError(f"mixed table: {first} and {second} say they are the same run")


def save(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV; numbers keep every digit.

    Raises:
        OutputError: the file cannot be written.
    """
    write_atomically(Path(path), lambda partial: frame.to_csv(partial, index=False))


def load(path: str | Path) -> pd.DataFrame:
    """Read a table of runs that `save` wrote.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is no table of runs, or a mixed one, see `require_uniform`.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"{path}: no such table")
    try:  # all as text, for a hash may look like a number
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        missing = [name for name in REQUIRED if name not in frame]
        frame = frame if missing else _typed(frame)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a readable table of runs: {error}") from None
    if missing:
        raise InputError(f"{path}: not a table of runs, column {missing[0]!r} is missing")
    require_uniform(frame)
    return frame


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs of those seeds that have all folds of their data set."""
    folds = frame.groupby(["experiment", "seed"])["fold"].transform("nunique")
    return frame[folds == frame["dataset"].map(FOLDED).fillna(0)]


def image_errors(frame: pd.DataFrame, runs: str | Path) -> pd.DataFrame:
    """Absolute counting errors of a table's runs, people: a row an image, a column a run.

    Args:
        frame: from `collect`.
        runs: the folder of all runs.

    Returns:
        columns (experiment, seed); folds below each other, without the seeds that lack one.

    Raises:
        InputError: a run's test.csv is missing, or not the one of its result.json.
    """
    columns = {}
    for key, group in complete(frame).groupby(["experiment", "seed"], sort=False):
        parts = [_errors(row, runs) for row in group.sort_values("fold").itertuples()]
        columns[key] = pd.concat(parts, keys=range(len(parts)))
    return pd.DataFrame(columns)


def _errors(row, runs: str | Path) -> pd.Series:
    folder = RunFolder(Path(runs) / row.run)
    try:
        evaluation = Evaluation.from_table(folder.table("test.csv"))
    except InputError as error:
        raise InputError(f"{folder.path / 'test.csv'}: {error}") from None
    errors = np.abs(evaluation.predicted - evaluation.true)
    errors = pd.Series(errors, index=evaluation.names).dropna()
    if not np.isclose(errors.mean(), row.mae, rtol=1e-6):
        raise InputError(
            f"{folder.path}: test.csv has a MAE of {errors.mean():g}, result.json of {row.mae:g}"
        )
    return errors
