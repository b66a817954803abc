"""Every figure and table by its name, and the cells of a notebook that one of them needs."""

import subprocess
import sys
from importlib.resources import files

import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from hmode.cli import main
from hmode.errors import MissingFileError
from hmode.figure_list import cells_for, find, numbered, shown
from hmode.lab import project_folder
from hmode.paper.beside import TITLES
from hmode.runs import read_csv

FOLDER = project_folder() / "notebooks"
EVERYTHING = shown(FOLDER)


def notebook(*cells):
    return new_notebook(cells=[new_code_cell(source) for source in cells])


class TestCellsOfOne:
    @pytest.mark.parametrize(
        ("cells", "needed"),
        [
            (["a = 1", "b = 2", "print(b)"], [1, 2]),
            (["a = 1", "b = a", "c = 3", "print(b)"], [0, 1, 3]),
            (["def f():\n    return late", "late = 1", "f()"], [0, 1, 2]),
            (["x = []", "x.append(1)", "x.count(1)", "print(x)"], [0, 1, 3]),
            (["d = {}", "d['a'] = 1", "e = 1", "print(d)"], [0, 1, 3]),
            (["n = 1", "n += 1", "print(n)"], [0, 1, 2]),
            (["import os", "class A:\n    here = os.sep", "A()"], [0, 1, 2]),
            (["row = 1", "rows = 2", "print([row for row in range(rows)])"], [1, 2]),
            (["ax = 1", "for ax in [1]:\n    print(ax)"], [1]),
            (["print(1)", "a = 1", "def f(a):\n    return a", "f(2)"], [2, 3]),
        ],
    )
    def test_what_is_made_or_changed_before_is_taken(self, cells, needed):
        assert cells_for(notebook(*cells), len(cells) - 1) == needed

    def test_the_parameters_always_are_and_prose_never(self):
        parameters = new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
        cells = [new_markdown_cell("words"), parameters, new_code_cell("print(1)")]
        assert cells_for(new_notebook(cells=cells), 2) == [1, 2]


@pytest.mark.parametrize("path", numbered(FOLDER), ids=lambda path: path.stem)
def test_the_cells_of_each_figure_define_all_that_they_use(path):
    """Of the figures that a notebook makes, each can be made alone."""
    content = nbformat.read(path, as_version=4)
    sources = []
    for each in EVERYTHING:
        if each.notebook == path:
            cells = cells_for(content, each.cell)
            assert each.cell == cells[-1]
            body = "\n\n".join(content.cells[i].source for i in cells)
            lines = "\n".join(f"    {line}" for line in body.splitlines())
            sources.append(f"def alone_{len(sources)}():\n{lines}\n")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"]
    done = subprocess.run(
        command, input="\n\n".join(sources), capture_output=True, text=True, check=False
    )
    assert sources
    assert done.returncode == 0, done.stdout[-2000:]


def test_every_promised_figure_is_listed_and_every_listed_one_promised():
    names = {each.name for each in EVERYTHING}
    for path in numbered(FOLDER):
        promised = nbformat.read(path, as_version=4).metadata["hmode"]["figures"]
        assert {each.rsplit(".", 1)[0] for each in promised} <= names
    assert len(names) == len(EVERYTHING)


def test_every_table_of_the_paper_has_a_name_and_a_notebook():
    for name in TITLES:
        assert find(name, EVERYTHING).paper.startswith("Table ")
    answered = {row["name"] for row in read_csv(files("hmode.paper") / "figures.csv")}
    assert {each.name for each in EVERYTHING if each.name[:2] in ("05", "06", "07")} <= answered


def test_a_folder_without_notebooks(tmp_path):
    with pytest.raises(MissingFileError, match="no numbered notebooks"):
        shown(tmp_path)


def test_the_command_lists_name_notebook_and_paper():
    result = CliRunner().invoke(main, ["figures", "--notebooks", str(FOLDER)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert len(lines) == 1 + len(EVERYTHING)
    (line,) = (line for line in lines if line.startswith("table4 "))
    assert line.split()[1:4] == ["05-ablations", "Table", "IV"]
