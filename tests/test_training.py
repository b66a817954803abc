"""Training: schedules, what a run holds, that interruptions leave no trace, and selection."""

import json
import math
import os
import random
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONTEXT, crowds
from helpers import refusal
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import hmode
from benchmarks.kills import die_on_disk
from hmode import Schedule, load_profile, training
from hmode.data import DRAWN, CropSampler, open_dataset
from hmode.density import batch_density_maps
from hmode.errors import InputError, MissingFileError, TrainingError
from hmode.losses import total_loss
from hmode.models import CSRNet
from hmode.profiles import PROFILES
from hmode.runs import RunFolder

# Schedules and profiles


@given(halve_after=st.lists(st.integers(0, 40), max_size=5).map(tuple), epoch=st.integers(0, 50))
def test_the_rate_is_halved_once_for_each_mark_that_is_past(halve_after, epoch):
    expected = 0.5 ** sum(after <= epoch for after in halve_after)
    assert Schedule(learning_rate=1.0, halve_after=halve_after).rate(epoch) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("epochs", 0), ("epochs", 2.5), ("batch_size", -1), ("validate_every", 0)),
        *(("checkpoint_every", None), ("crop", 0), ("crop", 100), ("crop", 16), ("crop", 64.0)),
        *(("learning_rate", 0.0), ("learning_rate", float("nan")), ("sigma", 0)),
        *(("precision", "fp8"), ("window", 4), ("window", 2.5)),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(InputError) as error:
        replace(Schedule(), **{field: value})
    assert f"{field} is {value!r}, expected" in str(error.value)


def test_the_papers_setting():
    """Section IV-B.2."""
    for dataset, crop in (("sha", 128), ("shb", 256)):
        profile = load_profile("paper", dataset)
        assert (profile.width, profile.limit) == (1.0, None)
        assert profile.train == profile.test == {}
        schedule = profile.schedule
        assert (schedule.crop, schedule.epochs) == (crop, 200)
        assert [schedule.rate(epoch) for epoch in (0, 99, 100, 199)] == [2e-5, 2e-5, 1e-5, 1e-5]
        assert (schedule.loss.cells, schedule.loss.regions) == (8, 9)


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_opens_what_is_drawn_with_room_for_a_crop(profile):
    for name in DRAWN:
        settings = load_profile(profile, name)
        for split in ("train", "test"):
            dataset = open_dataset(name, split=split, **getattr(settings, split))
            assert min(dataset.size) >= settings.schedule.crop
            assert len(dataset) >= 2


def test_an_unknown_profile_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match=r"profile is 'tiny'.*smoke.*small.*quick.*paper"):
        load_profile("tiny", "sha")


# Runs

TRAIN = crowds([20, 35, 5, 50])
VALIDATION = crowds([6, 6], seed=50)  # soon fewer than are predicted: the last is not the best
TEST = crowds([25, 8, 40], size=(50, 46), seed=90)
SCHEDULE = Schedule(epochs=4, batch_size=2, crop=32, learning_rate=1e-3, halve_after=(1, 3))
RESULT = ("best.safetensors", "last.safetensors", "history.csv", "config.json")


def network(seed=0, model=hmode.HMoDE):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model(width=0.0625)


def train(run_dir, schedule=SCHEDULE, *, model=None, test=TEST, **options):
    model = network() if model is None else model
    return hmode.fit(
        model, TRAIN, VALIDATION, schedule, run_dir=run_dir, test=test, device="cpu", **options
    )


def results(run_dir, names=RESULT):
    return {name: (Path(run_dir) / name).read_bytes() for name in names}


def assert_same(run_dir, expected):
    """Byte for byte; shows the histories where it is they that differ. No file more or less."""
    ours, theirs = results(run_dir), results(expected)
    assert ours["history.csv"].decode().splitlines() == theirs["history.csv"].decode().splitlines()
    assert [name for name in RESULT if ours[name] != theirs[name]] == []
    assert {path.name for path in run_dir.iterdir()} == {path.name for path in expected.iterdir()}


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def epochs(monkeypatch):
    """The epochs that are trained; `stop` ends a training before one, `blow` spoils one."""
    rate = Schedule.rate

    class Epochs(list):
        stop = blow = None

        def rate(self, schedule, epoch):
            if epoch == self.stop:
                raise KeyboardInterrupt
            if epoch not in self:
                self.append(epoch)
            return 1e30 if epoch == self.blow else rate(schedule, epoch)

    epochs = Epochs()
    monkeypatch.setattr(Schedule, "rate", lambda schedule, epoch: epochs.rate(schedule, epoch))
    return epochs


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run: its folder is only read."""
    return train(tmp_path_factory.mktemp("runs") / "whole")


class TestRun:
    def test_its_folder_and_its_configuration_say_all_that_decides_it(self, finished):
        assert {path.name for path in finished.run_dir.iterdir()} == {*RESULT, "timing.csv"}
        assert len((finished.run_dir / "timing.csv").read_text().splitlines()) == 5
        config = json.loads((finished.run_dir / "config.json").read_text())
        assert config["model"] == network().config
        assert config["schedule"] == json.loads(json.dumps(asdict(SCHEDULE)))
        assert config["seed"] == 0
        assert [config[name]["images"] for name in ("train", "validation", "test")] == [4, 2, 3]
        assert len({config[name]["digest"] for name in ("train", "validation", "test")}) == 3

    def test_its_history_has_a_row_an_epoch(self, finished):
        assert [row["epoch"] for row in finished.history] == [1, 2, 3, 4]
        assert [row["learning_rate"] for row in finished.history] == [1e-3, 5e-4, 5e-4, 2.5e-4]
        for row in finished.history:
            assert {"val_mae", "val_mse", "test_mae", "test_mse"} <= row.keys()
            assert all(math.isfinite(value) for value in row.values())
            terms = sum(row[name] for name in ("density", "relative", "attention", "importance"))
            assert row["total"] == pytest.approx(terms, rel=1e-5)  # all weights are one

    def test_the_first_epoch_is_a_plain_loop(self, finished):
        """Adam on the crops of epoch 0, written down without any of `fit`'s machinery."""
        model = network().train()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        sampler = CropSampler(TRAIN, crop=32, batch_size=2, seed=0)
        losses = []
        for batch in sampler.epoch(0):
            target = batch_density_maps(batch.points, batch.valid, (32, 32), sigma=4.0)
            loss = total_loss(model(batch.images), target)["total"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        first = finished.history[0]
        assert first["total"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
        assert hmode.evaluate(model, VALIDATION).mae == pytest.approx(first["val_mae"], abs=0.05)

    def test_the_best_and_the_last_weights_are_kept(self, finished):
        errors = [row["val_mae"] for row in finished.history]
        assert finished.best_epoch == 1 + errors.index(min(errors)) != 4
        assert finished.best_on_test == min(row["test_mae"] for row in finished.history)
        for which, epoch in (("best", finished.best_epoch), ("last", 4)):
            model = hmode.load_run(finished.run_dir, which)
            assert not model.training
            row = finished.history[epoch - 1]
            for name, dataset in (("val", VALIDATION), ("test", TEST)):
                result = hmode.evaluate(model, dataset)
                assert result.mae == pytest.approx(row[f"{name}_mae"], abs=1e-3)
                assert result.mse == pytest.approx(row[f"{name}_mse"], abs=1e-3)

    def test_of_equal_epochs_the_earliest_is_the_best(self, tmp_path):
        still = replace(SCHEDULE, epochs=2, learning_rate=1e-30)  # which moves no weight
        result = train(tmp_path / "run", still, model=network(model=CSRNet))
        assert result.history[0]["val_mae"] == result.history[1]["val_mae"]
        assert result.best_epoch == 1

    def test_only_the_seed_and_not_watching_or_global_random_states_decide_it(
        self, tmp_path, finished
    ):
        torch.manual_seed(1234)
        np.random.seed(1234)  # noqa: NPY002
        random.seed(1234)
        blind = train(tmp_path / "blind", test=None)
        weights = ("best.safetensors", "last.safetensors")
        assert results(blind.run_dir, weights) == results(finished.run_dir, weights)
        assert blind.best_on_test is None
        assert "test_mae" not in blind.history[0]
        loss = replace(SCHEDULE.loss, relative_weight=0.0)
        other = train(tmp_path / "other", replace(SCHEDULE, epochs=1, loss=loss), seed=1)
        assert "relative" not in other.history[0]
        assert other.history[0]["density"] != finished.history[0]["density"]

    def test_epochs_without_validation_are_not_candidates(self, tmp_path):
        result = train(tmp_path / "run", replace(SCHEDULE, validate_every=3))
        for name in ("val_mae", "test_mae"):
            assert [row[name] is None for row in result.history] == [True, True, False, False]
        assert result.best_epoch in (3, 4)

    def test_a_running_average_is_validated_and_kept_and_trains_nothing(self, tmp_path, finished):
        run = train(tmp_path / "run", replace(SCHEDULE, average=0.9))
        assert [row["total"] for row in run.history] == [row["total"] for row in finished.history]
        model = hmode.load_run(run.run_dir, "last")
        mae = hmode.evaluate(model, VALIDATION).mae
        assert mae == pytest.approx(run.history[-1]["val_mae"], abs=1e-3)
        assert mae != pytest.approx(finished.history[-1]["val_mae"], abs=0.01)

    def test_bad_input(self, tmp_path, finished):
        for train_set, validation, device, message in (
            ([], VALIDATION, "cpu", "empty"),
            (TRAIN, [], "cpu", "empty"),
            (TRAIN, VALIDATION, "cuda:0", "device is 'cuda:0', expected"),
        ):
            run_dir = tmp_path / f"run-{len(message)}-{len(train_set)}"
            with pytest.raises(InputError, match=message):
                hmode.fit(
                    network(), train_set, validation, SCHEDULE, run_dir=run_dir, device=device
                )
        with pytest.raises(MissingFileError, match="no run there"):
            hmode.load_run(tmp_path / "nowhere")
        for name in ("config.json", "best.safetensors"):
            (tmp_path / name).write_bytes((finished.run_dir / name).read_bytes())
        hmode.load_run(tmp_path)
        with pytest.raises(MissingFileError, match=r"last\.safetensors"):
            hmode.load_run(tmp_path, "last")
        (tmp_path / "config.json").write_text('{"model": {"model": "ResNet"}}')
        with pytest.raises(InputError, match="ResNet"):
            hmode.load_run(tmp_path)


class TestResume:
    @pytest.mark.parametrize(
        ("stop", "changes"),
        [
            (1, {}),
            (3, {"average": 0.9}),
            (3, {"checkpoint_every": 2}),
            (3, {"validate_every": 3}),
            (2, {"validate_every": 2, "checkpoint_every": 10}),
        ],
    )
    def test_an_interrupted_run_ends_like_one_that_was_not(self, tmp_path, epochs, stop, changes):
        schedule = replace(SCHEDULE, **changes)
        expected = train(tmp_path / "whole", schedule).run_dir
        epochs.stop = stop
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", schedule)
        assert not RunFolder(tmp_path / "parts").finished
        epochs.clear()
        epochs.stop = None
        saved = stop // schedule.checkpoint_every * schedule.checkpoint_every
        # Where there is a checkpoint, the network's initial weights do not matter any more.
        result = train(tmp_path / "parts", schedule, model=network(seed=9 if saved else 0))
        assert epochs == list(range(saved, 4))
        assert_same(tmp_path / "parts", expected)
        assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
        assert len((tmp_path / "parts" / "timing.csv").read_text().splitlines()) == 5

    def test_where_epochs_take_long_none_waits_for_its_checkpoint(
        self, tmp_path, epochs, monkeypatch
    ):
        monkeypatch.setattr(training, "PATIENCE", -1)
        epochs.stop = 3
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", replace(SCHEDULE, checkpoint_every=10))
        assert RunFolder(tmp_path / "run").checkpoint()[0] == 3

    def test_a_finished_run_is_loaded_and_not_trained(self, finished, epochs):
        before, model = files(finished.run_dir), network(seed=5)
        again = train(finished.run_dir, model=model)
        assert epochs == []
        assert again.history == finished.history
        assert again.best_epoch == finished.best_epoch
        assert files(finished.run_dir) == before
        best = load_file(finished.run_dir / "best.safetensors")
        assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())

    def test_a_checkpoint_that_a_crash_left_in_a_finished_run_disappears(
        self, tmp_path, finished, epochs
    ):
        shutil.copytree(finished.run_dir, tmp_path / "run")
        (tmp_path / "run" / "checkpoint-0003").mkdir()
        (tmp_path / "run" / "checkpoint-0003" / "model.safetensors").write_bytes(b"old")
        train(tmp_path / "run")
        assert epochs == []
        assert_same(tmp_path / "run", finished.run_dir)

    def test_starting_over_trains_again(self, tmp_path, epochs):
        schedule = replace(SCHEDULE, epochs=2)
        first = results(train(tmp_path / "run", schedule).run_dir)
        epochs.clear()
        train(tmp_path / "run", schedule, resume=False)
        assert epochs == [0, 1]
        assert results(tmp_path / "run") == first


# Killed: in processes of their own, at any step on the disk. `benchmarks.kills` tries them all.


def in_child(run_dir, kill_at=0, count_to=None, resume=True):
    """Train in this process; die at the kill_at-th time the disk is touched below run_dir."""
    torch.set_num_threads(1)
    steps = die_on_disk(Path(run_dir), kill_at)
    train(run_dir, resume=resume)
    if count_to:
        Path(count_to).write_text(str(steps()))


def exit_code(run_dir, **options):
    """Of a process that trains."""
    process = CONTEXT.Process(target=in_child, args=(run_dir,), kwargs=options)
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run in a process of its own, and how often it touched the disk."""
    folder = tmp_path_factory.mktemp("killed")
    assert exit_code(folder / "run", count_to=folder / "count") == 0
    return folder / "run", int((folder / "count").read_text())


@pytest.mark.skipif(os.name != "posix", reason="kills processes with a signal")
class TestKilled:
    @pytest.mark.parametrize("share", [0.02, 0.3, 0.61, 0.9])
    def test_killed_at_a_step_on_the_disk(self, tmp_path, whole, share):
        expected, steps = whole
        at = max(1, round(share * steps))
        assert exit_code(tmp_path / "run", kill_at=at) == -signal.SIGKILL
        assert exit_code(tmp_path / "run") == 0
        assert_same(tmp_path / "run", expected)

    def test_killed_again_and_again(self, tmp_path, whole):
        expected, steps = whole
        ends = []
        while len(ends) < 12 and 0 not in ends:
            ends.append(exit_code(tmp_path / "run", kill_at=round(0.4 * steps)))
        assert ends[-1] == 0
        assert -signal.SIGKILL in ends
        assert_same(tmp_path / "run", expected)

    @pytest.mark.parametrize("at", [4, 8])
    def test_killed_while_the_old_run_is_removed(self, tmp_path, whole, at):
        expected, _ = whole
        shutil.copytree(expected, tmp_path / "run")
        assert exit_code(tmp_path / "run", kill_at=at, resume=False) == -signal.SIGKILL
        assert exit_code(tmp_path / "run") == 0
        assert_same(tmp_path / "run", expected)


class TestBroken:
    @pytest.mark.parametrize("changes", [{}, {"batch_size": 4, "epochs": 1}])
    def test_a_loss_or_last_step_that_is_not_a_number_is_explained(self, tmp_path, changes):
        schedule = replace(SCHEDULE, learning_rate=1e30, **changes)
        with refusal(str(tmp_path / "run"), "epoch", "learning rate", kind=TrainingError):
            train(tmp_path / "run", schedule, model=network(model=hmode.Baseline))
        assert not RunFolder(tmp_path / "run").finished

    def test_the_last_good_checkpoint_is_kept(self, tmp_path, epochs, finished):
        """Two good epochs, then a step into nowhere; without it the run ends as if never hurt."""
        epochs.blow = 2
        with pytest.raises(TrainingError):
            train(tmp_path / "run")
        assert RunFolder(tmp_path / "run").checkpoint()[0] == 2
        epochs.blow = None
        train(tmp_path / "run")
        assert_same(tmp_path / "run", finished.run_dir)

    def test_a_dead_map_is_named(self, tmp_path):
        model = network()
        last = [layer for layer in model.heads[1] if isinstance(layer, nn.Conv2d)][-1]
        with torch.no_grad():
            last.weight.zero_()
            last.bias.fill_(-1.0)
        with pytest.raises(TrainingError, match=r"density maps \[1\] of 7.*epoch 1"):
            train(tmp_path / "run", model=model)
        assert not RunFolder(tmp_path / "run").finished

    def test_a_map_that_is_zero_on_some_images_is_alive(self, tmp_path, monkeypatch):
        """Alive once in an epoch is alive: the first batch's maps are all zero here."""
        model = network()
        forward, calls = type(model).forward, []

        def sometimes_zero(self, images):
            prediction = forward(self, images)
            if self.training:
                calls.append(len(images))
                if len(calls) % 2:
                    prediction.density = prediction.density * 0
                    prediction.experts = prediction.experts * 0
            return prediction

        monkeypatch.setattr(type(model), "forward", sometimes_zero)
        train(tmp_path / "run", replace(SCHEDULE, epochs=1), model=model)
        assert len(calls) == 2
