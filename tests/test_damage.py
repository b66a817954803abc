"""Damaged run folders and impossible places: one line says what is wrong, and nothing is lost."""

import json
import os
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch
from conftest import run_process
from helpers import call, one_line
from PIL import Image
from safetensors.torch import load_file, save_file

from hmode import training
from hmode.cli import main
from hmode.data.pictures import read_image
from hmode.errors import InputError
from hmode.experiments import run
from hmode.runs import RunFolder

SMOKE = ("train", "hmode", "--profile", "smoke", "--device", "cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    runs = tmp_path_factory.mktemp("finished")
    run("hmode", profile="smoke", runs=runs, device="cpu", progress=False)
    return runs


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """Interrupted after the first of two epochs."""
    runs, commit = tmp_path_factory.mktemp("halfway"), training._Loop.commit

    def interrupt(loop, *args):
        commit(loop, *args)
        raise KeyboardInterrupt

    training._Loop.commit = interrupt
    try:
        with pytest.raises(KeyboardInterrupt):
            run("hmode", profile="smoke", runs=runs, device="cpu", progress=False)
    finally:
        training._Loop.commit = commit
    return runs


def copy(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs" / "smoke" / "synthetic" / "hmode-seed0"


def edit(path, **changes):
    config = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = config
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(json.dumps(config))


class TestConfigurations:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model__width": 8}, "model.width is 8, expected more than 0, up to 4"),
            ({"model__width": float("inf")}, "model.width is inf"),
            ({"model__width": "1"}, "model.width is '1'"),
            ({"model__width": -1}, "model.width is -1"),
            ({"model__experts": 10**9}, "model.experts is 1000000000"),
            ({"model__depth": 10**9}, "model.depth is 1000000000"),
            ({"model__depth": 8}, "depth is 8, expected one of (1, 2, 3)"),
            ({"model__weights": "imagenet"}, "model.weights is there, expected none"),
            ({"model__weights": "/etc/passwd"}, "model.weights is there, expected none"),
            ({"model__model": []}, "model.model is [], expected a network's name"),
            ({"model__groups": 3}, "groups is 3"),
            ({"model__group_size": "x"}, "model.group_size is 'x'"),
            ({"model": []}, "not a run's configuration"),
            ({"train": "x"}, "train is 'x', expected an object"),
            ({"schedule": []}, "schedule is [], expected an object"),
            ({"schedule__sigma": "wide"}, "schedule.sigma is 'wide'"),
            ({"schedule__window": 1e9}, "schedule.window is 1000000000.0"),
        ],
    )
    def test_a_stranger_s_is_checked_before_anything_is_made_of_it(
        self, finished, tmp_path, changes, message
    ):
        folder = copy(finished, tmp_path)
        edit(folder / "config.json", **changes)
        assert message in one_line("evaluate", folder)

    def test_nested_beyond_reason(self, finished, tmp_path):
        folder = copy(finished, tmp_path)
        (folder / "config.json").write_text('{"model": ' + "[" * 100_000)
        assert "config.json: not readable JSON" in one_line("evaluate", folder)

    def test_what_may_not_be_read_is_said_so(self, finished, tmp_path):
        folder = copy(finished, tmp_path)
        for name, read in (("config.json", "config"), ("best.safetensors", "weights")):
            refused = pytest.raises(InputError, match=rf"{name}: cannot be read: Permission denied")
            with unreadable(folder / name), refused:
                getattr(RunFolder(folder), read)()
        Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
        refused = pytest.raises(InputError, match=r"a\.png: cannot be read: Permission denied")
        with unreadable(tmp_path / "a.png"), refused:
            read_image(tmp_path / "a.png")


@contextmanager
def unreadable(path):
    """A file that this process may not read; the all-powerful becomes nobody for a while."""
    if os.name != "posix":
        pytest.skip("permissions of POSIX")
    for folder in path.parents:
        if str(folder) != "/" and os.geteuid() == 0 and folder.stat().st_uid == 0:
            folder.chmod(folder.stat().st_mode | 0o055)
    path.chmod(0)
    powerful = os.geteuid() == 0
    if powerful:
        os.seteuid(65534)
    try:
        yield
    finally:
        if powerful:
            os.seteuid(0)


class TestDamage:
    def test_a_history_that_is_gone_is_not_made_up(self, halfway, tmp_path):
        """Without it another epoch would have been selected, silently."""
        for name in ("history.csv", "timing.csv", "best.safetensors"):
            folder = copy(halfway, tmp_path / name)
            (folder / name).unlink()
            line = one_line(*SMOKE, "--runs", tmp_path / name / "runs")
            assert f"{name}: damaged or not there, yet 1 epochs are done" in line
            assert "--fresh" in line

    @pytest.mark.parametrize("name", ["history.csv", "timing.csv"])
    @pytest.mark.parametrize("text", ["", "epoch\n", "epoch,seconds\n1,x\n", "a,b\n1\n", "\0", "é"])
    def test_tables_that_are_damaged(self, halfway, tmp_path, name, text):
        folder = copy(halfway, tmp_path)
        (folder / name).write_bytes(text.encode("latin-1"))
        assert name in one_line(*SMOKE, "--runs", tmp_path / "runs")

    @pytest.mark.parametrize("text", ["name,true\nx,y\n", "name\n", "\0\nx\n", "a,b\n1\n"])
    def test_a_test_table_that_is_damaged(self, finished, tmp_path, text):
        folder = copy(finished, tmp_path)
        (folder / "test.csv").write_text(text)
        if text == "name\n":  # no rows: the images are counted again
            assert call(*SMOKE, "--runs", tmp_path / "runs").exit_code == 0
        else:
            assert "test.csv" in one_line(*SMOKE, "--runs", tmp_path / "runs")

    def test_a_checkpoint_that_is_cut_off(self, halfway, tmp_path):
        folder = copy(halfway, tmp_path)
        (path,) = folder.glob("checkpoint-*")
        path.write_bytes(path.read_bytes()[:-100])
        line = one_line(*SMOKE, "--runs", tmp_path / "runs")
        assert f"{path}: not a readable checkpoint" in line
        assert "--fresh" in line

    def test_a_checkpoint_that_lacks_a_tensor(self, halfway, tmp_path):
        folder = copy(halfway, tmp_path)
        (path,) = folder.glob("checkpoint-*")
        tensors = load_file(path)
        tensors.pop("network.heads.0.0.weight")
        save_file(tensors, path, metadata={"values": "{}"})
        assert "not a checkpoint of this training" in one_line(*SMOKE, "--runs", tmp_path / "runs")

    def test_pickles_are_not_run(self, halfway, tmp_path):
        folder = copy(halfway, tmp_path)
        (path,) = folder.glob("checkpoint-*")
        path.unlink()
        old = folder / "checkpoint-0001"
        old.mkdir()
        torch.save({}, old / "optimizer.bin")
        trace = tmp_path / "trace"
        (old / "custom_checkpoint_0.pkl").write_bytes(
            b"cbuiltins\nopen\n(V" + str(trace).encode() + b"\nVw\ntR."
        )
        assert "pickled ones are not read" in one_line(*SMOKE, "--runs", tmp_path / "runs")
        assert not trace.exists()
        fresh = call(*SMOKE, "--fresh", "--runs", tmp_path / "runs")
        assert fresh.exit_code == 0, fresh.output

    def test_a_finished_run_without_its_best_weights(self, finished, tmp_path):
        folder = copy(finished, tmp_path)
        (folder / "best.safetensors").unlink()
        assert "best.safetensors: no such weights" in one_line(*SMOKE, "--runs", tmp_path / "runs")

    @pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
    def test_a_finished_run_is_loaded_from_a_folder_that_cannot_be_written(
        self, finished, tmp_path
    ):
        folder = copy(finished, tmp_path)
        for path in (folder.parent, folder):
            path.chmod(0o555)
        (folder / "private").touch()
        with unreadable(folder / "private"):
            loaded = run(
                "hmode", profile="smoke", runs=tmp_path / "runs", device="cpu", progress=False
            )
        assert loaded.evaluation.mae > 0

    def test_a_full_disk_is_one_line(self, tmp_path):
        """Files may grow to some size only: the disk is full at another write each time."""
        for limit in (0, 2_000, 1_500_000):
            done = run_process(train_with_room, limit, tmp_path)
            assert done.returncode == 2, done.stderr
            assert done.stderr.startswith("Error: ")
            assert done.stderr.count("\n") == 1
            assert "cannot be" in done.stderr
        whole = call(*SMOKE, "--runs", tmp_path)
        assert whole.exit_code == 0, whole.output


def train_with_room(size, runs):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    main([*SMOKE, "--runs", str(runs)])


LONG = "x" * 300


class TestPlaces:
    @pytest.mark.parametrize(
        "arguments",
        [
            (*SMOKE, "--runs", "FILE"),
            (*SMOKE, "--runs", "DANGLING/x"),
            (*SMOKE, "--runs", LONG),
            (*SMOKE, "--csv", LONG),
            (*SMOKE, "--csv", "FILE/x.csv"),
            (*SMOKE, "--dataset", "sha", "--data-root", LONG),
            ("tables", "--runs", LONG),
            ("evaluate", LONG),
            ("count", "FILE", "--weights", LONG),
            ("data", "check", "sha", "--root", LONG),
        ],
    )
    def test_that_cannot_be_are_one_line(self, tmp_path, monkeypatch, arguments):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "FILE").write_text("x")
        (tmp_path / "DANGLING").symlink_to("/proc/nowhere")
        one_line(*arguments)

    def test_a_seed_beyond_all_numbers(self, tmp_path):
        assert call(*SMOKE, "--seed", 2**64, "--runs", tmp_path).exit_code == 2
        with pytest.raises(InputError, match="seed is 18446744073709551616"):
            run("hmode", profile="smoke", seed=2**64, runs=tmp_path)
