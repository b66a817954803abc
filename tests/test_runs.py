"""Run folders: whose they are, and that nobody ever reads half a file in them."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hmode.errors import InputError, MissingFileError
from hmode.runs import RunFolder, read_csv, write_atomically, write_csv

CONFIG = {"model": {"width": 0.5}, "seed": 0, "schedule": {"halve_after": (3, 4), "window": None}}


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.claim(CONFIG, resume=True)
    folder.save_weights("best", {"w": torch.arange(6.0).reshape(2, 3)})
    folder.save_table("history.csv", [{"epoch": 1, "loss": 0.5}])
    return folder


class TestClaim:
    def test_a_new_folder_holds_its_configuration(self, run):
        assert run.config() == json.loads(json.dumps(CONFIG))
        assert json.loads((run.path / "config.json").read_text()) == run.config()

    def test_the_same_configuration_goes_on(self, run):
        before = contents(run.path)
        run.claim(CONFIG, resume=True)
        assert contents(run.path) == before

    def test_another_configuration_is_refused_and_nothing_touched(self, run):
        before = contents(run.path)
        other = {**CONFIG, "model": {"width": 0.25}}
        for resume in (True, False):
            with pytest.raises(InputError) as error:
                RunFolder(run.path).claim(other, resume=resume)
            message = str(error.value)
            assert str(run.path) in message
            assert "model.width is 0.5 there, 0.25 here" in message
            assert contents(run.path) == before

    def test_a_field_that_one_side_lacks_is_a_difference(self, run):
        with pytest.raises(InputError, match="extra is 'absent' there, 1 here"):
            run.claim({**CONFIG, "extra": 1}, resume=True)
        less = {key: value for key, value in CONFIG.items() if key != "seed"}
        with pytest.raises(InputError, match="seed is 0 there, 'absent' here"):
            run.claim(less, resume=True)

    def test_starting_over_empties_the_folder(self, run):
        run.claim(CONFIG, resume=False)
        assert [path.name for path in run.path.iterdir()] == ["config.json"]

    def test_a_folder_that_is_no_run_is_refused_and_not_emptied(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        for resume in (True, False):
            with pytest.raises(InputError, match="not empty and not a run folder"):
                RunFolder(tmp_path).claim(CONFIG, resume=resume)
        assert contents(tmp_path) == {"thesis.tex": b"years of work"}

    def test_a_file_in_its_place_is_refused(self, tmp_path):
        path = tmp_path / "run"
        path.write_text("a file")
        with pytest.raises(InputError, match="found a file"):
            RunFolder(path).claim(CONFIG, resume=True)
        assert path.read_text() == "a file"

    def test_an_empty_folder_is_taken(self, tmp_path):
        RunFolder(tmp_path).claim(CONFIG, resume=True)
        assert (tmp_path / "config.json").is_file()

    def test_leftovers_of_a_crash_are_cleaned(self, run):
        (run.path / "history.csv.partial").write_text("half a fi")
        (run.path / "checkpoint-0003.partial").mkdir()
        (run.path / "checkpoint-0003.partial" / "model").write_text("half")
        run.claim(CONFIG, resume=True)
        assert not list(run.path.rglob("*.partial*"))
        assert run.table("history.csv") == [{"epoch": "1", "loss": "0.5"}]

    def test_a_crash_before_the_configuration_was_there(self, tmp_path):
        (tmp_path / "config.json.partial").write_text('{"mod')
        RunFolder(tmp_path).claim(CONFIG, resume=True)
        assert [path.name for path in tmp_path.iterdir()] == ["config.json"]

    def test_an_unreadable_configuration(self, run):
        (run.path / "config.json").write_text('{"model": ')
        with pytest.raises(InputError, match=r"config\.json: not readable JSON"):
            run.config()
        with pytest.raises(InputError, match=r"config\.json: not readable JSON"):
            run.claim(CONFIG, resume=True)

    def test_no_run_there(self, tmp_path):
        with pytest.raises(MissingFileError, match="no run there"):
            RunFolder(tmp_path / "nowhere").config()


class TestCheckpoints:
    def save(self, run, epochs):
        run.save_checkpoint(epochs, lambda path: (path / "state").write_text(str(epochs)))

    def test_the_newest_is_found_and_the_older_dropped(self, run):
        assert run.checkpoint() == (0, None)
        for epochs in (2, 9, 10, 10_000, 10_001):
            self.save(run, epochs)
            done, path = run.checkpoint()
            assert done == epochs
            assert (path / "state").read_text() == str(epochs)
            assert len(list(run.path.glob("checkpoint-*"))) == 1

    def test_of_two_left_by_a_crash_the_newer_counts(self, run):
        for epochs in (9_999, 10_000):
            (run.path / f"checkpoint-{epochs:04d}").mkdir()
        assert run.checkpoint()[0] == 10_000

    def test_one_that_fails_half_way_leaves_the_older(self, run):
        self.save(run, 1)

        def fail(path):
            (path / "state").write_text("ha")
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            run.save_checkpoint(2, fail)
        done, path = run.checkpoint()
        assert (done, (path / "state").read_text()) == (1, "1")
        run.claim(CONFIG, resume=True)
        self.save(run, 2)
        assert run.checkpoint()[0] == 2

    def test_dropped(self, run):
        self.save(run, 3)
        run.drop_checkpoints()
        assert run.checkpoint() == (0, None)


class TestFiles:
    def test_weights_come_back(self, run):
        assert torch.equal(run.weights()["w"], torch.arange(6.0).reshape(2, 3))
        parts = torch.arange(24.0).reshape(4, 6).T  # not contiguous
        run.save_weights("last", {"w": parts, "n": torch.tensor(3)})
        assert torch.equal(run.weights("last")["w"], parts)
        assert run.weights("last")["n"] == 3

    def test_finished_is_the_presence_of_the_last_weights(self, run):
        assert not run.finished
        run.save_weights("last", {"w": torch.zeros(1)})
        assert run.finished

    def test_weights_that_are_not_there(self, run):
        with pytest.raises(MissingFileError, match=r"last\.safetensors: no such weights"):
            run.weights("last")

    def test_a_table_that_is_not_there_has_no_rows(self, run):
        assert run.table("timing.csv") == []

    def test_writing_that_fails_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")

        def fail(partial):
            partial.write_text("ne")
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            write_atomically(path, fail)
        assert path.read_text() == "old"

    def test_the_file_appears_only_when_it_is_whole(self, tmp_path):
        path = tmp_path / "file"

        def write(partial):
            partial.write_text("half")
            assert not path.exists()
            partial.write_text("whole")

        write_atomically(path, write)
        assert path.read_text() == "whole"
        assert [each.name for each in tmp_path.iterdir()] == ["file"]

    @given(
        rows=st.lists(
            st.fixed_dictionaries(
                {
                    "epoch": st.integers(0, 1000),
                    "value": st.floats(allow_nan=False),
                    "some, text": st.text(
                        st.characters(exclude_categories=["Cs", "Cc"]), max_size=12
                    ),
                }
            ),
            min_size=1,
            max_size=5,
        )
    )
    def test_tables_keep_every_digit(self, rows, tmp_path_factory):
        path = tmp_path_factory.mktemp("csv") / "t.csv"
        write_csv(path, rows)
        again = read_csv(path)
        assert [float(row["value"]) for row in again] == [row["value"] for row in rows]
        assert [int(row["epoch"]) for row in again] == [row["epoch"] for row in rows]
        assert [row["some, text"] for row in again] == [row["some, text"] for row in rows]
        write_csv(path.with_name("u.csv"), again)
        assert path.with_name("u.csv").read_bytes() == path.read_bytes()

    def test_missing_values_are_empty_cells(self, tmp_path):
        write_csv(tmp_path / "t.csv", [{"a": None, "b": math.pi}])
        assert read_csv(tmp_path / "t.csv") == [{"a": "", "b": repr(math.pi)}]
        assert b"\r" not in (tmp_path / "t.csv").read_bytes()
