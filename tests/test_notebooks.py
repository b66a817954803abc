"""The notebook series: runs under `smoke` as committed, and keeps its promises."""

import ast
import json
import os
import re
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from nbconvert.preprocessors import TagRemovePreprocessor

from hmode import notebooks
from hmode.lab import project_folder

FOLDER = project_folder() / "notebooks"
PATHS = sorted(FOLDER.glob("[0-9][0-9]-*.ipynb"))
CORE = ("00", "01", "02", "03", "04", "06", "10")  # the path that every reader takes
PARAMETERS = {"profile", "dataset", "data_root", "device", "seed", "output"}


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def test_the_series_is_there():
    assert {path.name[:2] for path in PATHS} >= {"00", "01", "02", "03", "04", "06"}


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """The whole series, run once through papermill; its trainings serve the tests after it."""
    output = tmp_path_factory.mktemp("series")
    reports = notebooks.reproduce(
        profile="smoke", device="cpu", output=output, notebooks=FOLDER, say=lambda line: None
    )
    return output, reports


@pytest.mark.slow
def test_the_whole_series_runs_and_keeps_its_promises(series):
    output, reports = series
    assert [report.name for report in reports] == [path.stem for path in PATHS]
    for report in reports:
        assert report.figures, f"{report.name} promises no figure"
    table = notebooks.summary("smoke", "synthetic", output)
    for network in ("Baseline", "HMoDE", "HMoDE+REL", "mean count"):
        assert network in table


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_stored_outputs_that_do_not_depend_on_the_machine_are_right(path, series):
    """nbval runs the notebook and compares the cells tagged nbval-check-output."""
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", str(path)]
    settings = {"HMODE_PROFILE": "smoke", "HMODE_STATIC": "1", "HMODE_OUTPUT": str(series[0])}
    done = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, cwd=FOLDER, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_student_copy_without_solutions_is_whole(path):
    """No name that other cells need is defined in a solution only."""
    student, _ = TagRemovePreprocessor(enabled=True, remove_cell_tags=["solution"]).preprocess(
        read(path), {}
    )
    assert len(code(student)) < len(code(read(path))), "no exercise has a solution"
    source = "\n\n".join(cell.source for cell in code(student))
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def names_stored(cells):
    return {
        node.id
        for cell in cells
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
class TestCommittedForm:
    def test_has_one_parameters_cell_with_the_six_parameters(self, path):
        cells = [cell for cell in code(read(path)) if "parameters" in tags(cell)]
        assert len(cells) == 1
        assert names_stored(cells) == PARAMETERS

    def test_was_run_in_order_and_without_complaints(self, path):
        cells = code(read(path))
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        for cell in cells:
            for output in cell.outputs:
                assert output.output_type != "error"
                assert output.get("name") != "stderr", output

    def test_carries_no_trace_of_a_machine(self, path):
        text = path.read_text(encoding="utf-8")
        without_pictures = re.sub(r'"image/\w+": "[^"]*"', "", text)
        assert not re.search(r"(/home/|/Users/|[A-Z]:\\\\|PosixPath|WindowsPath)", without_pictures)
        assert str(project_folder()) not in without_pictures
        metadata = json.loads(text)["metadata"]
        assert metadata["kernelspec"]["name"] == "python3"
        assert "widgets" not in metadata
        assert "papermill" not in metadata

    def test_is_small(self, path):
        assert path.stat().st_size < 450_000

    def test_shows_pictures(self, path):
        outputs = [output for cell in code(read(path)) for output in cell.outputs]
        kinds = {kind for output in outputs for kind in output.get("data", {})}
        assert kinds & {"image/jpeg", "image/png"}

    def test_says_what_is_learnt_asks_and_points_on(self, path):
        text = "\n".join(cell.source for cell in read(path).cells)
        for heading in ("**You will learn**", "## Exercises", "## What to read next"):
            assert heading in text

    def test_links_lead_somewhere(self, path):
        text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
        for target in re.findall(r"\]\(([^)#\s]+\.ipynb)\)", text):
            assert (FOLDER / target).is_file(), target


AUDITED = [path for path in PATHS if "05" <= path.name[:2] <= "09"]
EXERCISE = {"exercise", "answer", "solution", "check"}


@pytest.mark.parametrize("path", AUDITED, ids=lambda path: path.stem)
class TestReadable:
    def test_cells_fit_on_a_screen(self, path):
        for cell in code(read(path)):
            if not tags(cell) & EXERCISE:
                lines = cell.source.split("\n")
                assert len(lines) <= 30, cell.source[:80]
                assert max(map(len, lines)) <= 100, max(lines, key=len)

    def test_drawing_is_folded(self, path):
        for cell in (each for each in code(read(path)) if not tags(each) & EXERCISE):
            if "lab.save(fig" in cell.source:
                assert "hide-input" in tags(cell), cell.source[:80]
            assert ("hide-input" in tags(cell)) == bool(
                cell.metadata.get("jupyter", {}).get("source_hidden")
            )

    def test_says_what_came_out_instead_of_pointing_at_it(self, path):
        text = "\n".join(cell.source for cell in read(path).cells)
        assert not re.search(r"printed above|line above|see above for", text)

    def test_what_one_must_know_and_how_long_it_takes(self, path):
        opening = read(path).cells[0].source
        for words in ("**You will learn**", "**You need:**", "**Time:**", "glossary.md"):
            assert words in opening
        assert ("part of the audit" in opening) == (path.name[:2] != "06")


def best_of(name, key):
    """The row of a stored table with the least value."""
    rows = stored_rows(name)
    return min(rows, key=lambda row: row[key])


def stored_rows(name):
    path = project_folder() / "figures" / "quick" / "synthetic" / f"{name}.csv"
    if not path.is_file():
        pytest.skip(f"{name}.csv is not stored")
    return pd.read_csv(path).to_dict("records")


# Of a sentence: its notebook, how it begins, and what its table says must stand in it.
SENTENCES = [
    (
        "05-ablations",
        "Over .* test images this network errs least",
        lambda: (
            [f"{row['mae']:.1f}" for row in stored_rows("05-gates")]
            + [f"least with *{best_of('05-gates', 'mae')['gates']}* weights"]
        ),
    ),
    (
        "06-experts",
        "Where people are, the finest expert E1",
        lambda: (
            [f"{row['E1']:.2f}" for row in stored_rows("06-use")[:1]]
            + [f"{max(row['E1'] for row in stored_rows('06-use')[1:]):.2f}"]
        ),
    ),
    (
        "06-experts",
        "Of the causes tried on part A",
        lambda: [
            f"{row['gate 1, bit']:.2f}"
            for row in stored_rows("06-causes")
            if row["experiment"] in ("gates/means", "hmode")
        ],
    ),
    (
        "06-experts",
        "The smallest mean weight in a pair is",
        lambda: [
            "{member}'s in {gate}, {mean:.2f}".format(
                **min(
                    (r for r in stored_rows("06-weights") if r["gate"] != "gate 2"),
                    key=lambda r: r["mean"],
                )
            )
        ],
    ),
    (
        "06-experts",
        "Told the truth, the best mixture",
        lambda: [
            f"{row['share']:.0%}"
            for row in stored_rows("06-oracle")
            if (row["network"], row["map"]) == ("HMoDE+REL", "best mixture of experts")
        ],
    ),
]


@pytest.mark.parametrize(
    ("name", "begins", "expected"),
    SENTENCES,
    ids=lambda x: x[:30] if isinstance(x, str) else "said",
)
def test_what_came_out_is_what_the_table_says(name, begins, expected):
    """On the outputs that are committed with the notebooks."""
    cells = code(read(FOLDER / f"{name}.ipynb"))
    outputs = [output for cell in cells for output in cell.outputs]
    said = [output.get("data", {}).get("text/markdown", "") for output in outputs]
    if not outputs:
        pytest.skip("the notebook is committed without outputs")
    (sentence,) = [text for text in said if re.match(rf"\*\*{begins}", text)]
    for words in expected():
        assert words in sentence


def lessons(notebook):
    """The cells of a notebook up to its exercises."""
    cells = []
    for cell in notebook.cells:
        before, heading, _ = cell.source.partition("## Exercises")
        cells.append(nbformat.from_dict({**cell, "source": before}))
        if heading and cell.cell_type == "markdown":
            break
    return cells


def words(text):
    """Words of prose: without formulas, code blocks and the targets of links."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|```.*?```", " ", text, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return sum(bool(re.search(r"[^\W\d_]", word)) for word in text.split())


@pytest.mark.parametrize("path", [p for p in PATHS if p.name[:2] in CORE and p.name[:2] != "06"])
class TestCorePath:
    def test_cells_are_short_and_narrow(self, path):
        for cell in code(read(path)):
            if not EXERCISE & tags(cell):
                lines = cell.source.split("\n")
                assert len(lines) <= 30, lines[0]
                assert max(map(len, lines)) <= 100, max(lines, key=len)

    def test_says_what_it_takes_and_what_came_of_it(self, path):
        text = "\n".join(cell.source for cell in read(path).cells)
        for part in ("**Before you start:**", "**Time:**", "glossary.md", "## Summary"):
            assert part in text, part

    def test_hides_only_what_draws(self, path):
        for cell in code(read(path)):
            if cell.metadata.get("jupyter", {}).get("source_hidden") and not EXERCISE & tags(cell):
                assert "fig" in cell.source


def test_the_network_of_notebook_03_is_read_in_one_sitting():
    (path,) = (path for path in PATHS if path.name.startswith("03"))
    cells = [cell for cell in code(read(path)) if "network" in tags(cell)]
    assert sum(len(cell.source.split("\n")) for cell in cells) <= 250
    text = "\n".join(cell.source for cell in cells)
    defined = {
        n.name for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.ClassDef, ast.FunctionDef))
    }
    assert defined >= {
        *("Encoder", "Decoder", "GatingNet", "AttentionNet", "mix", "Network"),
        *("density_loss", "relative_loss", "attention_loss", "importance_loss", "total_loss"),
        "train",
    }


def test_the_core_path_is_short():
    """8,000 words of prose, what is read in 90 minutes beside code and figures; 06 has the rest."""
    paths = [path for path in PATHS if path.name[:2] in CORE and path.name[:2] != "06"]
    texts = [
        cell.source
        for path in paths
        for cell in lessons(read(path))
        if cell.cell_type == "markdown"
    ]
    assert sum(map(words, texts)) <= 6500


def test_the_glossary_names_figures_that_notebooks_save():
    text = (project_folder() / "docs" / "glossary.md").read_text(encoding="utf-8")
    for number, figure in re.findall(r"notebooks/(\d\d)-[^)]*\), \*([^*]+)\*", text):
        (path,) = (path for path in PATHS if path.name.startswith(number))
        assert f'lab.save(fig, "{figure}")' in "".join(cell.source for cell in code(read(path)))


PYPLOT = {"subplots", "subplot", "subplot_mosaic", "figure", "gcf", "gca", "show", "sca", "axes"}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_widgets_draw_is_nothing_of_pyplots(path):
    """A move is drawn while another cell has pyplot's figures; see `hmode.plots.subplots`."""
    trees = [ast.parse(cell.source) for cell in code(read(path))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    functions = {n.name: n for n in nodes if isinstance(n, ast.FunctionDef)}
    calls = [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    moved = {n.args[0].id for n in calls if n.func.id in ("explore", "ask_for_picture")}
    assert moved <= functions.keys()
    for name in moved:
        used = {
            n.attr
            for n in ast.walk(functions[name])
            if isinstance(n, ast.Attribute)
            and isinstance(n.value, ast.Name)
            and n.value.id == "plt"
        }
        assert not used & PYPLOT, name
