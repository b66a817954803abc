"""Grading a folder of submissions, without running their notebooks: only what cells after the
heading "Exercises" define is run, in a process of its own for each notebook, and each function is
checked by itself.

This is no sandbox. Grade what you would also run, or grade in a container.
"""

import ast
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat

from hmode.course.checking import EXERCISES, NotYet, check
from hmode.course.copies import tags
from hmode.errors import MissingFileError
from hmode.runs import write_csv

# The names that an answer may use without importing them.
PRELUDE = """
import math
import numpy as np
import torch
import torch.nn.functional as F
import hmode
from hmode import density_map, local_counts
"""
LIMIT = 30  # seconds for each definition and each check
UNGRADED = {"check", "solution"}  # tags of cells that are not the student's
ASKING = {"answer", "check"}  # of those that count wherever they stand
DEFINES = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


def grade_folder(submissions: Path, csv: Path) -> list[dict]:
    """A row of points a student, written as CSV.

    Args:
        submissions: a folder for each student, of notebooks at any depth; a notebook that lies in
            `submissions` itself is a student of its own, by its file's name.
        csv: file to write. Columns: student, the exercises' ids (points), points, of, remarks.

    Raises:
        MissingFileError: no such folder, or no notebooks in it.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(submissions.rglob("*.ipynb")):
        inside = path.relative_to(submissions).parts
        if ".ipynb_checkpoints" not in inside:
            found.setdefault(inside[0] if len(inside) > 1 else path.stem, []).append(path)
    if not found:
        raise MissingFileError(f"{submissions}: no notebooks to grade")
    rows = []
    for student, paths in found.items():
        results = {name: result for path in paths for name, result in grade(path).items()}
        row = {"student": student}
        row |= {e.id: e.stars * results.get(n, [False])[0] for n, e in EXERCISES.items()}
        row["points"] = sum(row[e.id] for e in EXERCISES.values())
        row["of"] = sum(e.stars for e in EXERCISES.values())
        row["remarks"] = "; ".join(words for right, words in results.values() if not right)
        rows.append(row)
    write_csv(csv, rows)
    return rows


def grade(path: Path) -> dict[str, list]:
    """Of each exercise that the notebook has: whether it is right, and what was said.

    Runs in a process of its own; what hangs or kills that process costs its own points only where
    time allows, and otherwise those after it.
    """
    command = [sys.executable, "-m", "hmode.course.grading", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=40 * LIMIT)
        said = done.stdout
    except subprocess.TimeoutExpired as stopped:
        said = (stopped.stdout or b"").decode()
    return {name: result for name, *result in map(json.loads, said.splitlines())}


def _grade_here(path: Path, say) -> None:
    """Tell (name, right, words) of each exercise of a notebook as soon as it is known."""
    try:
        cells = nbformat.read(path, as_version=4).cells
    except Exception as error:  # nbformat's reader has no error of its own
        return print(f"{path}: cannot be read as a notebook: {error}", file=sys.stderr)
    start = next((i for i, c in enumerate(cells) if "## Exercises" in c.source), len(cells))
    cells = [c for i, c in enumerate(cells) if i > start or ASKING & set(tags(c))]
    cells = [cell for cell in cells if cell.cell_type == "code"]
    checks = "\n".join(cell.source for cell in cells if "check" in tags(cell))
    asked = [name for name in re.findall(r"check\((\w+)\)", checks) if name in EXERCISES]
    space, stopped = _defined([cell.source for cell in cells if not UNGRADED & set(tags(cell))])
    for name in asked:
        if name in space:
            say(name, *_verdict(space[name]))
        else:
            why = stopped.get(name, "no cell of the exercises defines it")
            say(name, False, f"{EXERCISES[name].id} {name}: {why}")


def _defined(sources: list[str]) -> tuple[dict, dict[str, str]]:
    """What the cells define, all in one place, and by function why its cell could not be read. A
    name that a cell lacks may stand in another; what shows or trains is left out."""
    space, stopped = {}, {}
    exec(PRELUDE, space)
    for source in sources:
        try:
            # A line of IPython's own (%, !) is no Python.
            statements = ast.parse(re.sub(r"(?m)^[%!].*", "", source)).body
        except SyntaxError as error:
            statements = []
            for name in re.findall(r"def (\w+)\(", source):
                stopped[name] = f"its cell cannot be read: {error!r}"
        for statement in statements:
            if isinstance(statement, DEFINES):
                # What fails here, for instance because it needs a network, is missed where used.
                with contextlib.suppress(BaseException), _limited():
                    exec(compile(ast.Module([statement], []), "answer", "exec"), space)
    return space, stopped


def _verdict(function) -> tuple[bool, str]:
    try:
        with _limited():
            check(function)
    except NotYet as error:
        return False, str(error)
    except BaseException as error:  # an answer may even call sys.exit
        return False, f"{getattr(function, '__name__', function)}: {error!r}"
    return True, ""


@contextlib.contextmanager
def _limited():
    """No more than LIMIT seconds, where the system has an alarm clock."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(*_):
        raise TimeoutError(f"took longer than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def gradescope_results(submission: Path, to: Path) -> None:
    """The results.json of Gradescope's autograders, for one submission."""
    results = {n: r for path in sorted(submission.rglob("*.ipynb")) for n, r in grade(path).items()}
    tests = [
        {
            "name": f"{EXERCISES[name].id} {name}",
            "score": EXERCISES[name].stars * right,
            "max_score": EXERCISES[name].stars,
            "output": words,
        }
        for name, (right, words) in results.items()
    ]
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps({"score": sum(t["score"] for t in tests), "tests": tests}, indent=1))


SETUP = """#!/usr/bin/env bash
set -e
apt-get update && apt-get install -y python3-venv python3-pip
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu
/autograder/venv/bin/pip install '/autograder/source[notebooks]'
"""
RUN = """#!/usr/bin/env bash
/autograder/venv/bin/python -m hmode.course gradescope-results /autograder/submission \\
  /autograder/results/results.json
"""


def gradescope_zip(project: Path, to: Path) -> None:
    """An autograder for Gradescope: this package, and the two scripts that it calls."""
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("setup.sh", SETUP)
        archive.writestr("run_autograder", RUN)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            archive.write(project / name, name)
        for path in sorted((project / "hmode").rglob("*")):
            if path.is_file() and path.suffix in (".py", ".csv", ".json"):
                archive.write(path, path.relative_to(project))


def collect(grades: list[dict]) -> str:
    """The table in words, for the terminal."""
    width = max(len(row["student"]) for row in grades)
    return "\n".join(
        f"{row['student']:{width}s} {row['points']:3d} of {row['of']}" for row in grades
    )


def _main() -> None:
    """Called by `grade`: results go to the real standard output, whatever an answer prints away."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(*result) -> None:
        print(json.dumps(result), file=out, flush=True)

    _grade_here(Path(sys.argv[1]), say)


if __name__ == "__main__":
    _main()
