"""Experiments by name: trained once, loaded ever after."""

import csv
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from conftest import noise
from PIL import Image

import hmode
from hmode.data import hold_out, open_dataset
from hmode.errors import InputError
from hmode.experiments import (
    EXPERIMENTS,
    TABLES,
    canonical,
    initial_model,
    rows,
    running,
    select,
    splits,
)
from hmode.lab import Lab, project_folder
from hmode.profiles import PROFILES, load_profile


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke run of HMoDE+REL on synthetic crowds, and the folder of all runs."""
    runs = tmp_path_factory.mktemp("runs")
    result = hmode.run("hmode+rel", "synthetic", "smoke", device="cpu", runs=runs)
    return result, runs


def again(runs, **options):
    return hmode.run("hmode+rel", "synthetic", "smoke", device="cpu", runs=runs, **options)


def test_the_result_is_that_of_the_selected_weights(smoke):
    result, _ = smoke
    test = open_dataset("synthetic", split="test", size=128, length=4)
    expected = hmode.evaluate(hmode.load_run(result.training.run_dir), test)
    assert result.evaluation.mae == pytest.approx(expected.mae, rel=1e-5)
    assert result.evaluation.mse == pytest.approx(expected.mse, rel=1e-5)
    assert result.evaluation.names == expected.names
    row = result.training.history[result.training.best_epoch - 1]
    assert result.evaluation.mae == pytest.approx(row["test_mae"], rel=1e-4)
    assert not result.model.training
    assert all(p.device.type == "cpu" for p in result.model.parameters())


def test_the_mean_predictor_by_hand(smoke):
    result, _ = smoke
    train, _ = hold_out(open_dataset("synthetic", split="train", size=128, length=8))
    mean = sum(sample.count for sample in train) / len(train)
    true = [sample.count for sample in open_dataset("synthetic", split="test", size=128, length=4)]
    absolute = [abs(count - mean) for count in true]
    assert result.mean_mae == pytest.approx(sum(absolute) / 4)
    assert result.mean_mse == pytest.approx((sum(d * d for d in absolute) / 4) ** 0.5)
    assert result.relative_mae == pytest.approx(result.evaluation.mae / result.mean_mae)


def test_the_second_call_loads_and_writes_nothing(smoke):
    result, runs = smoke
    times = {path: path.stat().st_mtime_ns for path in result.training.run_dir.iterdir()}
    assert len(times) == 7
    loaded = again(runs)
    assert {path: path.stat().st_mtime_ns for path in result.training.run_dir.iterdir()} == times
    assert loaded.evaluation.table == result.evaluation.table
    assert loaded.training.history == result.training.history
    assert (loaded.mean_mae, loaded.mean_mse) == (result.mean_mae, result.mean_mse)


def test_a_finished_run_asks_for_no_initial_weights(smoke, monkeypatch):
    """Those of ImageNet, which who reads a result need not have."""
    result, runs = smoke
    monkeypatch.setattr(
        running, "load_profile", lambda *of: replace(load_profile(*of), weights="nowhere.pth")
    )
    assert again(runs).evaluation.table == result.evaluation.table
    with pytest.raises(InputError, match=r"nowhere\.pth"):
        hmode.run("hmode", "synthetic", "smoke", device="cpu", runs=runs)


def test_fresh_trains_again_to_the_same(smoke, tmp_path):
    result, _ = smoke
    first = again(tmp_path)
    path = first.training.run_dir / "test.csv"
    stored = path.read_text()
    path.write_text(stored.replace("true", "TRUE"))  # would not be readable
    fresh = again(tmp_path, fresh=True)
    assert path.read_text() == stored
    assert fresh.evaluation.table == result.evaluation.table


def test_seeds_share_the_held_out_tenth_and_nothing_else():
    """And leave the global random state alone."""
    profile, state = load_profile("smoke", "synthetic"), torch.get_rng_state()
    experiment = EXPERIMENTS["hmode"]
    first, same, other = (initial_model(experiment, profile, seed) for seed in (0, 0, 1))
    weights = [model.encoder.stages[0][0].weight for model in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_three_splits_share_no_image(tiny_sha):
    for dataset, root in (("synthetic", None), ("sha", tiny_sha)):
        train, validation, test = splits(dataset, load_profile("smoke", dataset), root)
        images = [{s.image.numpy().tobytes() for s in part} for part in (train, validation, test)]
        assert not images[0] & images[1]
        assert not (images[0] | images[1]) & images[2]
        assert [len(each) for each in images] == [len(train), len(validation), len(test)]


def test_a_profile_s_limit_bounds_every_split(tiny_sha):
    profile = load_profile("smoke", "sha")
    assert profile.limit == 8
    for limit, lengths in ((3, [2, 1, 3]), (99, [3, 1, 3])):
        parts = splits("sha", replace(profile, limit=limit), tiny_sha)
        assert [len(part) for part in parts] == lengths


def test_every_experiment_is_a_valid_setting_under_every_profile():
    for profile in PROFILES:
        size = load_profile(profile, "sha")
        for name, experiment in EXPERIMENTS.items():
            schedule = experiment.settings(size)
            assert 1 <= schedule.epochs <= 3 * size.schedule.epochs, name
            assert all(0 <= after <= schedule.epochs for after in schedule.halve_after), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "hmod"}, r"experiment is 'hmod', expected one of .*hmode\+rel"),
        ({"dataset": "qnrf"}, "'qnrf' is unknown"),
        ({"profile": "tiny"}, "profile is 'tiny'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_what_is_unknown_is_named_before_anything_is_written(tmp_path, change, message):
    arguments = {"name": "hmode", "profile": "smoke", "runs": tmp_path / "runs"} | change
    with pytest.raises(InputError, match=message):
        hmode.run(**arguments)
    assert not (tmp_path / "runs").exists()


def test_the_record_says_what_came_out_on_what_and_with_what(smoke):
    result, _ = smoke
    record = json.loads((result.training.run_dir / "result.json").read_text())
    assert record["experiment"] == "hmode+rel"
    assert (record["dataset"], record["profile"], record["seed"]) == ("synthetic", "smoke", 0)
    assert record["mae"] == result.evaluation.mae
    assert record["mae"] == pytest.approx(record["game0"])  # all points lie inside the frame
    assert record["game3"] >= record["game0"]
    assert record["epochs"] == 2
    assert record["seconds"] == pytest.approx(2 * record["seconds_per_epoch"])
    assert record["parameters"] == sum(p.numel() for p in result.model.parameters())
    assert record["device"] == "cpu"


def test_runs_of_one_kind_share_their_identity_and_others_do_not(smoke, tmp_path):
    result, _ = smoke

    def identity(run_dir):
        return json.loads((run_dir / "result.json").read_text())["config"]

    def other(name, seed):
        return hmode.run(name, "synthetic", "smoke", seed, device="cpu", runs=tmp_path)

    here = identity(result.training.run_dir)
    assert identity(other("hmode+rel", 1).training.run_dir) == here
    assert identity(other("hmode", 0).training.run_dir) != here


class TestTables:
    @pytest.mark.parametrize("table", TABLES)
    def test_every_row_stands_for_one_experiment(self, table):
        for row in rows(table):
            assert canonical(row) in EXPERIMENTS
            assert canonical(canonical(row)) == canonical(row)

    def test_rows_that_are_the_same_run_are_one_run(self):
        ours = ["table8/k3-n2-d2", "table9/hard", "table9/one-branch", "table11/sublists-3"]
        assert {canonical(row) for row in [*ours, "fig6/w-8", "fig6/s-9"]} == {"hmode+rel"}
        hmode_rows = ["table4/hmode", "table5/conv2", "table6/EB3", "table7/conv3", "table9/hmode"]
        assert {canonical(row) for row in hmode_rows} == {"hmode"}
        assert canonical("table4/average") == "baseline"

    def test_no_two_experiments_are_the_same(self):
        """Two names for one setting would train it twice."""
        profile = load_profile("paper", "sha")
        seen = {}
        for name, experiment in EXPERIMENTS.items():
            model = initial_model(experiment, load_profile("smoke", "synthetic"), 0)
            key = json.dumps([model.config, asdict(experiment.settings(profile))])
            assert key not in seen, f"{name} is {seen[key]}"
            seen[key] = name

    def test_a_selection_trains_each_run_once(self):
        names = select(["table4", "table5", "hmode", "table6/EB3"])
        assert len(names) == len(set(names)) == 12 + 4
        assert set(select(["all"])) == set(EXPERIMENTS)

    @pytest.mark.parametrize("name", ["table13", "table4/max", "", "table4/", "hmode-rel"])
    def test_what_is_no_row_is_refused_with_what_is(self, name):
        for ask in (canonical, rows, lambda name: select([name])):
            with pytest.raises(InputError, match=r"expected one of|neither a table"):
                ask(name)


class TestLab:
    def test_it_hands_out_what_run_trained(self, smoke):
        result, runs = smoke
        lab = Lab("smoke", device="cpu", output=runs.parent / "lab")
        lab.output.mkdir()
        (lab.output / "runs").symlink_to(runs)
        loaded = lab.run("hmode+rel")
        assert loaded.evaluation.table == result.evaluation.table
        assert lab.run("hmode+rel") is loaded
        assert [len(part) for part in (lab.train, lab.validation, lab.test)] == [7, 1, 4]
        assert lab.test[0] is lab.test[0]

    def test_the_environment_goes_before_the_parameters(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HMODE_PROFILE", "smoke")
        monkeypatch.setenv("HMODE_OUTPUT", str(tmp_path))
        lab = Lab("paper", output="elsewhere")
        assert lab.profile.name == "smoke"
        assert lab.figures == tmp_path / "figures" / "smoke" / "synthetic"

    def test_figures_and_tables_have_their_place(self, tmp_path):
        import matplotlib.pyplot as plt

        lab = Lab("smoke", "sha", output=tmp_path)
        figure = plt.figure()
        assert lab.save(figure, "gates") is None  # a notebook must not print where it lies
        path = lab.figures / "gates.png"
        assert path == tmp_path / "figures" / "smoke" / "sha" / "gates.png"
        first = path.read_bytes()
        lab.save(figure, "gates")
        assert path.read_bytes() == first  # the same picture, the same bytes
        plt.close(figure)
        lab.save_table("results", [{"network": "HMoDE", "mae": np.float64(0.5)}])
        table = lab.figures / "results.csv"
        assert next(csv.DictReader(table.open()))["network"] == "HMoDE"

    def test_the_project_is_the_nearest_folder_with_notebooks(self, tmp_path, monkeypatch):
        (tmp_path / "project" / "notebooks" / "deep").mkdir(parents=True)
        for folder in ("project", "project/notebooks", "project/notebooks/deep"):
            monkeypatch.chdir(tmp_path / folder)
            assert project_folder() == tmp_path / "project"
        monkeypatch.chdir(tmp_path)
        assert project_folder() == tmp_path


def test_a_folder_without_splits_is_not_tested_on_what_it_was_trained_on(tmp_path):
    for n in range(4):
        Image.fromarray(noise((64, 64), seed=n)).save(tmp_path / f"{n}.png")
    (tmp_path / "points.csv").write_text(
        "image,x,y\n" + "".join(f"{n}.png,5,5\n" for n in range(4))
    )
    with pytest.raises(InputError, match="the same images"):
        hmode.run("hmode", "folder", "smoke", data_root=tmp_path, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
