"""Running the numbered notebooks in order, through papermill, and checking what came of them."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from hmode.errors import HmodeError, InputError
from hmode.figure_list import Shown, cells_for, find, numbered, shown
from hmode.lab import project_folder
from hmode.paper import published
from hmode.runs import read_csv, write_atomically
from hmode.watch import Watch

# What papermill and the runner leave in a notebook's metadata, which a committed one does not have.
TRACES = ("papermill", "execution", "widgets")


class NotebookError(HmodeError):
    """A notebook failed; names it, its cell and the error."""


@dataclass(frozen=True)
class Report:
    """One executed notebook: its name, seconds, executed copy and the figures it made."""

    name: str
    seconds: float
    executed: Path
    figures: list[Path]


def reproduce(
    *,
    profile: str = "quick",
    dataset: str = "synthetic",
    data_root: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    fold: int | None = None,
    output: str | Path | None = None,
    notebooks: str | Path | None = None,
    parameters: dict | None = None,
    only: list[str] | None = None,
    figure: str | None = None,
    fresh: bool = False,
    in_place: bool = False,
    say: Callable[[str], None] = print,
    show: Callable[[str], None] | None = None,
) -> list[Report]:
    """Run the numbered notebooks in order; figures, tables and executed copies go to
    `<output>/figures/<profile>/<dataset>/`, trained runs to `<output>/runs/`.

    Args:
        profile, dataset, data_root, device, seed, fold: see `hmode.run`; a relative data_root is
            relative to the caller's folder; without a fold it is the first.
        output: folder for figures and runs; None: the project's.
        notebooks: folder of the numbered notebooks; None: the project's.
        parameters: more notebook parameters, by name.
        only: run the notebooks whose names start with one of these ("03").
        figure: make this figure or table only ("06-weights", "table4"): of its notebook, the cells
            that it needs.
        fresh: forget this profile's, data set's and seed's trained runs first.
        in_place: afterwards store the outputs in the notebooks themselves, if none failed.
        say: is told what was done, a line at a time.
        show: is told every second what is being done.

    Raises:
        InputError: a notebook does not know one of the parameters, or there is no such figure;
            nothing has run then.
        NotebookError: in some notebooks a cell failed or was not run, or a promised figure is
            missing: names them all. The others were run nevertheless, and what was trained is kept
            and reused by the next call.
    """
    folder = Path(notebooks) if notebooks else project_folder() / "notebooks"
    output = Path(output or project_folder()).resolve()
    made = find(figure, shown(folder)) if figure else None  # else all
    paths = [made.notebook] if made else _chosen(numbered(folder), only)
    values = {
        "profile": profile,
        "dataset": dataset,
        "data_root": str(Path(data_root).resolve()) if data_root else None,
        "device": device,
        "seed": seed,
        "output": str(output),
        **(parameters or {}),
    }
    for path in paths:
        _require_known(path, values)
    runs = output / "runs" / profile / dataset
    if fresh:
        for old in runs.glob(f"*-seed{seed}"):
            shutil.rmtree(old)
    figures = output / "figures" / profile / dataset
    (figures / "notebooks").mkdir(parents=True, exist_ok=True)
    watch = Watch(paths, figures / "notebooks", output / "runs", show)
    reports, failures = [], []
    for number, path in enumerate(paths, start=1):
        say(f"[{number}/{len(paths)}] {path.stem} …")
        name = f"{path.stem}.{made.name}" if made else path.stem
        executed = figures / "notebooks" / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        if made:
            _cut(notebook, cells_for(notebook, made.cell), made.name)
        try:
            with watch.of(path, executed):
                report = _execute(notebook, path, executed, figures, values, fold)
        except NotebookError as error:
            failures.append(error)
            say(f"[{number}/{len(paths)}] {path.stem}: FAILED, {error}")
            continue
        say(
            f"[{number}/{len(paths)}] {path.stem}: {report.seconds:.0f} s, "
            f"{len(report.figures)} figures and tables"
        )
        reports.append(report)
    if failures:
        raise NotebookError(
            f"{len(failures)} of {len(paths)} notebooks failed: " + "; ".join(map(str, failures))
        )
    if in_place and not made:
        for path, report in zip(paths, reports, strict=True):
            publish(report.executed, path)
    return reports


def figures(folder: str | Path | None = None) -> list[Shown]:
    """Every figure and table of the series; see `hmode.figure_list.shown`."""
    return shown(folder or project_folder() / "notebooks")


def _chosen(paths: list[Path], only: list[str] | None) -> list[Path]:
    unknown = [start for start in only or [] if not any(p.name.startswith(start) for p in paths)]
    if unknown:
        raise InputError(
            f"no notebook starts with {unknown[0]!r}; there are {[path.stem for path in paths]}"
        )
    return [path for path in paths if path.name.startswith(tuple(only))] if only else paths


def _require_known(path: Path, values: dict) -> None:
    known = papermill.inspect_notebook(str(path))
    unknown = sorted(values.keys() - known.keys())
    if unknown:
        raise InputError(f"{path.name}: no parameter {unknown[0]!r}; it has {sorted(known)}")


def _cut(notebook, cells: list[int], name: str) -> None:
    """Leave some cells of a notebook only, and of its promises those of one figure."""
    notebook.cells = [notebook.cells[index] for index in cells]
    promises = notebook.metadata.get("hmode", {}).get("figures", [])
    kept = [each for each in promises if Path(each).stem == name]
    notebook.metadata["hmode"] = {"figures": kept}


def _execute(notebook, path, executed: Path, figures: Path, values: dict, fold) -> Report:
    """Run a notebook, or what is left of it, and hold it to its promises."""
    started = time.time()
    environment = {
        "HMODE_STATIC": "1",
        "HMODE_PROFILE": values["profile"],
        "HMODE_OUTPUT": values["output"],
    }
    environment |= {} if fold is None else {"HMODE_FOLD": str(fold)}
    try:
        with patch.dict(os.environ, environment):
            done = papermill.execute_notebook(
                notebook,
                str(executed),
                parameters=values,
                kernel_name="python3",
                cwd=str(path.parent),
                progress_bar=False,
                # Not a word that it uses TCP, on loopback.
                extra_arguments=["--IPKernelApp.log_level=ERROR"],
            )
    except PapermillExecutionError as error:
        what = f", cell {error.cell_index}: {error.ename}: {error.evalue}"
    except RuntimeError:  # DeadKernelError, or it never came up
        what = ": its kernel died, as for want of memory"
    except Exception as error:  # whatever it is, the other notebooks are run
        what = f": {type(error).__name__}: {error}"
    else:
        cells = enumerate(done.cells)
        status = {i: c.metadata.papermill["status"] for i, c in cells if c.cell_type == "code"}
        left = [i for i, each in status.items() if each != "completed"]
        if not left:
            made = _promised(done, path.name, figures, started)
            return Report(path.stem, time.time() - started, executed, made)
        what = f", cell {left[0]}: {status[left[0]]}, not completed"
    raise NotebookError(f"{path.name}{what} (executed copy: {executed})")


def _promised(notebook, name: str, figures: Path, started: float) -> list[Path]:
    """The files a notebook promises in its metadata (hmode.figures), all written by this run."""
    promised = [figures / each for each in notebook.metadata.get("hmode", {}).get("figures", [])]
    for path in promised:
        if not path.is_file() or path.stat().st_mtime < started - 1:
            raise NotebookError(f"{name}: promised {path.name}, but did not write it to {figures}")
    return promised


def publish(executed: Path, notebook: Path) -> None:
    """Store an executed copy's outputs in the notebook itself, without traces of the run."""
    content = nbformat.read(executed, as_version=4)
    source = nbformat.read(notebook, as_version=4)
    content.cells = [
        cell for cell in content.cells if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    for number, cell in enumerate(_code(content), start=1):
        cell.execution_count = number
        for output in cell.outputs:
            if "execution_count" in output:
                output["execution_count"] = number
    for each in (content, *content.cells):
        for trace in TRACES:
            each.metadata.pop(trace, None)
    for cell, original in zip(content.cells, source.cells, strict=True):
        cell["id"] = original["id"]
        cell.metadata = original.metadata
    content.metadata = source.metadata
    write_atomically(notebook, lambda path: nbformat.write(content, path))


def _code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def summary(profile: str, dataset: str, output: str | Path | None = None) -> str:
    """The table a run of the series ends with: what it measured beside what the paper prints."""
    output = Path(output or project_folder()).resolve()
    figures = output / "figures" / profile / dataset
    if not (figures / "results.csv").is_file():
        return f"Figures: {figures}"
    paper = {row["method"]: row for row in published("table1")}
    lines = [f"{'network':<12}{'MAE':>8}{'MSE':>8}{'MAE/mean':>10}{'paper MAE':>11}{'MSE':>8}"]
    rows = read_csv(figures / "results.csv")
    for row in rows:
        printed = paper.get(row["network"], {})
        there = [printed.get(f"{dataset}_{metric}") or "–" for metric in ("mae", "mse")]
        share = f"{float(row['mae_over_mean']):.2f}" if row["mae_over_mean"] else "–"
        lines.append(
            f"{row['network']:<12}{float(row['mae']):>8.1f}{float(row['mse']):>8.1f}"
            f"{share:>10}{there[0]:>11}{there[1]:>8}"
        )
    lines += [
        f"Test split of {dataset}, profile {profile}, seed {rows[0]['seed']}. MAE/mean: as a "
        "share of the MAE of always predicting the mean training count.",
        f"Figures and tables: {figures}",
        f"Executed notebooks: {figures / 'notebooks'}",
        f"Trained runs: {output / 'runs' / profile / dataset}",
    ]
    return "\n".join(lines)
