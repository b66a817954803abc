"""The runner of numbered notebooks: order, promises, failures, and what it leaves behind."""

import io
import os
import re
import sys
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from hmode.errors import HmodeError, InputError, MissingFileError
from hmode.notebooks import NotebookError, publish, reproduce, summary
from hmode.runs import write_csv
from hmode.watch import epochs_bar, training

PARAMETERS = """\
profile = "quick"
dataset = "synthetic"
data_root = None
device = "auto"
seed = 0
output = None"""
# Where a notebook of the series puts its figures; without hmode, to be quick.
FIGURES = """\
from pathlib import Path
figures = Path(output) / "figures" / profile / dataset
figures.mkdir(parents=True, exist_ok=True)
log = open(Path(output) / "log.txt", "a")"""


def write_notebook(folder, name, *cells, promises=(), parameters=PARAMETERS):
    """A notebook whose cells are a title, the parameters, the folder, and the given code."""
    folder.mkdir(parents=True, exist_ok=True)
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    code = [new_code_cell(source) for source in (FIGURES, *cells)]
    notebook = new_notebook(cells=[new_markdown_cell("# Title"), first, *code])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    notebook.metadata["hmode"] = {"figures": list(promises)}
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def log(word):
    return f"print({word!r}, file=log, flush=True)"


def log_value(expression):
    return f"print({expression}, file=log, flush=True)"


def save(name):
    return f"(figures / {name!r}).write_text('drawn')"


@pytest.fixture
def series(tmp_path, monkeypatch):
    """A folder for notebooks, and `reproduce` on it with everything below tmp_path."""
    monkeypatch.chdir(tmp_path)
    said = []

    def call(**options):
        return reproduce(
            profile="smoke",
            output=tmp_path / "out",
            notebooks=tmp_path / "notebooks",
            say=said.append,
            **options,
        )

    call.folder, call.output, call.said = tmp_path / "notebooks", tmp_path / "out", said
    call.figures = tmp_path / "out" / "figures" / "smoke" / "synthetic"
    return call


def logged(series):
    path = series.output / "log.txt"
    return path.read_text().split("\n")[:-1] if path.is_file() else []


def test_in_order_with_all_parameters_and_outputs_published(series, tmp_path):
    (tmp_path / "data").mkdir()
    values = "[profile, dataset, data_root, device, seed, output]"
    environment = "[os.environ.get(n) for n in ('HMODE_STATIC', 'HMODE_PROFILE', 'HMODE_OUTPUT')]"
    second = write_notebook(
        series.folder,
        "02-second",
        f"import os, json; print(json.dumps({values} + {environment}), file=log, flush=True)",
        "1 + 1",
        save("a.png"),
        promises=["a.png"],
    )
    write_notebook(series.folder, "01-first", log("first"))
    write_notebook(series.folder, "scratch", "raise ValueError('not numbered, not run')")
    source = nbformat.read(second, as_version=4)
    before = dict(os.environ)

    reports = series(data_root="data", seed=5, device="cpu", in_place=True)

    assert [report.name for report in reports] == ["01-first", "02-second"]
    first, values = logged(series)
    assert first == "first"
    data, output = str(tmp_path / "data"), str(tmp_path / "out")
    expected = ["smoke", "synthetic", data, "cpu", 5, output, "1", "smoke", output]
    assert nbformat.reader.parse_json(values) == expected
    assert reports[1].figures == [series.figures / "a.png"]
    assert dict(os.environ) == before
    assert len(series.said) == 4
    assert "[1/2] 01-first" in series.said[0]
    assert "1 figures" in series.said[3]

    executed = series.figures / "notebooks" / "02-second.ipynb"
    assert reports[1].executed == executed
    assert "injected-parameters" in executed.read_text()
    stored = nbformat.read(second, as_version=4)
    nbformat.validate(stored)
    assert [cell.source for cell in stored.cells] == [cell.source for cell in source.cells]
    assert [cell.id for cell in stored.cells] == [cell.id for cell in source.cells]
    assert [cell.metadata for cell in stored.cells] == [cell.metadata for cell in source.cells]
    assert stored.metadata == source.metadata
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    (result,) = code[3].outputs
    assert (result["data"]["text/plain"], result["execution_count"]) == ("2", 4)
    text = second.read_text()
    assert "papermill" not in text
    assert str(tmp_path) not in text


def test_only_some(series):
    for number in ("01", "02", "03"):
        write_notebook(series.folder, f"{number}-x", log(number))
    reports = series(only=["03"])
    assert [report.name for report in reports] == ["03-x"]
    assert logged(series) == ["03"]
    with pytest.raises(InputError, match=r"no notebook starts with '07'.*01-x.*03-x"):
        series(only=["03", "07"])
    assert logged(series) == ["03"]


def test_an_unknown_parameter_is_refused_before_anything_runs(series):
    write_notebook(series.folder, "01-first", log("ran"), parameters=PARAMETERS + "\nwidth = 3")
    write_notebook(series.folder, "02-second", log("ran"))
    with pytest.raises(InputError, match=r"02-second\.ipynb: no parameter 'width'.*dataset"):
        series(parameters={"width": "5"})
    assert logged(series) == []
    assert not series.output.exists()


def test_a_notebook_that_lacks_a_parameter_is_refused(series):
    write_notebook(series.folder, "01-x", log("ran"), parameters='profile = "quick"')
    with pytest.raises(InputError, match=r"01-x\.ipynb: no parameter"):
        series()


def test_a_failing_cell_is_named_and_the_other_notebooks_run(series):
    write_notebook(series.folder, "01-good", save("a.csv"), promises=["a.csv"])
    bad = write_notebook(series.folder, "02-bad", "x = 1", "x / 0", log("after"))
    write_notebook(series.folder, "03-after", log("nevertheless"))
    source = bad.read_bytes()
    with pytest.raises(NotebookError) as error:
        series(in_place=True)
    message = str(error.value)
    assert isinstance(error.value, HmodeError)
    assert "02-bad.ipynb" in message
    assert "ZeroDivisionError: division by zero" in message
    assert len(message.splitlines()) == 1
    assert message.startswith("1 of 3 notebooks failed: 02-bad.ipynb")
    executed = series.figures / "notebooks" / "02-bad.ipynb"
    assert str(executed) in message
    # Cells are counted from one, in the notebook itself.
    number = int(message.split("cell ")[1].split(":")[0])
    assert nbformat.read(bad, as_version=4).cells[number - 1].source == "x / 0"
    assert logged(series) == ["nevertheless"]
    assert (series.figures / "a.csv").read_text() == "drawn"
    assert (series.figures / "notebooks" / "01-good.ipynb").is_file()
    assert bad.read_bytes() == source


def test_all_that_failed_are_listed(series):
    write_notebook(series.folder, "01-dies", "import os; os._exit(1)", log("after"))
    write_notebook(series.folder, "02-breaks", "raise ValueError('no')")
    with pytest.raises(NotebookError) as error:
        series()
    message = str(error.value)
    assert "2 of 2 notebooks failed: 01-dies.ipynb: its kernel died" in message
    assert "02-breaks.ipynb, cell 4: ValueError: no" in message


def test_a_fold_goes_to_the_notebooks(series):
    """What a lab makes of it, test_lab.py asks."""
    write_notebook(series.folder, "01-x", "import os", log_value("os.environ.get('HMODE_FOLD')"))
    series()
    series(fold=3)
    assert logged(series) == ["None", "3"]


def test_leaving_half_way_is_not_success(series):
    write_notebook(series.folder, "01-x", "import sys; sys.exit(0)", log("after"))
    with pytest.raises(NotebookError, match=r"01-x\.ipynb, cell \d+: .*not completed"):
        series()


def test_a_promised_figure_that_is_missing_or_from_before(series):
    write_notebook(series.folder, "01-x", "pass", promises=["gates.png"])
    for stale in (False, True):
        if stale:
            (series.figures / "gates.png").write_text("from another day")
            os.utime(series.figures / "gates.png", (1e9, 1e9))
        with pytest.raises(NotebookError, match=r"01-x\.ipynb: promised gates\.png"):
            series()


def test_fresh_forgets_the_runs_of_this_seed_only(series):
    write_notebook(series.folder, "01-x", "pass")
    runs = series.output / "runs"
    places = ["smoke/synthetic/a-seed1", "smoke/synthetic/a-seed11", "smoke/synthetic/a-seed0"]
    places += ["quick/synthetic/a-seed1", "smoke/sha/a-seed1"]
    for place in places:
        (runs / place).mkdir(parents=True)
    series(seed=1, fresh=True)
    assert [place for place in places if not (runs / place).exists()] == places[:1]


def test_no_notebooks(series):
    with pytest.raises(MissingFileError, match="no such folder of notebooks"):
        series()
    series.folder.mkdir()
    with pytest.raises(MissingFileError, match="no numbered notebooks"):
        series()


def test_publishing_strips_what_a_run_leaves(tmp_path):
    """Without a kernel: an executed copy as papermill and a live widget leave it."""
    path = write_notebook(tmp_path, "01-x", "1 + 1")
    notebook = nbformat.read(path, as_version=4)
    copy = nbformat.read(path, as_version=4)
    copy.metadata["papermill"] = {"input_path": "/home/somebody"}
    copy.metadata["widgets"] = {"state": {}}
    copy.cells.insert(
        2, new_code_cell("seed = 7", metadata={"tags": ["injected-parameters"]}, execution_count=2)
    )
    for number, cell in enumerate(cell for cell in copy.cells if cell.cell_type == "code"):
        cell.execution_count = 40 + number
        cell.metadata["papermill"] = {"duration": 3.0}
        cell.metadata["execution"] = {"iopub.status.busy": "2020"}
    copy.cells[-1].outputs = [
        nbformat.v4.new_output(
            "execute_result", data={"text/plain": "2"}, execution_count=43, metadata={}
        )
    ]
    nbformat.write(copy, tmp_path / "executed.ipynb")
    publish(tmp_path / "executed.ipynb", path)
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    assert [c.source for c in stored.cells] == [c.source for c in notebook.cells]
    assert [c.metadata for c in stored.cells] == [c.metadata for c in notebook.cells]
    assert stored.metadata == notebook.metadata
    assert [c.get("execution_count") for c in stored.cells] == [None, 1, 2, 3]
    assert stored.cells[-1].outputs[0]["execution_count"] == 3


class TestSummary:
    ROWS = (
        {"network": "Baseline", "mae": 101.25, "mse": 150.5, "mae_over_mean": 0.5, "seed": 3},
        {"network": "HMoDE+REL", "mae": 90.04, "mse": 140.0, "mae_over_mean": 0.444, "seed": 3},
        {"network": "Ours", "mae": 9.0, "mse": 14.0, "mae_over_mean": 0.1, "seed": 3},
    )

    def lines(self, tmp_path, dataset):
        figures = tmp_path / "figures" / "quick" / dataset
        figures.mkdir(parents=True)
        write_csv(figures / "results.csv", list(self.ROWS))
        return summary("quick", dataset, tmp_path).splitlines()

    def test_measured_stands_beside_printed(self, tmp_path):
        lines = self.lines(tmp_path, "sha")
        assert lines[1].split() == ["Baseline", "101.2", "150.5", "0.50", "66.3", "108.4"]
        assert lines[2].split() == ["HMoDE+REL", "90.0", "140.0", "0.44", "54.4", "87.4"]
        assert lines[3].split() == ["Ours", "9.0", "14.0", "0.10", "–", "–"]
        assert len({len(line) for line in lines[:4]}) == 1
        text = "\n".join(lines)
        assert "seed 3" in text
        assert str(tmp_path / "figures" / "quick" / "sha") in text
        assert str(tmp_path / "runs" / "quick" / "sha") in text

    def test_the_paper_has_no_synthetic_crowds(self, tmp_path):
        assert self.lines(tmp_path, "synthetic")[1].split()[-2:] == ["–", "–"]

    def test_without_results_it_says_where_the_figures_are(self, tmp_path):
        folder = str(tmp_path / "figures" / "quick" / "sha")
        assert summary("quick", "sha", tmp_path) == f"Figures: {folder}"


class TestOneFigure:
    def test_runs_the_cells_it_needs_and_no_others(self, series):
        write_notebook(
            series.folder,
            "01-x",
            "class Lab:\n    def save(self, figure, name): (figures / name).write_text(figure)",
            "lab, rows = Lab(), []",
            f"x = 1\n{log('x')}",
            "rows.append(x)",
            f"y = 2\n{log('y')}",
            "def drawn():\n    return str(rows + [late])",
            "late = 3",
            f'fig = drawn()\nlab.save(fig, "01-first")\n{log("first")}',
            f'fig = str(y)\nlab.save(fig, "01-second")\n{log("second")}',
            promises=["01-first", "01-second"],
        )
        (report,) = series(figure="01-first")
        assert logged(series) == ["x", "first"]
        assert report.figures == [series.figures / "01-first"]
        assert report.figures[0].read_text() == "[1, 3]"
        assert report.executed.name == "01-x.01-first.ipynb"
        series(figure="01-second")
        assert logged(series) == ["x", "first", "y", "second"]

    def test_an_unknown_one_names_those_near_it(self, series):
        write_notebook(series.folder, "06-x", 'lab.save(fig, "06-weights")')
        write_notebook(series.folder, "07-x", 'as_printed("table4")')
        with pytest.raises(InputError, match=r"named '06-weight'; near it: 06-weights"):
            series(figure="06-weight")
        with pytest.raises(InputError, match=r"named 'table5'; near it: table4"):
            series(figure="table5")
        with pytest.raises(InputError, match=r"named 'zzz'; hmode figures lists them"):
            series(figure="zzz")


class TestWatching:
    def test_the_notebook_and_the_cell_and_the_time_left_are_told(self, series, tmp_path):
        write_notebook(series.folder, "01-x", "import time; time.sleep(2.5)")
        write_notebook(series.folder, "02-x", "pass")
        shown = []
        series(show=shown.append)
        assert any(
            re.fullmatch(r"\[1/2\] 01-x: cell 4 of 4, \d+ s, about \d+ s left", line)
            for line in shown
        ), shown

    def test_the_epoch_of_the_training_that_goes_on(self, tmp_path):
        run = tmp_path / "quick" / "synthetic" / "hmode-seed0"
        run.mkdir(parents=True)
        assert training(tmp_path, 0.0) == ""
        (run / "config.json").write_text('{"schedule": {"epochs": 3}}')
        write_csv(run / "history.csv", [{"epoch": 1}, {"epoch": 2}])
        assert training(tmp_path, 0.0) == ", hmode-seed0: 2 of 3 epochs"
        assert training(tmp_path, time.time() + 60) == ""  # another time's
        write_csv(run / "history.csv", [{"epoch": e} for e in (1, 2, 3)])
        assert training(tmp_path, 0.0) == ""

    def test_a_bar_over_the_epochs_of_several_runs(self, tmp_path, monkeypatch, capsys):
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stderr", terminal)
        begun, failing, later = (tmp_path / name for name in ("begun", "failing", "later"))
        begun.mkdir()
        (begun / "config.json").write_text('{"schedule": {"epochs": 3}}')
        write_csv(begun / "history.csv", [{"epoch": 1}])
        failing.mkdir()
        (failing / "config.json").write_text('{"schedule": {"epochs": "many"}}')  # no run of ours
        write_csv(failing / "history.csv", [{"epoch": 1}])
        folders = [begun, failing, later]
        with epochs_bar(folders, 5, print) as say:
            assert "1/15" in terminal.getvalue()
            folders.remove(failing)
            write_csv(begun / "history.csv", [{"epoch": 1}, {"epoch": 2}])
            say("a line")
        assert "2/8" in terminal.getvalue().splitlines()[-1]
        assert capsys.readouterr().out == "a line\n"

    def test_a_log_is_spared_the_bar_of_a_short_sweep(self, tmp_path, capsys):
        lines = []
        with epochs_bar([tmp_path], 5, lines.append) as say:
            say("a line")
        assert (lines, capsys.readouterr().err) == (["a line"], "")
