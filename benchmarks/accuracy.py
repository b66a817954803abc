"""What faster trainings cost in accuracy: other precisions and batch sizes, over seeds.

Nothing is trained here; `hmode sweep precision batch` does that.
"""

from pathlib import Path

import pandas as pd

from hmode.errors import MissingFileError
from hmode.experiments import select
from hmode.results import collect, image_errors
from hmode.results.tables import table

TABLES = ("precision", "batch")
COLUMNS = ("table", "row", "title", "seeds", "mae", "mae_sd", "difference", "low", "high")
COLUMNS += ("verdict", "seconds", "seconds_sd", "profile", "dataset", "device", "torch", "threads")


def measure_accuracy(
    runs: str | Path = "runs", profile: str = "small", dataset: str = "synthetic"
) -> list[dict]:
    """A row for each row of the two tables that was run; see `hmode.results.tables.table`.

    Raises:
        MissingFileError: there is no finished run.
        InputError: runs of one experiment do not fit together.
    """
    frame = collect(runs, profile, dataset, select(list(TABLES)))
    if frame.empty:
        raise MissingFileError(
            f"{Path(runs) / profile / dataset}: no finished runs; hmode sweep "
            f"{' '.join(TABLES)} --profile {profile} --dataset {dataset} trains them"
        )
    errors = image_errors(frame, runs)
    lines = pd.concat([table(name, frame, errors) for name in TABLES], ignore_index=True)
    for name in ("profile", "dataset", "device", "torch", "threads"):
        lines[name] = ", ".join(map(str, frame[name].unique()))
    return lines.dropna(subset="mae")[list(COLUMNS)].to_dict("records")
