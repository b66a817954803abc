"""The exercises and the tools around them: what is right passes, mistakes are named, copies lack
what they should, and a folder of submissions becomes a table."""

import csv
import json
import re
import shutil
import time
import zipfile

import nbformat
import numpy as np
import pytest
import torch

from hmode import InputError
from hmode.course import EXERCISES, NotYet, book, check, copies, grading
from hmode.lab import project_folder

NOTEBOOKS = copies.numbered(project_folder() / "notebooks")
MISTAKES = [(name, words) for name, each in EXERCISES.items() for words in each.mistakes]


def under(name, function):
    """The function under the name of an exercise."""

    def answer(*arguments):
        return function(*arguments)

    answer.__name__ = name
    return answer


def defined(source):
    """The names a cell defines, beside what an answer may use."""
    space = {}
    exec(grading.PRELUDE + source, space)
    return space


def cells_of(name):
    """The answer, solution and check cells of an exercise."""
    path = next(p for p in NOTEBOOKS if p.name[:2] == EXERCISES[name].id[:2])
    cells = nbformat.read(path, as_version=4).cells
    at = next(i for i, cell in enumerate(cells) if f"def {name}(" in cell.source)
    return cells[at : at + 3]


@pytest.mark.parametrize("name", EXERCISES)
class TestExercise:
    def test_the_reference_is_right_and_three_mistakes_are_known(self, name, capsys):
        check(under(name, EXERCISES[name].right))
        assert capsys.readouterr().out.startswith(f"✓ {EXERCISES[name].id} {name}")
        assert len(EXERCISES[name].mistakes) >= 3

    def test_stands_in_its_notebook(self, name):
        answer, solution, checked = cells_of(name)
        assert [copies.tags(c) for c in (answer, solution, checked)] == [
            ["answer"],
            ["solution"],
            ["check"],
        ]
        assert checked.source.endswith(f"check({name})")
        assert solution.metadata["jupyter"]["source_hidden"]

    def test_the_untouched_stub_is_told_so_and_the_solution_is_right(self, name):
        answer, solution, _ = cells_of(name)
        with pytest.raises(NotYet, match="gives nothing yet"):
            check(defined(answer.source)[name])
        check(defined(solution.source)[name])


@pytest.mark.parametrize(("name", "words"), MISTAKES)
def test_a_typical_mistake_is_named(name, words):
    with pytest.raises(NotYet) as failed:
        check(under(name, EXERCISES[name].mistakes[words]))
    assert str(failed.value).endswith(words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, d: 1 / 0, "stops with ZeroDivisionError"),
        (lambda x, d: "soft", "gives 'soft', expected numbers"),
        (lambda x, d: 3.0, r"gives one number, expected an array of shape \[3, 3, 5, 4\]"),
        (lambda x, d: x * torch.nan, "none \\(nan\\)"),
        (lambda x, d: x, "0 for|for 1|of the values are right"),
    ],
)
def test_other_wrong_answers_get_a_clear_word(answer, words):
    with pytest.raises(NotYet, match=words):
        check(under("harden", answer))


def test_a_function_of_another_name_is_asked_for_by_none():
    with pytest.raises(NotYet, match="no exercise asks for a function 'best'"):
        check(under("best", abs))


def test_an_answer_cannot_change_what_it_is_compared_with():
    def in_place(experts, truth, floor):
        closest = np.abs(experts - truth).argmin(axis=0)[truth > floor]
        experts[:], truth[:] = 0, 0
        return np.bincount(closest, minlength=len(experts)) / len(closest)

    check(under("best_shares", in_place))


def test_the_message_replaces_the_traceback():
    assert NotYet("almost")._render_traceback_() == ["\x1b[31m✗ almost\x1b[0m"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestCopies:
    def test_students_get_answers_and_checks_and_no_solution(self, path):
        cells = copies.for_students(nbformat.read(path, as_version=4)).cells
        kinds = [tag for cell in cells for tag in copies.tags(cell)]
        assert "solution" not in kinds
        assert kinds.count("answer") == kinds.count("check") >= 2
        assert not any(cell.outputs for cell in cells if "check" in copies.tags(cell))
        assert sum(cell.source == copies.ROOM for cell in cells) == kinds.count("check")

    def test_teachers_get_open_solutions_and_no_stub(self, path):
        cells = copies.with_solutions(nbformat.read(path, as_version=4)).cells
        kinds = [tag for cell in cells for tag in copies.tags(cell)]
        assert "answer" not in kinds
        assert kinds.count("solution") == 2 * kinds.count("check")
        assert not any("jupyter" in cell.metadata for cell in cells)

    def test_slides_show_pictures_and_no_code_or_exercise(self, path):
        notebook = copies.as_slides(nbformat.read(path, as_version=4))
        shown = [c for c in notebook.cells if c.metadata["slideshow"]["slide_type"] != "skip"]
        assert shown[0].source.startswith("# ")
        assert not any("## Exercises" in cell.source for cell in shown)
        for cell in shown:
            if cell.cell_type == "code":
                assert all(copies._is_picture(output) for output in cell.outputs)


def test_a_copy_that_somebody_has_written_into_stays(tmp_path):
    (tmp_path / "from").mkdir()
    shutil.copy(NOTEBOOKS[1], tmp_path / "from")
    shutil.copy(NOTEBOOKS[2], tmp_path / "from")
    there = [tmp_path / "to" / path.name for path in NOTEBOOKS[1:3]]

    def copy():
        return copies.write(copies.for_students, tmp_path / "from", tmp_path / "to")

    assert copy() == (there, [])
    assert copy() == (there, [])
    notebook = nbformat.read(there[0], as_version=4)
    next(c for c in notebook.cells if "answer" in copies.tags(c)).source = "def reflected(): pass"
    nbformat.write(notebook, there[0])
    before = there[0].read_bytes()
    assert copy() == (there[1:], there[:1])
    assert there[0].read_bytes() == before


LEAVES = "def least_error(errors):\n    print('5 of 5')\n    raise SystemExit"
SOLVED = {n: cells_of(n)[1].source for n in ("least_error", "harden", "gate_gradient")}
MISBEHAVES = SOLVED | {"least_error": LEAVES, "gate_gradient": "def gate_gradient(a:"}


def submit(folder, answers):
    """A student's notebook 03 with these answers."""
    source = next(p for p in NOTEBOOKS if p.name.startswith("03"))
    notebook = copies.for_students(nbformat.read(source, as_version=4))
    for cell in notebook.cells:
        for name, answer in answers.items():
            if f"def {name}(" in cell.source:
                cell.source = answer
    notebook.cells.append(nbformat.v4.new_code_cell("def helper(x):\n    return x"))
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / source.name)
    return folder / source.name


def graded_here(path):
    """As `grading.grade`, without a process of its own."""
    found = {}
    grading._grade_here(path, lambda name, *result: found.update({name: [*result]}))
    return found


def test_answers_that_misbehave_cost_no_one_else_their_points(tmp_path):
    """In a process of its own, whose output an answer does not get hold of."""
    found = grading.grade(submit(tmp_path / "kim", MISBEHAVES))
    assert {name: right for name, (right, _) in found.items()} == {
        "least_error": False,
        "harden": True,
        "gate_gradient": False,
    }
    assert "SystemExit" in found["least_error"][1]
    assert "SyntaxError" in found["gate_gradient"][1]


def test_without_its_heading_only_answers_are_run(tmp_path):
    path = submit(tmp_path / "ada", SOLVED)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "## Exercises" not in cell.source]
    trains = f"result = open({str(tmp_path / 'trained')!r}, 'w')"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(trains))
    nbformat.write(notebook, path)
    assert all(right for right, _ in graded_here(path).values())
    assert not (tmp_path / "trained").exists()


def test_a_folder_of_submissions_becomes_a_table(tmp_path, monkeypatch):
    """Ada solves notebook 03, Bob a little of it, Kim a part; Eve's file is broken."""
    monkeypatch.setattr(grading, "grade", graded_here)
    folder = tmp_path / "submissions"
    # What a student does besides, and a helper in a cell of its own, cost nothing.
    helped = "import this_is_nowhere\nlab.run('hmode')\n" + SOLVED["harden"]
    helped = helped.replace("    return ", "    return helper(", 1) + ")"
    submit(folder / "ada", SOLVED | {"harden": helped})
    submit(folder / "bob", {"harden": "def harden(gate, dim):\n    return (gate > 0.5).double()"})
    submit(folder / "kim", MISBEHAVES)
    submit(folder / "eve", {}).write_text("no notebook")
    grading.grade_folder(folder, tmp_path / "grades.csv")
    with open(tmp_path / "grades.csv", encoding="utf-8") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    points = {student: int(row["points"]) for student, row in rows.items()}
    assert points == {"ada": 6, "bob": 0, "eve": 0, "kim": 1}
    assert rows["ada"]["03.3"] == "3"
    assert "may be below one half" in rows["bob"]["remarks"]
    assert "gives nothing yet" in rows["bob"]["remarks"]
    assert "SystemExit" in rows["kim"]["remarks"]
    assert "cannot be read: SyntaxError" in rows["kim"]["remarks"]
    assert int(rows["ada"]["of"]) == sum(each.stars for each in EXERCISES.values())

    grading.gradescope_results(folder / "bob", tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["score"] == 0
    assert [test["max_score"] for test in results["tests"]] == [2, 1, 3]


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book") / "source"
    book.stage(project_folder(), folder)
    return folder


class TestBook:
    def test_every_page_of_the_contents_is_there(self, staged):
        contents = json.loads((staged / "_toc.yml").read_text())
        files = [each["file"] for part in contents["parts"] for each in part["chapters"]]
        assert len(files) == len(set(files)) >= len(NOTEBOOKS) + len(book.DEMOS)
        for name in files:
            assert any((staged / f"{name}{kind}").is_file() for kind in (".md", ".ipynb")), name

    def test_solutions_are_folded_and_nothing_is_left_to_fill_in(self, staged):
        for path in NOTEBOOKS:
            cells = nbformat.read(staged / path.name, as_version=4).cells
            kinds = [tag for cell in cells for tag in copies.tags(cell)]
            assert kinds.count("hide-cell") >= 4
            assert not {"answer", "check", "solution"} & set(kinds)

    def test_the_gates_of_the_demonstration_sum_to_one(self, staged):
        text = (staged / "data" / "gates.js").read_text()
        shown = {m["name"]: m for m in json.loads(text.removeprefix("const GATES = ")[:-2])}
        assert len(shown) == 1 + 7 + 6 + 3
        for group in (1, 2, 3):
            pair = [shown[f"gate 1, group {group}, member {m}"]["values"] for m in (1, 2)]
            assert np.abs(np.sum(pair, axis=0) - 100).max() <= 1
        groups = [shown[f"gate 2, group {g}"]["values"] for g in (1, 2, 3)]
        assert np.abs(np.sum(groups, axis=0) - 100).max() <= 2
        assert len(text) < 1_000_000

    @pytest.mark.parametrize(
        ("link", "then"),
        [
            ("[01](../notebooks/01-density-maps.ipynb)", "[01](01-density-maps.ipynb)"),
            ("[README](../README.md)", "README"),
            ("[glossary](../docs/glossary.md)", "[glossary](glossary.md)"),
            ("[all](results.md#not-run)", "[all](results.md#not-run)"),
            ("[credits](photos/CREDITS.md)", "credits"),
            ("![seen](https://a.example/b.png)", "![seen](https://a.example/b.png)"),
            ("[a place](#here)", "[a place](#here)"),
        ],
    )
    def test_links_stay_within_the_book(self, link, then):
        assert book.links_within(f"see {link}.") == f"see {then}."

    def test_a_missing_builder_is_told(self, tmp_path):
        with pytest.raises(InputError, match="pip install 'hmode"):
            book.build(project_folder(), tmp_path / "book", builder="no-such-builder")


def test_an_answer_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr(grading, "LIMIT", 1)
    right, words = grading._verdict(under("harden", lambda x, d: time.sleep(20)))
    assert not right
    assert "longer than 1 s" in words


def test_the_autograder_holds_the_package_and_its_scripts(tmp_path):
    grading.gradescope_zip(project_folder(), tmp_path / "autograder.zip")
    names = zipfile.ZipFile(tmp_path / "autograder.zip").namelist()
    assert {"setup.sh", "run_autograder", "pyproject.toml", "hmode/course/grading.py"} <= set(names)
    assert not any("safetensors" in name for name in names)


def test_decks_whose_scripts_lie_beside_them_need_no_net(tmp_path):
    """reveal.js is loaded by require.js: without that a deck stays white."""
    (tmp_path / "node_modules" / "requirejs").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    shutil.copy(NOTEBOOKS[0], tmp_path / "notebooks")
    (deck,) = book.slides(tmp_path / "notebooks", tmp_path)
    scripts = re.findall(r'<script[^>]* src="([^"]+)"', deck.read_text(encoding="utf-8"))
    assert any("require.js" in each for each in scripts)
    assert all(each.startswith("node_modules/") for each in scripts)
