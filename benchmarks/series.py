"""How long the notebooks take, one after another as in `make figures`, and on what."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat

from hmode.notebooks import Report, reproduce
from hmode.runs import read_csv

GOAL = 720.0  # seconds: the whole series under profile "quick", on two cores
COLUMNS = ("seconds", "training", "other cells", "start and end")


def measure_series(
    profile: str = "quick",
    notebooks: str | Path = "notebooks",
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[dict]:
    """Run the series from nothing, in a folder of its own that is then thrown away; a row for each
    notebook, in seconds: all of it, of that the steps of trainings, other cells, and starting a
    kernel and saving the notebook."""
    names = sorted(path.name for path in Path(notebooks).glob("[0-9][0-9]-*.ipynb"))
    with tempfile.TemporaryDirectory() as folder:
        trained = 0.0
        for name in names:
            (report,) = reproduce(
                profile=profile, output=folder, notebooks=notebooks, only=[name], say=say
            )
            before, trained = trained, training_seconds(Path(folder))
            yield row(report, trained - before)


def row(report: Report, training: float) -> dict:
    """What one notebook's time went into."""
    cells = sum(cell_seconds(report.executed))
    parts = (report.seconds, training, cells - training, report.seconds - cells)
    parts = [round(seconds, 1) for seconds in parts]
    return {"notebook": report.name} | dict(zip(COLUMNS, parts, strict=True))


def total(rows: list[dict]) -> dict:
    """The sums over all notebooks."""
    return {"notebook": "all"} | {name: sum(row[name] for row in rows) for name in COLUMNS}


def cell_seconds(executed: Path) -> list[float]:
    """Of every code cell, as papermill noted them."""
    notebook = nbformat.read(executed, as_version=4)
    noted = (cell.metadata.get("papermill", {}).get("duration") for cell in notebook.cells)
    return [seconds for seconds in noted if seconds]


def training_seconds(output: Path) -> float:
    """What all trainings of a folder took so far, validation left out."""
    tables = output.glob("runs/*/*/*/timing.csv")
    return sum(float(epoch["seconds"]) for table in tables for epoch in read_csv(table))
