"""The notebook series: runs under `smoke` as committed, and keeps its promises."""

import ast
import json
import os
import re
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
from helpers import ipython_folder
from nbconvert.preprocessors import TagRemovePreprocessor

from hmode import notebooks
from hmode.lab import project_folder

FOLDER = project_folder() / "notebooks"
PATHS = sorted(FOLDER.glob("[0-9][0-9]-*.ipynb"))
CORE = ("00", "01", "02", "03", "04", "06", "10")  # the path that every reader takes
EXERCISE = {"exercise", "answer", "solution", "check"}
PARAMETERS = {"profile", "dataset", "data_root", "device", "seed", "output"}


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def test_the_series_is_there():
    assert {path.name[:2] for path in PATHS} >= {"00", "01", "02", "03", "04", "06"}


# Every kernel of the series measures its figures before it saves them.
MEASURING = """
def start():
    import json
    from hmode.lab import Lab
    from legible import faults

    save = Lab.save

    def measured(lab, figure, name):
        found = faults(figure)
        save(lab, figure, name)
        (lab.figures / f"{name}.faults.json").write_text(json.dumps(found))

    Lab.save = measured

start()
del start
"""


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """The whole series, run once through papermill; its trainings serve the tests after it."""
    output = tmp_path_factory.mktemp("series")
    paths = [str(FOLDER.parent / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", ipython_folder(output / "ipython", MEASURING))
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        reports = notebooks.reproduce(
            profile="smoke", device="cpu", output=output, notebooks=FOLDER, say=lambda line: None
        )
    return output / "figures" / "smoke" / "synthetic", reports


@pytest.mark.slow
def test_the_whole_series_runs_and_keeps_its_promises(series):
    figures, reports = series
    assert [report.name for report in reports] == [path.stem for path in PATHS]
    for report in reports:
        assert report.figures, f"{report.name} promises no figure"
    table = notebooks.summary("smoke", "synthetic", figures.parents[2])
    for network in ("Baseline", "HMoDE", "HMoDE+REL", "mean count"):
        assert network in table


@pytest.mark.slow
def test_all_saved_figures_are_legible(series):
    figures, _ = series
    found = {path.stem: json.loads(path.read_text()) for path in figures.glob("*.faults.json")}
    assert {name[:2] for name in found} == {path.name[:2] for path in PATHS}
    assert {name: faults for name, faults in found.items() if faults} == {}


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_stored_outputs_that_do_not_depend_on_the_machine_are_right(path, series):
    """What cells tagged nbval-check-output print, in the series as in the committed notebook."""
    executed = series[0] / "notebooks" / path.name
    cells = [cell for cell in code(read(executed)) if "injected-parameters" not in tags(cell)]
    for now, stored in zip(cells, code(read(path)), strict=True):
        if "nbval-check-output" in tags(stored):
            assert printed(now) == printed(stored) != "", stored.source


@pytest.mark.slow
def test_nbval_runs_a_notebook_and_compares_its_outputs(series):
    path = FOLDER / "01-density-maps.ipynb"
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", str(path)]
    settings = {"HMODE_PROFILE": "smoke", "HMODE_STATIC": "1"}
    settings |= {"HMODE_OUTPUT": str(series[0].parents[2])}
    done = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, cwd=FOLDER, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def printed(cell):
    return "".join(each.text for each in cell.outputs if each.get("name") == "stdout")


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

    def test_cells_fit_on_a_screen(self, path):
        for cell in (each for each in code(read(path)) if not tags(each) & EXERCISE):
            lines = cell.source.split("\n")
            assert len(lines) <= 30, cell.source[:80]
            assert max(map(len, lines)) <= 100, max(lines, key=len)

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


@pytest.mark.parametrize("path", AUDITED, ids=lambda path: path.stem)
class TestReadable:
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


QUICK = "quick/synthetic"


def stored_rows(name, of=QUICK):
    """The rows of a table that the notebooks store, or read."""
    path = project_folder() / "figures" / of / f"{name}.csv"
    if not path.is_file():
        pytest.skip(f"{name}.csv is not stored")
    return pd.read_csv(path).to_dict("records")


def of_final(name):
    """The MAE of a network's final map, as notebook 03 keeps it."""
    rows = {(row["network"], row["map"]): row["mae"] for row in stored_rows("03-errors")}
    return rows[name, "final"]


def trap():
    """The least share of the mean's error with the losses as printed, and with both reduced alike;
    the first is None where all maps died."""
    rows = [row for row in stored_rows("04-trap") if row["mae_over_mean"] > 0]
    printed, alike = (
        [row["mae_over_mean"] for row in rows if ("printed" in row["losses"]) == wanted]
        for wanted in (True, False)
    )
    return min(printed, default=None), min(alike)


def change_by_rel():
    counts = pd.DataFrame(stored_rows("04-counts"))
    off = (counts[["HMoDE", "HMoDE+REL"]].sub(counts["people"], axis=0)).abs().mean()
    return off["HMoDE+REL"] - off["HMoDE"]


def change_of_order():
    rows = pd.DataFrame(stored_rows("order", "small/order"))
    rows["wrong"] = 100 * rows["hard_wrong"] / rows["hard_pairs"]
    seeds = [rows.pivot(index="seed", columns="experiment", values=key) for key in ("wrong", "mae")]
    wrong, error = ((each["hmode+rel"] - each["hmode"]).mean() for each in seeds)
    return [f"wrong order by {wrong:+.1f} points", f"MAE by {error:+.1f} people"]


def worst_counted():
    rows = pd.DataFrame(stored_rows("04-counts"))
    worst = rows.loc[(rows["Baseline"] - rows["people"]).abs().idxmax()]
    return [f"has {worst['people']:.0f}", f"counted {worst['Baseline']:.0f}"]


def worst_expert():
    worst = max(stored_rows("02-scale-errors")[:3], key=lambda row: row["mae"])
    shares = f"{worst['best_on_images']:.0%} of the images", f"{worst['best_on_pixels']:.0%} of the"
    return [worst["map"], *shares]


def without_attention():
    rows = pd.DataFrame(stored_rows("05-foreground")).query("of == 'small/synthetic'")
    return [f"{rows[column].mean():+.1f}" for column in ("mae", "foreground_mae")]


def fall_with_size():
    """How much less weight E1 has at large heads than at small ones, by experiment and seed."""
    rows = pd.DataFrame(stored_rows("sizes", "quick/scales"))
    finest = rows.pivot(index=["experiment", "seed"], columns="size", values="E1")
    fall = (finest["small"] - finest["large"]).groupby("experiment")
    asked = {"small": "E1", "middle": "E2", "large": "E3"}
    mine = rows[rows["experiment"] == "hmode"]
    right = np.mean([row[asked[row["size"]]] for _, row in mine.iterrows()])
    told = [f"by {fall.mean()[name]:.2f}" for name in ("hmode", "gates/means")]
    return [*told, f"{right:.1%} of the weight"]


def causes_on_scales():
    rows = sorted(stored_rows("06-causes-scales"), key=lambda row: row["gate 1, bit"])
    return [f"*{row['title']}* ({row['gate 1, bit']:.2f} bit" for row in (rows[0], rows[-1])]


def most_decided_proxy():
    rows = [row for row in stored_rows("06-follows") if row["proxy"] != "gate"]
    most = max(rows, key=lambda row: row["share"])
    (gate,) = (row for row in stored_rows("06-follows") if row["proxy"] == "gate")
    return [f"{most['proxy']}, leaves {1 - most['share']:.1%}", f"leave {1 - gate['share']:.1%}"]


def climbs():
    rows = pd.DataFrame(stored_rows("07-game")).pivot(
        index="network", columns="level", values="game"
    )
    networks = rows.drop(index="right count, spread evenly")
    return [f"{name} {row[3] / row[0]:.1f}" for name, row in networks.iterrows()]


def gained_on_photographs():
    better, rel = (row for row in stored_rows("claims", "full/sha") if row["table"] == "table1")
    return [f"{-better['difference']:.1f} people", f"{rel['difference']:+.1f}"]


def harshest_change():
    rows = stored_rows("10-changes")
    return [max(rows, key=lambda row: abs(np.log(max(row["median_ratio"], 1e-9))))["change"]]


# Of a sentence: its notebook, how it begins, and what its table says must stand in it.
SENTENCES = [
    (
        "00-tour",
        "E1 weighs",
        lambda: [f"{row['E1']:.2f} at the {row['heads']}" for row in stored_rows("00-drawn")[::2]],
    ),
    (
        "03-hmode",
        "Over the test images the stronger member",
        lambda: [f"{row['mean_weight']:.2f}" for row in stored_rows("03-maps")],
    ),
    ("02-baseline", "Mean error", worst_counted),
    ("02-baseline", "The worst expert alone", worst_expert),
    (
        "03-hmode",
        "HMoDE's MAE minus the baseline's",
        lambda: [f"{of_final('HMoDE') - of_final('Baseline'):+.1f} people"],
    ),
    (
        "03-hmode",
        "Errors have opposite signs",
        lambda: [
            f"{pick(row['opposite'] for row in stored_rows('03-cancel')):.0%}"
            for pick in (min, max)
        ],
    ),
    (
        "04-rel",
        "As printed, the best ends at",
        lambda: [f"at {share:.2f}" if share else "dead maps" for share in trap()],
    ),
    ("04-rel", "Over \\d+ seeds REL changes", change_of_order),
    ("04-rel", "Change of MAE with REL", lambda: [f"{change_by_rel():+.1f} people"]),
    (
        "05-ablations",
        "Over .* test images this network errs least",
        lambda: (
            [f"{row['mae']:.1f}" for row in stored_rows("05-gates")]
            + [
                "least with *{gates}* weights".format(
                    **min(stored_rows("05-gates"), key=lambda row: row["mae"])
                )
            ]
        ),
    ),
    ("05-ablations", "drawn crowd, small: without attention", without_attention),
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
        "The largest weight, of the places counted as people",
        lambda: [f"{row['picture']}: E1 on {row['E1']:.0%}" for row in stored_rows("06-where")],
    ),
    ("06-experts", "On `scales` .quick, stored", fall_with_size),
    (
        "06-experts",
        "Under `full` the final map's squared error",
        lambda: [
            row["final – average, %"]
            for row in stored_rows("06-gates")
            if row["of"] == "full/sha: hmode"
        ],
    ),
    ("06-experts", "Clearly more than the controls", most_decided_proxy),
    (
        "06-experts",
        "On synthetic .* of the weight goes to",
        lambda: ["{agreement:.1%}".format(**stored_rows("06-confusion")[0])],
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
    ("06-experts", r"On `scales` \(\w+, \d+ seeds\) gate 1", causes_on_scales),
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
    ("07-comparisons", "Under `full` .3 seeds. HMoDE errs less", gained_on_photographs),
    ("07-comparisons", "Table III: least", climbs),
    (
        "10-your-pictures",
        ".*at a quarter of the size it is",
        lambda: ["{ratio:.2f}".format(**stored_rows("10-scale")[0])],
    ),
    ("10-your-pictures", "The count minds most", harshest_change),
]


@pytest.mark.parametrize(
    ("name", "begins", "expected"),
    SENTENCES,
    ids=lambda x: x[:30] if isinstance(x, str) else "said",
)
def test_what_came_out_is_what_the_table_says(name, begins, expected):
    """On the outputs that are committed with the notebooks."""
    said = []
    for cell in code(read(FOLDER / f"{name}.ipynb")):
        said += [each.get("data", {}).get("text/markdown", "") for each in cell.outputs]
        said.append("".join(each.get("text", "") for each in cell.outputs))
    if not any(said):
        pytest.skip("the notebook is committed without outputs")
    (sentence,) = [text for text in said if re.search(rf"^(\*\*)?{begins}", text, re.MULTILINE)]
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
    """8,000 words of prose, what is read in 90 minutes beside code and figures."""
    cells = [cell for path in PATHS if path.name[:2] in CORE for cell in lessons(read(path))]
    assert sum(words(cell.source) for cell in cells if cell.cell_type == "markdown") <= 8000


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
