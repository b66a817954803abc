"""The paper's tables with our runs beside them, and its claims: on runs made up by hand."""

import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from helpers import IMAGES, pretend

from hmode.cli import main
from hmode.errors import InputError, MissingFileError, OutputError
from hmode.experiments import canonical, rows
from hmode.plots import dot_table
from hmode.results.tables import (
    DEFAULTS,
    aggregate,
    check_claims,
    stored,
    table,
)


@pytest.fixture
def runs(tmp_path):
    """Three seeds of each: HMoDE errs less than the baseline, MoE as HMoDE, concat more."""
    rng = np.random.default_rng(3)
    common = rng.uniform(20, 40, IMAGES)
    for seed in range(3):
        for experiment, shift in (
            ("baseline", 5.0),
            ("hmode", 0.0),
            ("table4/moe", 0.0),
            ("table4/concat", 8.0),
        ):
            noise = rng.normal(0, 0.5, IMAGES)
            pretend(tmp_path / "runs", experiment, seed, np.abs(common + shift + noise))
    return tmp_path / "runs"


@pytest.fixture
def folder(runs, tmp_path):
    aggregate(runs, "small", "synthetic", tmp_path / "figures")
    return tmp_path / "figures"


def test_ours_stand_beside_the_paper_s(folder):
    lines = stored(folder, "tables")
    four = lines[lines["table"] == "table4"].set_index("row")
    assert list(four.index) == rows("table4")
    assert list(four["experiment"]) == [canonical(row) for row in rows("table4")]
    assert four.loc["table4/moe", "paper_sha_mae"] == 61.4  # Table IV
    assert four.loc["table4/average", "paper_shb_mse"] == 12.7
    assert four.loc["table4/average", "title"] == "Average"
    moe = four.loc["table4/moe"]
    assert moe["seeds"] == 3
    assert moe["low"] < 0 < moe["high"]
    assert moe["verdict"] == "no difference seen"
    assert four.loc["table4/concat", "verdict"] == "worse"
    assert four.loc["table4/concat", "difference"] == pytest.approx(8, abs=0.3)
    assert four.loc["table4/hmode", "verdict"] == "default"
    assert np.isnan(four.loc["table4/iw", "mae"])  # not run
    assert four.loc["table4/iw", "paper_sha_mae"] == 60.4


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ("hmode", "baseline", "held"),
        ("table4/moe", "table4/concat", "held"),
        ("table4/concat", "table4/average", "the opposite"),
        ("table4/hmode", "table4/moe", "no difference seen"),
        ("table4/hmode", "table4/iw", "not run"),
    ],
)
def test_a_claim_s_outcome(folder, first, second, outcome):
    found = stored(folder, "claims")
    chosen = found[(found["first"] == first) & (found["second"] == second)]
    assert list(chosen["outcome"]) == [outcome]


def test_a_claim_of_no_gain_holds_where_no_difference_is_seen(tmp_path):
    rng = np.random.default_rng(0)
    common = rng.uniform(20, 40, IMAGES)
    for seed in range(3):
        for name, shift in (("hmode", 0.0), ("table5/conv4", 0.0), ("table5/conv6", -6.0)):
            errors = np.abs(common + shift + rng.normal(0, 0.5, IMAGES))
            pretend(tmp_path / "runs", name, seed, errors)
    aggregate(tmp_path / "runs", "small", "synthetic", tmp_path / "out")
    found = stored(tmp_path / "out", "claims").set_index(["first", "second"])["outcome"]
    assert found["table5/conv2", "table5/conv4"] == "held"
    assert found["table5/conv2", "table5/conv6"] == "did not hold"


def test_nothing_is_said_of_one_seed(tmp_path):
    for name, shift in (("hmode", 0.0), ("baseline", 9.0)):
        pretend(tmp_path / "runs", name, 0, np.full(IMAGES, 10 + shift))
    aggregate(tmp_path / "runs", "small", "synthetic", tmp_path / "out")
    found = stored(tmp_path / "out", "claims").set_index(["first", "second"])["outcome"]
    assert found["hmode", "baseline"] == "one seed"
    again = check_claims(stored(tmp_path / "out", "runs"))  # without the images
    assert set(again["outcome"]) == {"one seed", "not run"}


def test_every_row_of_every_table_is_there_though_none_was_run(tmp_path):
    """Also where so few were run that nothing could be compared."""
    pretend(tmp_path / "runs", "baseline", 0, np.full(IMAGES, 20.0), torch="2.15")
    aggregate(tmp_path / "runs", "small", "synthetic", tmp_path / "out")
    lines = stored(tmp_path / "out", "tables")
    for name in DEFAULTS:
        mine = lines[lines["table"] == name]
        assert list(mine["row"]) == rows(name)
        for column in ("mae", "mae_sd", "seeds", "difference", "low", "high"):
            assert column in mine
        figure = dot_table({"small/synthetic": mine})
        missing = sum(text.get_text() == "not run" for text in figure.axes[-2].texts)
        assert missing == mine["mae"].isna().sum()
    outcomes = stored(tmp_path / "out", "claims")
    assert set(outcomes["outcome"]) == {"not run"}
    assert outcomes["low"].isna().all()


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"tables\.csv: no stored results"):
        stored(tmp_path, "tables")
    with pytest.raises(MissingFileError, match="no finished runs"):
        aggregate(tmp_path / "runs", "small", "synthetic", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="table is 'table99'"):
        table("table99", pd.DataFrame())


class TestNothingIsShortened:
    def files(self, folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def test_stored_runs_that_are_not_here_are_kept(self, folder, runs, tmp_path):
        before = self.files(folder)
        shutil.rmtree(runs / "small" / "synthetic" / "baseline-seed0")
        with pytest.raises(InputError, match=r"runs\.csv: has 1 runs that are not in .*--to"):
            aggregate(runs, "small", "synthetic", folder)
        assert self.files(folder) == before

    def test_the_command_writes_elsewhere_and_says_so(self, runs, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        stored_ones = tmp_path / "figures" / "small" / "synthetic"
        assert CliRunner().invoke(main, ["tables"]).exit_code == 0
        before = self.files(stored_ones)
        shutil.rmtree(runs / "small" / "synthetic" / "baseline-seed0")
        result = CliRunner().invoke(main, ["tables"])
        assert result.exit_code == 0, result.output
        assert "figures/small/synthetic is kept: 1 of its runs are not in runs" in result.output
        assert self.files(stored_ones) == before
        assert len(stored("runs/small/synthetic", "runs")) == 11
        refused = CliRunner().invoke(main, ["tables", "--to", str(stored_ones)])
        assert refused.exit_code == 2
        assert self.files(stored_ones) == before

    def test_more_runs_replace_fewer(self, folder, runs):
        pretend(runs, "hmode", 3, np.full(IMAGES, 20.0))
        aggregate(runs, "small", "synthetic", folder)
        assert len(stored(folder, "runs")) == 13

    def test_a_table_of_somebody_else_is_kept(self, runs, tmp_path):
        mine = tmp_path / "mine"
        mine.mkdir()
        (mine / "claims.csv").write_text("what I claim;by whom\n")
        with pytest.raises(InputError, match=r"claims\.csv: is there and is no table of ours"):
            aggregate(runs, "small", "synthetic", mine)
        assert self.files(mine) == {"claims.csv": b"what I claim;by whom\n"}

    def test_a_place_that_cannot_be_written(self, runs, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match="file/x: cannot be written"):
            aggregate(runs, "small", "synthetic", tmp_path / "file" / "x")


def test_tables_to_read_have_the_seeds_of_each_row(runs, tmp_path):
    aggregate(runs, "small", "synthetic", tmp_path / "tables")
    mine = stored(tmp_path / "tables", "tables").query("table == 'table4'")
    lines = mine.set_index("row")["by_seed"]
    assert (len(lines["table4/hmode"]), len(lines["table4/iw"])) == (3, 0)
