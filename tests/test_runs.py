"""Run folders: whose they are, and that nobody ever reads half a file in them."""

import json
import math
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hmode.errors import BusyError, InputError, MissingFileError, OutputError
from hmode.runs import RunFolder, read_checkpoint, read_csv, write_atomically, write_csv

CONFIG = {"model": {"width": 0.5}, "seed": 0, "schedule": {"halve_after": (3, 4), "window": None}}


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


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

    def test_the_weights_a_killed_process_was_writing_are_cleaned(self, run):
        (run.path / ".tmpAbC123").write_bytes(b"half of the weights")
        aside = run.path.with_name("one.partial")  # a folder that was being removed
        aside.mkdir()
        (aside / "result.json").touch()
        run.claim(CONFIG, resume=True)
        assert not aside.exists()
        assert not (run.path / ".tmpAbC123").exists()

    def test_a_finished_run_is_not_written_to(self, run):
        run.save_weights("last", {"w": torch.zeros(1)})
        before = {path.name: path.stat().st_mtime_ns for path in [run.path, *run.path.iterdir()]}
        run.claim(CONFIG, resume=True)
        after = {path.name: path.stat().st_mtime_ns for path in [run.path, *run.path.iterdir()]}
        assert after == before

    def test_starting_over_in_a_linked_folder_keeps_the_link(self, run, tmp_path):
        link = tmp_path / "link"
        link.symlink_to(run.path)
        RunFolder(link).claim(CONFIG, resume=False)
        assert link.is_symlink()
        assert [path.name for path in link.iterdir()] == ["config.json"]
        assert [path.name for path in run.path.parent.iterdir()] == ["one"]

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


def on(digest, images=3):
    part = {"name": "folder", "images": images}
    return {**CONFIG, "train": part if digest is None else part | {"digest": digest}, "test": None}


class TestData:
    @pytest.fixture
    def trained(self, tmp_path):
        folder = RunFolder(tmp_path / "run")
        folder.claim(on("aa"), resume=True)
        return folder

    @pytest.mark.parametrize("other", [on("bb"), on("bb", images=4), on(None)])
    def test_other_data_are_refused_and_the_way_out_is_named(self, trained, other):
        before = contents(trained.path)
        with pytest.raises(InputError, match=r"holds a run of other data .*--fresh"):
            trained.claim(other, resume=True)
        assert contents(trained.path) == before
        trained.claim(other, resume=False)
        assert trained.config() == json.loads(json.dumps(other))

    def test_another_configuration_is_not_started_over_on_any_data(self, trained):
        with pytest.raises(InputError, match="another configuration"):
            trained.claim({**on("bb"), "seed": 1}, resume=False)

    def test_a_run_from_before_there_were_digests_is_of_unknown_data(self, tmp_path):
        folder = RunFolder(tmp_path / "run")
        folder.claim(on(None), resume=True)
        with pytest.warns(UserWarning, match="whether it is of these data is unknown"):
            folder.claim(on("aa"), resume=True)
        assert "digest" not in folder.config()["train"]  # that it is of these was not found out
        with (
            pytest.warns(UserWarning, match="unknown"),
            pytest.raises(InputError, match=r"train.images is 3 there, 4 here"),
        ):
            folder.claim(on("aa", images=4), resume=True)

    def test_a_test_set_that_was_not_noted_is_unknown_too(self, trained):
        with pytest.warns(UserWarning, match="unknown"):
            trained.claim(on("aa") | {"test": {"name": "folder", "digest": "cc"}}, resume=True)

    def test_some_parts_are_compared_alone(self, trained):
        trained.require_data(train=on("aa")["train"])
        with pytest.raises(InputError, match="other data"):
            trained.require_data(train=on("bb")["train"])


HOLD = """
import sys, time
from hmode.runs import RunFolder
with RunFolder(sys.argv[1]).alone():
    print("in", flush=True)
    time.sleep(float(sys.argv[2]))
"""


class TestAlone:
    @pytest.fixture
    def hold(self, run):
        """Another process in the folder, for a while."""
        started = []

        def start(seconds):
            command = [sys.executable, "-c", HOLD, str(run.path), str(seconds)]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            assert started[-1].stdout.readline() == "in\n"
            return started[-1]

        yield start
        for each in started:
            each.kill()
            each.communicate()

    def test_who_holds_it_is_said(self, run, hold):
        other = hold(60)
        busy = f"{run.path}: process {other.pid} on .* is at work on this run"
        with pytest.raises(BusyError, match=busy), run.alone(wait=False):
            pass

    def test_others_wait_and_say_for_whom(self, run, hold, capsys):
        other = hold(0.5)
        with run.alone():
            assert other.wait(10) == 0
        assert f"process {other.pid} on" in capsys.readouterr().err

    def test_a_killed_process_holds_nothing(self, run, hold):
        other = hold(60)
        other.kill()
        other.wait()
        with run.alone(wait=False):
            pass

    def test_who_is_in_may_enter_again(self, run, tmp_path):
        (tmp_path / "link").symlink_to(run.path)
        with run.alone(wait=False), RunFolder(tmp_path / "link").alone(wait=False):
            pass
        with run.alone(wait=False):
            pass

    def test_no_place_for_the_lock(self, tmp_path):
        (tmp_path / "file").touch()
        folder = RunFolder(tmp_path / "file" / "run")
        with pytest.raises(OutputError, match="cannot be locked"), folder.alone():
            pass


class TestCheckpoints:
    def save(self, run, epochs):
        run.save_checkpoint(epochs, {"w": torch.full((2, 3), float(epochs))}, {"n": [epochs]})

    def test_the_newest_is_found_and_the_older_dropped(self, run):
        assert run.checkpoint() == (0, None)
        for epochs in (2, 9, 10, 10_000, 10_001):
            self.save(run, epochs)
            done, path = run.checkpoint()
            assert done == epochs
            tensors, values = read_checkpoint(path)
            assert torch.equal(tensors["w"], torch.full((2, 3), float(epochs)))
            assert values == {"n": [epochs]}
            assert len(list(run.path.glob("checkpoint-*"))) == 1

    def test_of_two_left_by_a_crash_the_newer_counts(self, run):
        for epochs in (9_999, 10_000):
            (run.path / f"checkpoint-{epochs:04d}.safetensors").touch()
        assert run.checkpoint()[0] == 10_000

    def test_one_that_fails_half_way_leaves_the_older(self, run, monkeypatch):
        self.save(run, 1)
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", failing(OSError("disk full")))
            with pytest.raises(OutputError, match="disk full"):
                self.save(run, 2)
        done, path = run.checkpoint()
        assert (done, read_checkpoint(path)[1]) == (1, {"n": [1]})
        run.claim(CONFIG, resume=True)
        self.save(run, 2)
        assert run.checkpoint()[0] == 2

    @pytest.mark.parametrize("name", ["checkpoint-0009", "checkpoint-abc", "checkpoint-9.bin"])
    def test_a_pickled_one_is_refused_with_the_way_out(self, run, name):
        (run.path / name).mkdir()
        (run.path / name / "custom_checkpoint_0.pkl").write_bytes(pickle.dumps(Path("x")))
        with pytest.raises(InputError, match=f"{name}: no checkpoint of this version.*--fresh"):
            run.checkpoint()
        run.claim(CONFIG, resume=False)
        assert run.checkpoint() == (0, None)

    @pytest.mark.parametrize("content", [b"", b"half", b"\x08" + b"\0" * 7 + b"{}      "])
    def test_a_damaged_one_is_named_so(self, run, content):
        path = run.path / "checkpoint-0001.safetensors"
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a readable checkpoint"):
            read_checkpoint(run.checkpoint()[1])

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

    @pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
    @pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
    def test_weights_have_the_permissions_that_the_umask_leaves(self, run, umask):
        before = os.umask(umask)
        try:
            (run.path / "best.safetensors.partial").touch(mode=0o600)  # of a killed process
            run.save_weights("best", {"w": torch.zeros(1)})
        finally:
            os.umask(before)
        found = stat.S_IMODE((run.path / "best.safetensors").stat().st_mode)
        assert found == 0o666 & ~umask

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

    @pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
    def test_links_stay_and_devices_are_written_to(self, tmp_path):
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "real")
        write_csv(link, [{"a": 1}])
        assert link.is_symlink()
        assert (tmp_path / "real").read_text() == "a\n1\n"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
        before = os.stat(os.devnull)
        write_csv(Path(os.devnull), [{"a": 1}])
        assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
        assert os.stat(os.devnull).st_ino == before.st_ino

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
