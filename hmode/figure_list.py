"""What the notebooks make: every figure and table, the cell that makes it, and what of the paper it
answers; and the cells of a notebook without which one of them cannot be made."""

import ast
import difflib
import dis
import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import nbformat

from hmode.errors import InputError, MissingFileError
from hmode.runs import read_csv

# How a cell keeps what it made: lab.save(fig, "06-weights"), lab.save_table("06-use", rows), and
# as_printed("table4") for a table of the paper.
KEEPS = re.compile(r"""\blab\.save\w*\(\s*(?:\w+,\s*)?"([\w-]+)"|\bas_printed\(\s*"(table\d+)\"""")
HEADING = re.compile(r"^#{1,4} (.+)$", re.MULTILINE)
CHANGES = {"append", "extend", "insert", "update", "setdefault", "pop", "add", "remove", "sort"}


class Shown(NamedTuple):
    """A figure or table: its name, notebook and cell, the heading above, what of the paper it is
    about ("Table IV, IV-E.1", empty where nothing)."""

    name: str
    notebook: Path
    cell: int
    heading: str
    paper: str


def shown(folder: str | Path) -> list[Shown]:
    """Every figure and table of the numbered notebooks in a folder, in order.

    Raises:
        MissingFileError: there is no such folder, or no notebook in it.
    """
    return [each for path in numbered(folder) for each in _shown_in(path)]


def numbered(folder: str | Path) -> list[Path]:
    """The numbered notebooks of a folder, in order.

    Raises:
        MissingFileError: there is no such folder, or no notebook in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(
            f"{folder}: no such folder of notebooks; call from a clone of the project, or give "
            "--notebooks"
        )
    paths = sorted(folder.glob("[0-9][0-9]-*.ipynb"))
    if not paths:
        raise MissingFileError(f"{folder}: no numbered notebooks")
    return paths


def _shown_in(path: Path) -> list[Shown]:
    about = {row["name"]: row["paper"] for row in read_csv(files("hmode.paper") / "figures.csv")}
    found: dict[str, Shown] = {}
    heading = path.stem
    for index, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "markdown":
            heading = (HEADING.findall(cell.source) or [heading])[-1]
        elif cell.cell_type == "code":
            for match in KEEPS.finditer(cell.source):
                name = match[1] or match[2]
                found.setdefault(name, Shown(name, path, index, heading, about.get(name, "")))
    return [*found.values()]


def find(name: str, everything: Iterable[Shown]) -> Shown:
    """The figure or table of that name, "06-weights" or "table4".

    Raises:
        InputError: there is none; names the nearest.
    """
    known = {each.name: each for each in everything}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        near = near or [each for each in known if each[:2] == name[:2]][:3]
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(f"no figure or table is named {name!r}{hint}; hmode figures lists them")
    return known[name]


def cells_for(notebook, target: int) -> list[int]:
    """The code cells of a notebook, up to one of them, that this one cannot do without.

    A cell is needed if it makes or changes a name that a needed cell reads; the parameters always
    are.
    """
    code = [i for i in range(target) if notebook.cells[i].cell_type == "code"]
    names = {i: _names(notebook.cells[i].source) for i in [*code, target]}
    needed = {target}
    needed |= {i for i in code if "parameters" in notebook.cells[i].metadata.get("tags", [])}
    while True:
        read = set().union(*(names[i][0] for i in needed))
        more = {i for i in code if names[i][1] & read} - needed
        if not more:
            return sorted(needed)
        needed |= more


@cache
def _names(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell reads before it makes them, and those that it makes or changes."""
    reads: set[str] = set()
    makes: set[str] = set()
    code = compile(source, "cell", "exec")
    for step in dis.get_instructions(code):
        if step.opname == "STORE_NAME":
            makes.add(step.argval)
        elif step.opname == "LOAD_NAME" and step.argval not in makes:
            reads.add(step.argval)
    reads |= _globals(code) - makes
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            makes |= _base(node)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in CHANGES:
            makes |= _base(node.func)
    return reads, makes


def _globals(code: CodeType) -> set[str]:
    """What the functions and classes of a cell read of the notebook."""
    found: set[str] = set()
    for inner in (each for each in code.co_consts if isinstance(each, CodeType)):
        steps = [*dis.get_instructions(inner)]
        own = {step.argval for step in steps if step.opname == "STORE_NAME"}
        found |= {s.argval for s in steps if s.opname in ("LOAD_GLOBAL", "LOAD_NAME")} - own
        found |= _globals(inner)
    return found


def _base(node: ast.expr) -> set[str]:
    """`x` of `x.y[0]`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()
