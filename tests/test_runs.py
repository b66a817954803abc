"""Run folders: whose they are, and that nobody ever reads half a file in them."""

import json
import math
import os
import pickle
import stat
import time
from pathlib import Path

import pytest
import torch
from conftest import CONTEXT
from hypothesis import given
from hypothesis import strategies as st

from hmode.errors import BusyError, InputError, MissingFileError, OutputError
from hmode.runs import RunFolder, read_checkpoint, read_csv, write_atomically, write_csv

CONFIG = {"model": {"width": 0.5}, "seed": 0, "schedule": {"halve_after": (3, 4), "window": None}}


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


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


def on(digest, images=3):
    part = {"name": "folder", "images": images}
    return {**CONFIG, "train": part if digest is None else part | {"digest": digest}, "test": None}


class TestClaim:
    def test_the_same_configuration_goes_on(self, run):
        assert run.config() == json.loads(json.dumps(CONFIG))
        before = contents(run.path)
        run.claim(CONFIG, resume=True)
        assert contents(run.path) == before
        run.claim(CONFIG, resume=False)
        assert [path.name for path in run.path.iterdir()] == ["config.json"]

    @pytest.mark.filterwarnings("ignore:.*digest")
    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({**CONFIG, "model": {"width": 0.25}}, "model.width is 0.5 there, 0.25 here"),
            ({**CONFIG, "extra": 1}, "extra is 'absent' there, 1 here"),
            ({"model": CONFIG["model"], "schedule": CONFIG["schedule"]}, "seed is 0 there"),
            ({**on("aa"), "seed": 1}, "another configuration"),
        ],
    )
    def test_another_configuration_is_refused_and_nothing_touched(self, run, other, message):
        before = contents(run.path)
        for resume in (True, False):
            with pytest.raises(InputError) as error:
                run.claim(other, resume=resume)
            assert str(run.path) in str(error.value)
            assert message in str(error.value)
            assert contents(run.path) == before

    def test_what_is_no_run_is_refused_and_not_emptied(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        for path, message in ((tmp_path, "not a run folder"), (tmp_path / "thesis.tex", "a file")):
            for resume in (True, False):
                with pytest.raises(InputError, match=message):
                    RunFolder(path).claim(CONFIG, resume=resume)
        assert contents(tmp_path) == {"thesis.tex": b"years of work"}
        with pytest.raises(MissingFileError, match="no run there"):
            RunFolder(tmp_path / "nowhere").config()

    def test_leftovers_of_a_kill_are_cleaned(self, run):
        before = contents(run.path)
        (run.path / "history.csv.partial").write_text("half a fi")
        (run.path / "checkpoint-0003.partial").mkdir()
        (run.path / "checkpoint-0003.partial" / "model").write_text("half")
        (run.path / ".tmpAbC123").write_bytes(b"half of the weights")
        aside = run.path.with_name("one.partial")  # a folder that was being removed
        aside.mkdir()
        (aside / "result.json").touch()
        run.claim(CONFIG, resume=True)
        assert not aside.exists()
        assert contents(run.path) == before

    def test_a_kill_before_the_configuration_was_there(self, tmp_path):
        (tmp_path / "config.json.partial").write_text('{"mod')
        RunFolder(tmp_path).claim(CONFIG, resume=True)
        assert [path.name for path in tmp_path.iterdir()] == ["config.json"]

    def test_a_finished_run_is_not_written_to(self, run):
        run.save_weights("last", {"w": torch.zeros(1)})
        before = {path: path.stat().st_mtime_ns for path in [run.path, *run.path.iterdir()]}
        run.claim(CONFIG, resume=True)
        after = {path: path.stat().st_mtime_ns for path in [run.path, *run.path.iterdir()]}
        assert after == before

    def test_starting_over_in_a_linked_folder_keeps_the_link(self, run, tmp_path):
        link = tmp_path / "link"
        link.symlink_to(run.path)
        RunFolder(link).claim(CONFIG, resume=False)
        assert link.is_symlink()
        assert [path.name for path in link.iterdir()] == ["config.json"]
        assert [path.name for path in run.path.parent.iterdir()] == ["one"]

    def test_an_unreadable_configuration(self, run):
        (run.path / "config.json").write_text('{"model": ')
        for ask in (run.config, lambda: run.claim(CONFIG, resume=True)):
            with pytest.raises(InputError, match=r"config\.json: not readable JSON"):
                ask()

    @pytest.mark.parametrize("value", [None, {}, True, "1", math.nan, 5.0])
    def test_a_bound_holds_wherever_a_stranger_writes_the_name(self, run, value):
        config = CONFIG | {"model": {"width": value}, "model.width": 1.0}
        (run.path / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=r"config\.json: model\.width is "):
            run.config()


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


def stay(path, seconds, inside):
    with RunFolder(path).alone():
        inside.send(True)
        time.sleep(seconds)


class TestAlone:
    @pytest.fixture
    def hold(self, run):
        """Another process in the folder, for a while."""
        started = []

        def start(seconds):
            inside, here = CONTEXT.Pipe(duplex=False)
            started.append(CONTEXT.Process(target=stay, args=(run.path, seconds, here)))
            started[-1].start()
            assert inside.recv()
            return started[-1]

        yield start
        for each in started:
            each.kill()
            each.join()

    def test_who_holds_it_is_said_and_a_killed_process_holds_nothing(self, run, hold):
        other = hold(60)
        busy = f"{run.path}: process {other.pid} on .* is at work on this run"
        with pytest.raises(BusyError, match=busy), run.alone(wait=False):
            pass
        other.kill()
        other.join()
        with run.alone(wait=False):
            pass

    def test_others_wait_and_say_for_whom(self, run, hold, capsys):
        other = hold(0.5)
        with run.alone():
            other.join(10)
            assert other.exitcode == 0
        assert f"process {other.pid} on" in capsys.readouterr().err

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
        for epochs in (9_999, 10_000):  # left by a kill
            (run.path / f"checkpoint-{epochs:04d}.safetensors").touch()
        assert run.checkpoint()[0] == 10_001
        run.drop_checkpoints()
        assert run.checkpoint() == (0, None)

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
        (run.path / "checkpoint-0001.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="not a readable checkpoint"):
            read_checkpoint(run.checkpoint()[1])


class TestBestWeights:
    """Those of an epoch that a kill undid are never left beside an older checkpoint: on a GPU the
    epoch need not come out the same again."""

    @pytest.fixture
    def going(self, run):
        run.save_checkpoint(2, {"w": torch.zeros(1)}, {})
        run.save_weights("best", {"w": torch.ones(1)}, epochs=4)
        return run

    @staticmethod
    def best(run):
        return run.weights()["w"].flatten().tolist()

    def test_they_take_their_place_with_their_checkpoint_or_the_end(self, going):
        assert self.best(going) == [0, 1, 2, 3, 4, 5]
        going.save_checkpoint(4, {"w": torch.zeros(1)}, {})
        assert self.best(going) == [1]
        going.save_weights("best", {"w": torch.full((1,), 6.0)}, epochs=6)
        going.save_weights("last", {"w": torch.zeros(1)})
        assert self.best(going) == [6]
        assert not list(going.path.glob("best-*"))

    def test_killed_before_the_checkpoint_they_never_were(self, going):
        going.claim(CONFIG, resume=True)
        assert self.best(going) == [0, 1, 2, 3, 4, 5]
        assert not list(going.path.glob("best-*"))

    @pytest.mark.parametrize("end", ["checkpoint-0004", "last"])
    def test_killed_after_it_they_are_read_and_put_in_place(self, going, end):
        (going.path / "checkpoint-0002.safetensors").rename(going.path / f"{end}.safetensors")
        assert not going.settled
        assert self.best(going) == [1]
        going.claim(CONFIG, resume=True)
        assert self.best(going) == [1]
        assert not list(going.path.glob("best-*"))

    def test_a_file_of_another_name_is_nobodys_leftover(self, going):
        (going.path / "best-of-all.safetensors").write_text("mine")
        going.claim(CONFIG, resume=True)
        assert (going.path / "best-of-all.safetensors").read_text() == "mine"


class TestFiles:
    def test_weights_come_back(self, run):
        parts = torch.arange(24.0).reshape(4, 6).T  # not contiguous
        with pytest.raises(MissingFileError, match=r"last\.safetensors: no such weights"):
            run.weights("last")
        assert not run.finished
        run.save_weights("last", {"w": parts, "n": torch.tensor(3)})
        assert run.finished
        assert torch.equal(run.weights("last")["w"], parts)
        assert run.weights("last")["n"] == 3

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

    def test_a_file_is_whole_or_the_old_one(self, tmp_path):
        path = tmp_path / "file"

        def write(partial):
            partial.write_text("half")
            assert not path.exists()
            partial.write_text("whole")

        def fail(partial):
            partial.write_text("ha")
            raise OSError("disk full")

        write_atomically(path, write)
        with pytest.raises(OutputError, match="disk full"):
            write_atomically(path, fail)
        assert contents(tmp_path) == {"file": b"whole"}

    @pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
    def test_links_stay_and_devices_are_written_to(self, tmp_path):
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "real")
        write_csv(link, [{"a": 1}])
        assert link.is_symlink()
        assert contents(tmp_path) == {"real": b"a\n1\n", "link": b"a\n1\n"}
        before = os.stat(os.devnull)
        write_csv(Path(os.devnull), [{"a": 1}])
        assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
        assert os.stat(os.devnull).st_ino == before.st_ino

    TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)

    @given(
        rows=st.lists(
            st.fixed_dictionaries({"value": st.floats(allow_nan=False), "some, text": TEXT}),
            min_size=1,
            max_size=5,
        )
    )
    def test_tables_keep_every_digit(self, rows, tmp_path_factory):
        path = tmp_path_factory.mktemp("csv") / "t.csv"
        write_csv(path, rows)
        again = read_csv(path)
        assert [row | {"value": float(row["value"])} for row in again] == rows
        write_csv(path.with_name("u.csv"), again)
        assert path.with_name("u.csv").read_bytes() == path.read_bytes()

    def test_missing_values_are_empty_cells(self, run):
        run.save_table("t.csv", [{"a": None, "b": math.pi}])
        assert run.table("t.csv") == [{"a": "", "b": repr(math.pi)}]
        assert run.numbers("t.csv") == [{"a": None, "b": math.pi}]
        assert b"\r" not in (run.path / "t.csv").read_bytes()
        assert run.table("absent.csv") == []
