"""The table of runs, and what is said of it: on results and errors made up by hand."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hmode.errors import InputError
from hmode.results import as_text, collect, compare, image_errors, load, save, summary
from hmode.runs import write_csv


def write_run(runs, experiment="hmode", seed=0, errors=(1.0, 3.0), fold=None, **changes):
    """A finished run with these absolute errors on the test images."""
    result = {
        "experiment": experiment,
        "dataset": "synthetic" if fold is None else "ucf_cc_50",
        "fold": fold,
        "profile": "quick",
        "seed": seed,
        "mae": float(np.mean(errors)),
        "mse": float(np.mean(np.square(errors)) ** 0.5),
        "peak_gib": None,
        "config": "0123e567",  # a number, to who is careless
        "torch": "2.10",
        "device": "cpu",
    } | changes
    folder = runs / result["profile"] / result["dataset"] / f"{experiment.replace('/', '-')}"
    folder = folder.with_name(f"{folder.name}-seed{seed}")
    folder = folder if fold is None else folder / f"fold{fold}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    images = [
        {"name": f"{fold}-{i}", "true": 9, "inside": 9, "predicted": 9 - e, "map0": 9 - e}
        for i, e in enumerate(errors)
    ]
    write_csv(folder / "test.csv", images)
    return folder


@pytest.fixture
def runs(tmp_path):
    """The folder of all runs, with two experiments and two seeds in it."""
    for experiment in ("table4/moe", "hmode"):
        for seed in (1, 0):
            write_run(tmp_path, experiment, seed)
    return tmp_path


class TestCollect:
    def test_a_row_a_run_in_the_order_asked_for(self, runs):
        frame = collect(runs, "quick", "synthetic", ["table4/moe", "absent", "hmode"])
        assert list(frame["experiment"]) == ["table4/moe"] * 2 + ["hmode"] * 2
        assert list(frame["seed"]) == [0, 1, 0, 1]
        assert frame["run"][1] == "quick/synthetic/table4-moe-seed1"
        assert list(frame["mae"]) == [2.0] * 4
        assert (
            list(collect(runs, "quick", "synthetic")["experiment"])
            == ["hmode"] * 2 + ["table4/moe"] * 2
        )

    def test_what_a_killed_start_over_left_is_not_there(self, runs):
        folder = runs / "quick" / "synthetic" / "hmode-seed1"
        folder.rename(folder.with_name(f"{folder.name}.partial"))
        write_run(runs, fold=2).rename(
            runs / "quick" / "ucf_cc_50" / "hmode-seed0" / "fold2.partial"
        )
        assert len(collect(runs, "quick", "synthetic", ["hmode"])) == 1
        assert len(collect(runs, "quick", "ucf_cc_50")) == 0

    def test_folds_are_rows_of_their_own(self, tmp_path):
        for fold in (1, 0):
            write_run(tmp_path, fold=fold)
        frame = collect(tmp_path, "quick", "ucf_cc_50")
        assert list(frame["fold"]) == [0, 1]
        assert frame["run"][1] == "quick/ucf_cc_50/hmode-seed0/fold1"

    def test_what_is_not_finished_is_not_there(self, runs):
        (runs / "quick" / "synthetic" / "hmode-seed1" / "result.json").unlink()
        assert len(collect(runs, "quick", "synthetic", ["hmode"])) == 1
        assert len(collect(runs, "paper", "synthetic")) == 0
        assert len(collect(runs / "nowhere", "quick", "synthetic")) == 0

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"config": "89ab"}, "mixed table: config of .*-seed0 has 0123e567, .*-seed2 has 89ab"),
            ({"device": "H200"}, "mixed table: device of .*-seed0 has cpu, .*-seed2 has H200"),
            ({"seed": 0}, "-seed0 and .*-seed2 say they are the same run"),
            (
                {"profile": "paper"},
                r"hmode-seed2/result\.json: profile is 'paper', expected 'quick'",
            ),
            (
                {"dataset": "sha"},
                r"hmode-seed2/result\.json: dataset is 'sha', expected 'synthetic'",
            ),
        ],
    )
    def test_unlike_runs_are_refused_by_name(self, runs, change, message):
        path = write_run(runs, seed=2) / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(InputError, match=message):
            collect(runs, "quick", "synthetic")

    def test_another_experiment_may_have_another_configuration_and_device(self, runs):
        write_run(runs, "baseline", config="89ab", device="H200")
        assert len(collect(runs, "quick", "synthetic")) == 5
        assert len(collect(runs, "quick", "synthetic", device="cpu")) == 4

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"experiment": ', "not readable JSON"),
            ('{"experiment": "hmode"}', "'dataset' is missing"),
            ("[]", "not a run's result"),
            ("[" * 100_000, "not readable JSON"),
            ({"mae": "2.0"}, "mae is '2.0', expected a number"),
            ({"seed": 0.5}, "seed is 0.5, expected a number"),
            ({"device": None}, "device is None, expected a text"),
            ({"experiment": "table4/none"}, "experiment is 'table4/none', no row of ours"),
        ],
    )
    def test_half_a_result_is_refused_by_name(self, runs, text, message):
        path = runs / "quick" / "synthetic" / "hmode-seed0" / "result.json"
        if isinstance(text, dict):
            text = json.dumps(json.loads(path.read_text()) | text)
        path.write_text(text)
        with pytest.raises(InputError, match=rf"hmode-seed0/result\.json: .*{message}"):
            collect(runs, "quick", "synthetic")


class TestFiles:
    def test_a_table_comes_back_digit_for_digit(self, tmp_path):
        for seed, mae in enumerate((1 / 3, 0.1 + 0.2, 1e-300)):
            write_run(tmp_path, seed=seed, fold=seed, mae=mae)
        frame = collect(tmp_path, "quick", "ucf_cc_50")
        none = collect(tmp_path, "paper", "synthetic")
        for each in (none, frame):
            save(each, tmp_path / "t.csv")
            pd.testing.assert_frame_equal(load(tmp_path / "t.csv"), each, check_exact=True)
        assert list(frame["config"]) == ["0123e567"] * 3
        assert list(frame["torch"]) == ["2.10"] * 3

    def test_a_mixed_file_is_refused(self, runs):
        frame = collect(runs, "quick", "synthetic")
        for column in ("profile", "dataset", "config", "device"):
            save(frame.assign(**{column: ["a", "b", "c", "d"]}), runs / "t.csv")
            with pytest.raises(InputError, match=f"mixed table: {column} of .* has a, .* has b"):
                load(runs / "t.csv")
        save(frame.assign(mae="many"), runs / "t.csv")
        with pytest.raises(InputError, match=r"t\.csv: not a readable table of runs: .*many"):
            load(runs / "t.csv")
        with pytest.raises(InputError, match="mixed table: profile"):
            summary(pd.concat([frame, frame.assign(profile="paper")]))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (None, "no such table"),
            ("", "not a readable table of runs"),
            ('"', "not a readable table of runs"),
            ("run,mae\nx,many\n", "not a table of runs, column 'experiment' is missing"),
            ("a,b\n1,2\n", "not a table of runs, column 'run' is missing"),
        ],
    )
    def test_what_is_no_table_of_runs_is_refused(self, tmp_path, text, message):
        if text is not None:
            (tmp_path / "t.csv").write_text(text)
        with pytest.raises(InputError, match=rf"t\.csv: {message}"):
            load(tmp_path / "t.csv")


class TestSummary:
    def test_mean_and_standard_deviation_by_hand(self, tmp_path):
        for seed, errors in enumerate(([1, 1], [2, 2], [6, 6])):
            write_run(tmp_path, seed=seed, errors=errors)
        row = summary(collect(tmp_path, "quick", "synthetic")).iloc[0]
        assert (row["seeds"], row["mae"]) == (3, 3)
        assert row["mae_sd"] == pytest.approx(7**0.5)  # (4 + 1 + 9) / 2
        assert row["verdict"] == "default"
        assert "peak_gib" not in row  # measured nowhere

    def test_one_seed_has_no_spread(self, runs):
        frame = collect(runs, "quick", "synthetic")
        row = summary(frame[frame["seed"] == 0]).set_index("experiment").loc["table4/moe"]
        assert np.isnan(row["mae_sd"])
        assert (row["verdict"], row["difference"]) == ("one seed", 0)
        assert np.isnan(row["low"])

    def test_folds_are_averaged_first_and_all_wanted(self, tmp_path):
        for seed in (0, 1):
            for fold in range(5):
                write_run(tmp_path, seed=seed, fold=fold, errors=[fold + 10 * seed])
        write_run(tmp_path, seed=2, fold=0, errors=[1000])  # its other folds failed
        write_run(tmp_path, "baseline", seed=0, fold=0)
        frame = collect(tmp_path, "quick", "ucf_cc_50")
        rows = summary(frame).set_index("experiment")
        assert tuple(rows.loc["hmode", ["seeds", "mae"]]) == (2, 7)
        assert rows.loc["hmode", "mae_sd"] == pytest.approx(50**0.5)
        assert rows.loc["baseline", "seeds"] == 0
        assert rows.loc["baseline", "verdict"] == "no common seed"
        errors = image_errors(frame, tmp_path)
        assert list(errors) == [("hmode", 0), ("hmode", 1)]
        assert list(errors["hmode", 1]) == [10, 11, 12, 13, 14]
        assert summary(frame, errors=errors)["verdict"].to_list() == ["no common seed", "default"]

    def test_only_common_seeds_are_compared(self, tmp_path):
        for seed, errors in ((0, [1, 1]), (1, [2, 2]), (2, [90, 90])):
            write_run(tmp_path, seed=seed, errors=errors)
        for seed, errors in ((1, [5, 3]), (0, [3, 3]), (7, [90, 90])):
            write_run(tmp_path, "baseline", seed=seed, errors=errors)
        frame = collect(tmp_path, "quick", "synthetic")
        alone = summary(frame).iloc[0]
        assert (alone["experiment"], alone["pairs"], alone["difference"]) == ("baseline", 2, 2)
        assert alone["verdict"] == "few seeds"
        both = summary(frame, errors=image_errors(frame, tmp_path)).iloc[0]
        assert (both["pairs"], both["difference"], both["verdict"]) == (2, 2, "worse")

    def test_the_default_must_be_there(self, runs):
        frame = collect(runs, "quick", "synthetic")
        with pytest.raises(InputError, match=r"default is 'hmod', the table has .*'hmode'"):
            summary(frame, "hmod")
        assert "verdict" not in summary(frame, None)

    def test_as_lines(self, tmp_path):
        for seed in (0, 1):
            write_run(tmp_path, seed=seed, errors=[1.0 + seed, 3.0 + seed])
            write_run(tmp_path, "baseline", seed=seed, errors=[2.5 + seed, 4.5 + seed])
        frame = collect(tmp_path, "quick", "synthetic")
        lines = as_text(summary(frame, errors=image_errors(frame, tmp_path))).splitlines()
        assert len(lines) == 3
        assert lines[1].split()[:5] == ["baseline", "2", "4.00", "±", "0.71"]
        assert "+1.50 (+1.50 to +1.50)" in lines[1]
        assert lines[1].endswith("worse")
        assert lines[2].endswith("default")


class TestImageErrors:
    def test_by_hand(self, runs):
        errors = image_errors(collect(runs, "quick", "synthetic", ["hmode"]), runs)
        assert list(errors) == [("hmode", 0), ("hmode", 1)]
        assert list(errors["hmode", 0]) == [1, 3]

    def test_counts_of_another_run_are_refused(self, runs):
        path = runs / "quick" / "synthetic" / "hmode-seed0" / "test.csv"
        path.write_text(path.read_text().replace("8.0", "7.0"))
        with pytest.raises(InputError, match=r"hmode-seed0: test\.csv .* 2\.5, result\.json of 2"):
            image_errors(collect(runs, "quick", "synthetic"), runs)
        path.unlink()
        with pytest.raises(InputError, match=r"hmode-seed0/test\.csv: .* no rows"):
            image_errors(collect(runs, "quick", "synthetic"), runs)

    def test_other_images_are_refused(self, runs):
        for seed in (0, 1):
            path = runs / "quick" / "synthetic" / f"table4-moe-seed{seed}" / "test.csv"
            path.write_text(path.read_text().replace("None-1", "None-2"))
        frame = collect(runs, "quick", "synthetic")
        with pytest.raises(InputError, match="not tested on the same images"):
            summary(frame, errors=image_errors(frame, runs))


def plain_interval(differences, rng, resamples=4000):
    """The pigeonhole bootstrap, a loop."""
    seeds, images = differences.shape
    means = []
    for _ in range(resamples):
        drawn_seeds = rng.integers(seeds, size=seeds)
        drawn_images = rng.integers(images, size=images)
        means.append(np.mean([[differences[s, i] for i in drawn_images] for s in drawn_seeds]))
    return np.quantile(means, [0.025, 0.975])


def noisy(rng, seeds, images, mean=0.0, spreads=(3.0, 15.0, 20.0)):
    """`[seeds, images]` with a spread between seeds, one between images, and one for the rest."""
    shapes = [(seeds, 1), (1, images), (seeds, images)]
    return mean + sum(rng.normal(0, s, shape) for s, shape in zip(spreads, shapes, strict=True))


class TestCompare:
    def test_it_is_the_plain_bootstrap_of_seeds_and_images(self):
        differences = noisy(np.random.default_rng(0), 3, 12)
        low, high = plain_interval(differences, np.random.default_rng(1))
        found = compare(differences)
        assert found["difference"] == pytest.approx(differences.mean())
        assert found["low"] == pytest.approx(low, abs=0.05 * (high - low))
        assert found["high"] == pytest.approx(high, abs=0.05 * (high - low))

    @pytest.mark.parametrize(
        ("shift", "verdict"), [(-40, "better"), (0, "no difference seen"), (40, "worse")]
    )
    def test_verdicts(self, shift, verdict):
        differences = noisy(np.random.default_rng(0), 3, 60, mean=shift)
        assert compare(differences)["verdict"] == verdict

    @pytest.mark.parametrize(
        ("seeds", "images", "verdict"),
        [
            (0, 9, "no common seed"),
            (1, 9, "one seed"),
            (2, 9, "worse"),
            (2, 1, "few seeds"),
            (5, 1, "few seeds"),
            (6, 1, "worse"),
        ],
    )
    def test_how_many_are_needed_to_say_anything(self, seeds, images, verdict):
        found = compare(np.ones((seeds, images)))
        assert (found["pairs"], found["verdict"]) == (seeds, verdict)
        assert np.isnan(found["low"]) == (verdict != "worse")
        assert np.isnan(found["difference"]) == (seeds == 0)

    @given(
        differences=arrays(float, (3, 4), elements=st.integers(-50, 50).map(float)),
        shift=st.integers(-50, 50),
    )
    @settings(max_examples=20)
    def test_it_moves_and_turns_with_the_differences(self, differences, shift):
        found, moved = (compare(d, resamples=99) for d in (differences, shift - differences))
        assert moved["difference"] == pytest.approx(shift - found["difference"])
        assert moved["low"] == pytest.approx(shift - found["high"])
        assert moved["high"] == pytest.approx(shift - found["low"])

    @pytest.mark.slow
    def test_the_interval_holds_the_truth_as_often_as_it_says(self):
        """What the module says of its intervals; 0.95 ± 0.035 are two standard errors here."""
        rng = np.random.default_rng(0)
        for spreads, least, most in (((3, 15, 20), 0.9, 1.0), ((5, 5, 5), 0.7, 0.9)):
            found = [compare(noisy(rng, 3, 60, 0, spreads), resamples=499) for _ in range(200)]
            held = np.mean([each["low"] <= 0 <= each["high"] for each in found])
            assert least <= held <= most
