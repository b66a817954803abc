"""Training: what a run holds, that interruptions leave no trace, selection, and evaluation."""

import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import crowd, crowds
from safetensors.torch import load_file
from torch import nn

import hmode
from benchmarks.kills import die_on_disk
from hmode import training
from hmode.data import CropSampler, CrowdImage
from hmode.density import batch_density_maps
from hmode.errors import InputError, MissingFileError, TrainingError
from hmode.losses import total_loss
from hmode.models import Prediction
from hmode.profiles import Schedule
from hmode.runs import RunFolder
from hmode.step import RunningAverage

TRAIN = crowds([20, 35, 5, 50])
VALIDATION = crowds([30, 12], seed=50)
TEST = crowds([25, 8, 40], size=(70, 66), seed=90)
SCHEDULE = Schedule(epochs=4, batch_size=2, crop=64, learning_rate=1e-3, halve_after=(1, 3))
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
    """Byte for byte; shows the histories where it is they that differ."""
    ours, theirs = results(run_dir), results(expected)
    assert ours["history.csv"].decode().splitlines() == theirs["history.csv"].decode().splitlines()
    assert [name for name in RESULT if ours[name] != theirs[name]] == []


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run: its folder is only read."""
    return train(tmp_path_factory.mktemp("runs") / "whole")


class TestRun:
    def test_its_folder_holds_these_files(self, finished):
        assert {path.name for path in finished.run_dir.iterdir()} == {
            "config.json",
            "history.csv",
            "timing.csv",
            "best.safetensors",
            "last.safetensors",
        }
        assert len((finished.run_dir / "timing.csv").read_text().splitlines()) == 5

    def test_its_configuration_says_all_that_decides_it(self, finished):
        config = json.loads((finished.run_dir / "config.json").read_text())
        assert config["model"]["model"] == "HMoDE"
        assert config["model"]["width"] == 0.0625
        assert config["schedule"]["learning_rate"] == 1e-3
        assert config["schedule"]["loss"]["regions"] == 9
        assert config["seed"] == 0
        assert [config[name]["images"] for name in ("train", "validation", "test")] == [4, 2, 3]
        assert len({config[name]["digest"] for name in ("train", "validation", "test")}) == 3

    def test_its_history_has_a_row_an_epoch(self, finished):
        assert [row["epoch"] for row in finished.history] == [1, 2, 3, 4]
        for row in finished.history:
            assert {"density", "relative", "attention", "importance", "total"} <= row.keys()
            assert {"val_mae", "val_mse", "test_mae", "test_mse"} <= row.keys()
            assert all(math.isfinite(value) for value in row.values())
            terms = sum(row[name] for name in ("density", "relative", "attention", "importance"))
            assert row["total"] == pytest.approx(terms, rel=1e-5)  # all weights are one
            assert row["val_mse"] >= row["val_mae"] > 0

    def test_its_learning_rate_follows_the_schedule(self, finished):
        assert [row["learning_rate"] for row in finished.history] == [1e-3, 5e-4, 5e-4, 2.5e-4]

    def test_the_network_is_left_with_the_best_weights(self, tmp_path):
        model = network()
        result = train(tmp_path / "run", replace(SCHEDULE, epochs=2), model=model)
        best = load_file(result.run_dir / "best.safetensors")
        for name, value in model.state_dict().items():
            assert torch.equal(value, best[name]), name
            assert value.device.type == "cpu"

    def test_the_kept_weights_give_the_errors_of_their_epochs(self, finished):
        for which, epoch in (("best", finished.best_epoch), ("last", 4)):
            model = hmode.load_run(finished.run_dir, which)
            row = finished.history[epoch - 1]
            for name, dataset in (("val", VALIDATION), ("test", TEST)):
                result = hmode.evaluate(model, dataset)
                assert result.mae == pytest.approx(row[f"{name}_mae"], rel=1e-4)
                assert result.mse == pytest.approx(row[f"{name}_mse"], rel=1e-4)

    def test_the_first_epoch_is_a_plain_loop(self, finished):
        """Adam on the crops of epoch 0, written down without any of `fit`'s machinery."""
        model = network().train()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        sampler = CropSampler(TRAIN, crop=64, batch_size=2, seed=0)
        losses = []
        for batch in sampler.epoch(0):
            target = batch_density_maps(batch.points, batch.valid, (64, 64), sigma=4.0)
            loss = total_loss(model(batch.images), target)["total"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        first = finished.history[0]
        assert first["total"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
        assert hmode.evaluate(model, VALIDATION).mae == pytest.approx(first["val_mae"], rel=1e-2)

    def test_loss_settings_are_passed_on(self, tmp_path, finished):
        loss = replace(SCHEDULE.loss, relative_weight=0.0)
        history = train(tmp_path / "run", replace(SCHEDULE, epochs=1, loss=loss)).history
        assert "relative" not in history[0]
        first = finished.history[0]
        assert history[0]["total"] < first["total"]

    def test_global_random_states_change_nothing(self, tmp_path, finished):
        torch.manual_seed(1234)
        np.random.seed(1234)  # noqa: NPY002
        random.seed(1234)
        assert results(train(tmp_path / "run").run_dir) == results(finished.run_dir)

    def test_another_seed_is_another_run(self, tmp_path, finished):
        other = train(tmp_path / "run", replace(SCHEDULE, epochs=1), seed=1)
        assert other.history[0]["total"] != finished.history[0]["total"]

    @pytest.mark.parametrize("which", ["train", "validation"])
    def test_an_empty_data_set(self, tmp_path, which):
        data = {"train": TRAIN, "validation": VALIDATION, which: []}
        with pytest.raises(InputError, match="empty"):
            hmode.fit(
                network(),
                data["train"],
                data["validation"],
                replace(SCHEDULE, epochs=1),
                run_dir=tmp_path / "run",
                device="cpu",
            )

    @pytest.mark.parametrize("device", ["gpu", "cuda:0", "CPU"])
    def test_an_unknown_device(self, tmp_path, device):
        with pytest.raises(InputError, match=f"device is '{device}', expected"):
            hmode.fit(
                network(), TRAIN, VALIDATION, SCHEDULE, run_dir=tmp_path / "run", device=device
            )
        assert not (tmp_path / "run").exists()


class TestAverage:
    """The running average of weights and statistics is what is validated and kept."""

    def test_it_follows_the_weights_by_hand(self, tmp_path, monkeypatch):
        trail = []
        step = RunningAverage.update_parameters

        def recorded(average, network):
            step(average, network)
            trail.append({name: value.clone() for name, value in network.state_dict().items()})

        monkeypatch.setattr(RunningAverage, "update_parameters", recorded)
        run_dir = train(tmp_path / "run", replace(SCHEDULE, epochs=2, average=0.75)).run_dir
        kept = load_file(Path(run_dir) / "last.safetensors")
        floating = [name for name, value in trail[0].items() if value.is_floating_point()]
        assert any("running_var" in name for name in floating)
        for name in floating:
            expected = trail[0][name]
            for state in trail[1:]:
                expected = 0.75 * expected + 0.25 * state[name]
            torch.testing.assert_close(kept[name], expected)

    def test_what_is_trained_does_not_depend_on_it(self, tmp_path, finished):
        averaged = train(tmp_path / "run", replace(SCHEDULE, average=0.9))
        for row, expected in zip(averaged.history, finished.history, strict=True):
            assert row["total"] == expected["total"]

    def test_an_averaged_run_resumes_bit_for_bit(self, tmp_path, monkeypatch):
        schedule = replace(SCHEDULE, average=0.9)
        expected = train(tmp_path / "whole", schedule).run_dir
        run_epoch = training._Loop.run_epoch

        def interrupted(loop, epoch, bar):
            if epoch == 3:
                raise KeyboardInterrupt
            return run_epoch(loop, epoch, bar)

        with monkeypatch.context() as patch:
            patch.setattr(training._Loop, "run_epoch", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path / "broken", schedule)
        train(tmp_path / "broken", schedule)
        assert_same(tmp_path / "broken", expected)


class TestSelection:
    @pytest.fixture
    def scripted(self, monkeypatch):
        """Validation and test errors by epoch, in place of those of the network."""

        def script(**errors):
            queues = {name: list(values) for name, values in errors.items()}

            def validate(loop, name, dataset, due):
                value = queues[name].pop(0)
                return {f"{name}_mae": value, f"{name}_mse": value}

            monkeypatch.setattr(training._Loop, "validate", validate)

        return script

    def test_the_least_validation_error_decides_the_earliest_of_equals(self, tmp_path, scripted):
        scripted(val=[5.0, 3.0, 4.0, 3.0], test=[2.0, 9.0, 1.0, 8.0])
        result = train(tmp_path / "run")
        assert result.best_epoch == 2
        assert result.best_on_test == 1.0
        # The best weights are those after epoch 2: the last ones of a run of two epochs.
        scripted(val=[5.0, 3.0], test=[2.0, 9.0])
        short = train(tmp_path / "short", replace(SCHEDULE, epochs=2))
        name = "last.safetensors"
        assert (
            results(short.run_dir, [name])[name]
            == results(result.run_dir, ["best.safetensors"])["best.safetensors"]
        )

    def test_best_is_the_least_of_the_history(self, finished):
        errors = [row["val_mae"] for row in finished.history]
        assert finished.best_epoch == 1 + errors.index(min(errors))
        assert finished.best_on_test == min(row["test_mae"] for row in finished.history)

    def test_epochs_without_validation_are_not_candidates(self, tmp_path):
        result = train(tmp_path / "run", replace(SCHEDULE, validate_every=3))
        assert [row["val_mae"] is None for row in result.history] == [True, True, False, False]
        assert [row["test_mae"] is None for row in result.history] == [True, True, False, False]
        assert result.best_epoch in (3, 4)

    def test_without_a_test_set_there_is_no_best_on_test(self, tmp_path):
        result = train(tmp_path / "run", replace(SCHEDULE, epochs=1), test=None)
        assert result.best_on_test is None
        assert "test_mae" not in result.history[0]

    def test_watching_the_test_set_changes_no_weights(self, tmp_path, finished):
        blind = train(tmp_path / "run", test=None)
        weights = ("best.safetensors", "last.safetensors")
        assert results(blind.run_dir, weights) == results(finished.run_dir, weights)


class TestResume:
    @pytest.mark.parametrize(
        ("stop", "validate_every", "checkpoint_every"),
        [(1, 1, 1), (3, 1, 1), (3, 1, 2), (1, 1, 2), (3, 3, 1), (2, 2, 10)],
    )
    def test_an_interrupted_run_ends_like_one_that_was_not(
        self, tmp_path, monkeypatch, stop, validate_every, checkpoint_every
    ):
        schedule = replace(
            SCHEDULE, validate_every=validate_every, checkpoint_every=checkpoint_every
        )
        train(tmp_path / "whole", schedule)
        epochs = []
        run_epoch = training._Loop.run_epoch

        def interrupted(loop, epoch, bar):
            if epoch == stop:
                raise KeyboardInterrupt
            return run_epoch(loop, epoch, bar)

        def recorded(loop, epoch, bar):
            epochs.append(epoch)
            return run_epoch(loop, epoch, bar)

        monkeypatch.setattr(training._Loop, "run_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", schedule)
        assert not RunFolder(tmp_path / "parts").finished
        monkeypatch.setattr(training._Loop, "run_epoch", recorded)
        saved = stop // checkpoint_every * checkpoint_every
        # Where there is a checkpoint, the network's initial weights do not matter any more.
        result = train(tmp_path / "parts", schedule, model=network(seed=9 if saved else 0))
        assert epochs == list(range(saved, 4))
        assert results(tmp_path / "parts") == results(tmp_path / "whole")
        assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
        assert len((tmp_path / "parts" / "timing.csv").read_text().splitlines()) == 5

    def test_a_finished_run_is_loaded_and_not_trained(self, finished, monkeypatch):
        def fail(*_):
            raise AssertionError("trained again")

        before = files(finished.run_dir)
        monkeypatch.setattr(training._Loop, "run_epoch", fail)
        monkeypatch.setattr(training._Loop, "validate", fail)
        model = network(seed=5)
        again = train(finished.run_dir, model=model)
        assert again.history == finished.history
        assert again.best_epoch == finished.best_epoch
        assert files(finished.run_dir) == before
        best = load_file(finished.run_dir / "best.safetensors")
        assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())

    def test_starting_over_trains_again(self, tmp_path, monkeypatch):
        schedule = replace(SCHEDULE, epochs=2)
        first = results(train(tmp_path / "run", schedule).run_dir)
        epochs = []
        run_epoch = training._Loop.run_epoch

        def recorded(loop, epoch, bar):
            epochs.append(epoch)
            return run_epoch(loop, epoch, bar)

        monkeypatch.setattr(training._Loop, "run_epoch", recorded)
        train(tmp_path / "run", schedule, resume=False)
        assert epochs == [0, 1]
        assert results(tmp_path / "run") == first
        train(tmp_path / "run", schedule, resume=False, model=network(seed=3))
        assert results(tmp_path / "run")["last.safetensors"] != first["last.safetensors"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"schedule": replace(SCHEDULE, learning_rate=2e-3)},
                "schedule.learning_rate is 0.001 there, 0.002 here",
            ),
            ({"seed": 7}, "seed is 0 there, 7 here"),
            ({"model": network(model=hmode.Baseline)}, "model.model is 'HMoDE' there, 'Baseline'"),
            (
                {"schedule": replace(SCHEDULE, loss=replace(SCHEDULE.loss, regions=5))},
                "schedule.loss.regions is 9 there, 5 here",
            ),
        ],
    )
    def test_another_configuration_is_refused_and_nothing_is_overwritten(
        self, finished, change, message
    ):
        before = files(finished.run_dir)
        for resume in (True, False):
            with pytest.raises(InputError) as error:
                train(finished.run_dir, resume=resume, **change)
            assert message in str(error.value)
            assert str(finished.run_dir) in str(error.value)
            assert files(finished.run_dir) == before

    @pytest.mark.parametrize("test", [None, crowds([25, 8, 41], size=(70, 66), seed=90)])
    def test_other_data_are_refused_and_nothing_is_overwritten(self, finished, test):
        before = files(finished.run_dir)
        with pytest.raises(InputError, match=r"holds a run of other data \(test.*--fresh"):
            train(finished.run_dir, test=test)
        assert files(finished.run_dir) == before

    def test_a_folder_that_is_no_run_is_refused(self, tmp_path):
        (tmp_path / "photo.jpg").write_bytes(b"dear to me")
        with pytest.raises(InputError, match="not a run folder"):
            train(tmp_path)
        assert files(tmp_path) == {"photo.jpg": b"dear to me"}

    def test_leftovers_of_a_crash_disappear(self, tmp_path, finished):
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        (run_dir / "checkpoint-0001.partial").mkdir()
        (run_dir / "checkpoint-0001.partial" / "model.safetensors").write_bytes(b"half")
        (run_dir / "best.safetensors.partial").write_bytes(b"half")
        train(run_dir)
        assert results(run_dir) == results(finished.run_dir)
        assert {path.name for path in run_dir.iterdir()} == {
            path.name for path in finished.run_dir.iterdir()
        }


# Killed: in processes of their own, at any step on the disk.


def in_child(run_dir, kill_at=0, count_to=None, resume=True):
    """Train in this process; die at the kill_at-th time the disk is touched below run_dir."""
    torch.set_num_threads(1)
    steps = die_on_disk(Path(run_dir), kill_at)
    train(run_dir, resume=resume)
    if count_to:
        Path(count_to).write_text(str(steps()))


def start(run_dir, **options):
    """A process that trains."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=in_child, args=(run_dir,), kwargs=options)
    process.start()
    return process


def finish(process) -> int:
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run in a process of its own, and how often it touched the disk."""
    folder = tmp_path_factory.mktemp("killed")
    assert finish(start(folder / "run", count_to=folder / "count")) == 0
    return folder / "run", int((folder / "count").read_text())


@pytest.mark.skipif(os.name != "posix", reason="kills processes with a signal")
class TestKilled:
    @pytest.mark.parametrize("share", [0.02, 0.16, 0.3, 0.43, 0.52, 0.61, 0.7, 0.79, 0.9, 0.97])
    def test_killed_at_a_step_on_the_disk(self, tmp_path, whole, share):
        expected, steps = whole
        at = max(1, round(share * steps))
        assert finish(start(tmp_path / "run", kill_at=at)) == -signal.SIGKILL
        assert finish(start(tmp_path / "run")) == 0
        assert_same(tmp_path / "run", expected)
        assert not list((tmp_path / "run").glob("*.partial"))

    def test_killed_again_and_again(self, tmp_path, whole):
        expected, steps = whole
        ends = []
        for _ in range(12):
            ends.append(finish(start(tmp_path / "run", kill_at=round(0.4 * steps))))
            if ends[-1] == 0:
                break
        assert ends[-1] == 0
        assert -signal.SIGKILL in ends
        assert_same(tmp_path / "run", expected)

    @pytest.mark.parametrize("at", [4, 6, 8, 10])
    def test_killed_while_the_old_run_is_removed(self, tmp_path, whole, at):
        expected, _ = whole
        shutil.copytree(expected, tmp_path / "run")
        assert finish(start(tmp_path / "run", kill_at=at, resume=False)) == -signal.SIGKILL
        assert finish(start(tmp_path / "run")) == 0
        assert_same(tmp_path / "run", expected)

    @pytest.mark.parametrize("seed", [0, 1])
    def test_killed_at_any_moment(self, tmp_path, whole, seed):
        expected, _ = whole
        process = start(tmp_path / "run")
        while not (tmp_path / "run" / "history.csv").is_file() and process.is_alive():
            time.sleep(0.01)
        time.sleep(random.Random(seed).uniform(0, 0.4))
        process.kill()
        finish(process)
        assert finish(start(tmp_path / "run")) == 0
        assert_same(tmp_path / "run", expected)

    def test_a_finished_run_keeps_no_checkpoint_wherever_it_was_killed(self, tmp_path, whole):
        """Killed after the last weights were in place, before the checkpoints were removed."""
        expected, steps = whole
        last = [path.name for path in expected.iterdir()]
        for back in range(1, 12):
            run_dir = tmp_path / f"run{back}"
            assert finish(start(run_dir, kill_at=steps - back)) == -signal.SIGKILL
            if RunFolder(run_dir).finished and list(run_dir.glob("checkpoint-*")):
                assert finish(start(run_dir)) == 0
                assert sorted(path.name for path in run_dir.iterdir()) == sorted(last)
                return
        pytest.skip("no step between the last weights and the end of the checkpoints")


class TestBroken:
    @pytest.mark.parametrize("model", [hmode.Baseline, hmode.HMoDE])
    @pytest.mark.parametrize("batch_size", [2, 4])
    def test_a_loss_that_is_not_a_number_is_explained(self, tmp_path, model, batch_size):
        schedule = replace(SCHEDULE, learning_rate=1e30, batch_size=batch_size)
        with pytest.raises(TrainingError) as error:
            train(tmp_path / "run", schedule, model=network(model=model))
        message = str(error.value)
        assert str(tmp_path / "run") in message
        assert "epoch" in message
        assert "learning rate" in message
        assert not RunFolder(tmp_path / "run").finished

    def test_weights_that_the_last_step_destroyed_are_no_result(self, tmp_path):
        schedule = replace(SCHEDULE, learning_rate=1e30, batch_size=4, epochs=1)
        with pytest.raises(TrainingError):
            train(tmp_path / "run", schedule, model=network(model=hmode.Baseline))

    @pytest.mark.parametrize("model", [hmode.Baseline, hmode.HMoDE])
    @pytest.mark.parametrize("batch_size", [2, 4])
    def test_the_last_good_checkpoint_is_kept(self, tmp_path, monkeypatch, model, batch_size):
        """Two good epochs, then a step into nowhere; without it the run ends as if never hurt."""
        schedule = replace(SCHEDULE, batch_size=batch_size)
        train(tmp_path / "whole", schedule, model=network(model=model))
        rate = Schedule.rate
        with monkeypatch.context() as patch:
            patch.setattr(
                Schedule, "rate", lambda self, epoch: 1e30 if epoch == 2 else rate(self, epoch)
            )
            with pytest.raises(TrainingError):
                train(tmp_path / "run", schedule, model=network(model=model))
        assert RunFolder(tmp_path / "run").checkpoint()[0] == 2
        train(tmp_path / "run", schedule, model=network(model=model))
        assert results(tmp_path / "run") == results(tmp_path / "whole")

    @pytest.mark.parametrize("head", [0, 1, 2])
    def test_a_dead_map_is_named(self, tmp_path, head):
        model = network()
        last = [layer for layer in model.heads[head] if isinstance(layer, nn.Conv2d)][-1]
        with torch.no_grad():
            last.weight.zero_()
            last.bias.fill_(-1.0)
        with pytest.raises(TrainingError) as error:
            train(tmp_path / "run", model=model)
        message = str(error.value)
        assert f"density maps [{head}] of 7" in message
        assert "epoch 1" in message
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


class Constant(nn.Module):
    """Predicts the same density everywhere, people per pixel."""

    def __init__(self, density, scale=100.0):
        super().__init__()
        self.density, self.scale = nn.Parameter(torch.tensor(float(density))), scale

    def forward(self, images):
        height, width = images.shape[-2:]
        cells = torch.ones(len(images), 1, -(-height // 4), -(-width // 4))
        value = self.density * self.scale
        return Prediction(
            density=cells * value,
            experts=torch.cat([cells * value * 2, cells * value * 0], dim=1),
            size=(height, width),
            stride=4,
            scale=self.scale,
        )


class TestEvaluate:
    def test_by_hand(self):
        """0.01 people a pixel: 41.4, 64 and 33 people, also where sides are no multiple of 4."""
        dataset = crowds([40], (45, 92)) + crowds([50], (80, 80)) + crowds([40], (50, 66))
        result = hmode.evaluate(Constant(0.01), dataset)
        assert result.predicted == pytest.approx([41.4, 64, 33], rel=1e-5)
        assert result.mae == pytest.approx((1.4 + 14 + 7) / 3, rel=1e-4)
        assert result.mse == pytest.approx(math.sqrt((1.4**2 + 14**2 + 7**2) / 3), rel=1e-4)
        table = result.table
        assert [row["true"] for row in table] == [40, 50, 40]
        assert [row["map0"] for row in table] == pytest.approx([82.8, 128, 66], rel=1e-5)
        assert [row["map1"] for row in table] == [0, 0, 0]
        assert [row["map2"] for row in table] == [row["predicted"] for row in table]
        assert table[1]["error"] == pytest.approx(14, rel=1e-4)

    def test_people_outside_the_frame_are_true_but_not_inside(self):
        points = torch.tensor([[-358.7, 5.0], [5.0, 64.0], [63.9, 63.9], [0.0, 0.0], [64.0, 1.0]])
        sample = CrowdImage(torch.zeros(3, 64, 64, dtype=torch.uint8), points, "edge")
        result = hmode.evaluate(Constant(0.0), [sample])
        assert result.true.tolist() == [5]
        assert result.inside.tolist() == [2]
        assert result.mae == 5

    def test_order_changes_nothing(self):
        model = network()
        forward = hmode.evaluate(model, TEST + VALIDATION)
        backward = hmode.evaluate(model, (TEST + VALIDATION)[::-1])
        assert forward.table == backward.table[::-1]

    def test_the_mode_is_evaluation_and_then_what_it_was(self):
        model = network()
        modes = []
        hook = model.encoder.register_forward_hook(lambda module, *_: modes.append(module.training))
        for mode in (True, False):
            model.train(mode)
            hmode.evaluate(model, VALIDATION)
            assert model.training is mode
            assert model.encoder.training is mode
        assert modes == [False] * 2  # two images of one size are counted at once
        hook.remove()

    def test_the_mode_comes_back_after_an_error_too(self):
        model = network().train()
        with pytest.raises(InputError):
            hmode.evaluate(model, crowds([3], (20, 64)))
        assert model.training

    def test_it_learns_nothing(self):
        model = network().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        hmode.evaluate(model, TEST)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert all(p.grad is None for p in model.parameters())

    @pytest.mark.parametrize("size", [(32, 32), (33, 100), (47, 61), (100, 33), (111, 32)])
    def test_an_image_of_any_size_counts_what_its_full_size_map_sums_to(self, size):
        model = network().eval()
        sample = crowd(9, size)
        with torch.inference_mode():
            full = model(hmode.data.normalise(sample.image)[None]).full_size()
        assert full.shape[-2:] == size
        result = hmode.evaluate(model, [sample])
        assert result.predicted[0] == pytest.approx(full.sum().item(), rel=1e-4)

    def test_nothing_to_evaluate_on(self):
        with pytest.raises(InputError, match="empty"):
            hmode.evaluate(network(), [])

    def test_an_image_that_is_too_small_is_named(self):
        small = crowd(3, (20, 64), name="thumbnail.jpg")
        with pytest.raises(InputError, match="32") as error:
            hmode.evaluate(network(), [*VALIDATION, small])
        assert "thumbnail.jpg" in str(error.value)


class TestLoadRun:
    def test_ready_to_predict(self, finished):
        model = hmode.load_run(finished.run_dir)
        assert not model.training
        assert isinstance(model, hmode.HMoDE)
        assert model.config == network().config

    def test_no_run_there(self, tmp_path):
        with pytest.raises(MissingFileError, match="no run there"):
            hmode.load_run(tmp_path / "nowhere")

    def test_weights_that_are_not_there_yet(self, tmp_path, finished):
        for name in ("config.json", "best.safetensors"):
            (tmp_path / name).write_bytes((finished.run_dir / name).read_bytes())
        hmode.load_run(tmp_path)
        with pytest.raises(MissingFileError, match=r"last\.safetensors"):
            hmode.load_run(tmp_path, "last")

    @pytest.mark.parametrize("config", ["{}", "[1, 2]", '{"model": {"model": "ResNet"}}'])
    def test_a_configuration_that_is_none_of_ours(self, tmp_path, config):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(InputError):
            hmode.load_run(tmp_path)
