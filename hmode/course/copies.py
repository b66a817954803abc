"""Copies of the notebooks: for students, without solutions; for teachers, with nothing to fill in;
and as slides. What is cut is chosen by the cells' tags `answer`, `solution` and `check`."""

from collections.abc import Callable
from pathlib import Path

import nbformat

from hmode.errors import MissingFileError

ROOM = "*What you saw, and what you make of it (double click to write):*"


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def numbered(folder: Path) -> list[Path]:
    """The numbered notebooks of a folder, in order."""
    found = sorted(folder.glob("[0-9][0-9]-*.ipynb"))
    if not found:
        raise MissingFileError(f"{folder}: no numbered notebooks; call from a clone of the project")
    return found


def for_students(notebook):
    """Without solutions; checks have said nothing yet, and below each is room for words."""
    cells = []
    for cell in notebook.cells:
        if "solution" not in tags(cell):
            cells.append(cell)
        if "check" in tags(cell):
            cell.outputs, cell.execution_count = [], None
            cells.append(nbformat.v4.new_markdown_cell(ROOM, id=f"words-{cell.id}"))
    notebook.cells = cells
    return notebook


def with_solutions(notebook):
    """Without empty answers; solutions are unfolded."""
    notebook.cells = [cell for cell in notebook.cells if "answer" not in tags(cell)]
    for cell in notebook.cells:
        cell.metadata.pop("jupyter", None)
    return notebook


def as_slides(notebook):
    """A slide for each section's beginning, and one below it for each figure; without code,
    exercises and what follows them. Other text is for the speaker's notes."""
    exercises = False
    for cell in notebook.cells:
        exercises = exercises or "## Exercises" in cell.source
        shown = [each for each in cell.get("outputs", []) if _is_picture(each)]
        kind = "skip"
        if exercises:
            pass
        elif shown:
            kind, cell.outputs = "subslide", shown
        elif cell.cell_type == "markdown" and cell.source.startswith("#"):
            kind, cell.source = "slide", _beginning(cell.source)
        elif cell.cell_type == "markdown":
            kind = "notes"
        cell.metadata["slideshow"] = {"slide_type": kind}
    return notebook


def _is_picture(output) -> bool:
    return any(each.startswith("image/") for each in output.get("data", {}))


def _beginning(text: str, limit: int = 700) -> str:
    """Whole paragraphs from the beginning, at least one besides the heading, up to a length."""
    paragraphs = text.split("\n\n")
    kept = paragraphs[:2]
    for each in paragraphs[2:]:
        if len("\n\n".join([*kept, each])) > limit:
            break
        kept.append(each)
    return "\n\n".join(kept)


def write(change: Callable, source: Path, to: Path) -> tuple[list[Path], list[Path]]:
    """Changed copies of all numbered notebooks of a folder in another.

    A copy with other cells than the new one stays, for somebody may have written into it.

    Returns:
        What was written, and what was left.
    """
    to.mkdir(parents=True, exist_ok=True)
    written, left = [], []
    for path in numbered(source):
        copy, new = to / path.name, change(nbformat.read(path, as_version=4))
        if copy.is_file() and _sources(nbformat.read(copy, as_version=4)) - _sources(new):
            left.append(copy)
        else:
            nbformat.write(new, copy)
            written.append(copy)
    return written, left


def _sources(notebook) -> set[str]:
    return {cell.source.strip() for cell in notebook.cells}
