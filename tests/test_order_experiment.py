"""The experiments on REL and the order of regions, and on gates and the size of heads."""

import csv

from click.testing import CliRunner

from hmode import cli
from hmode.experiments import gates, order


def test_a_row_for_each_training_and_none_trained_twice(tmp_path):
    args = ["--profile", "smoke", "--seeds", "1", "--device", "cpu", "--output", str(tmp_path)]
    first = CliRunner().invoke(order.main, args, catch_exceptions=False)
    path = tmp_path / "smoke" / "order" / "order.csv"
    rows = list(csv.DictReader(path.open(newline="")))
    assert [row["experiment"] for row in rows] == ["hmode", "hmode+rel"]
    for row in rows:
        assert 0 <= float(row["wrong"]) <= int(row["pairs"])
        assert 0 <= int(row["hard_pairs"]) <= int(row["pairs"])
    assert rows[0]["pairs"] == rows[1]["pairs"]
    gradients = list(csv.DictReader(path.with_name("gradients.csv").open(newline="")))
    assert {row["moment"] for row in gradients} == {"start", "middle", "end"}
    assert all(float(row["norm"]) > 0 for row in gradients)
    for row in gradients:  # the attention loss does not depend on gating net 1
        assert (float(row["gate_norm"]) > 0) == (row["term"] != "attention")
    start = [
        [row["norm"] for row in gradients if (row["moment"], row["experiment"]) == ("start", name)]
        for name in ("hmode", "hmode+rel")
    ]
    assert start[0] == start[1]  # the same weights and batches, REL looked at in both
    assert len(first.output.splitlines()) == 2
    assert CliRunner().invoke(order.main, args).output == ""


def test_gates_of_finished_runs_by_the_size_of_heads(tmp_path):
    options = ["--profile", "smoke", "--dataset", "scales"]
    for name in ("hmode", "baseline"):
        args = ["train", name, *options, "--device", "cpu", "--runs", str(tmp_path / "runs")]
        assert CliRunner().invoke(cli.main, args).exit_code == 0
    args = [*options, "--runs", str(tmp_path / "runs"), "--output", str(tmp_path)]
    CliRunner().invoke(gates.main, args, catch_exceptions=False)
    folder = tmp_path / "smoke" / "scales"
    rows = list(csv.DictReader((folder / "sizes.csv").open(newline="")))
    assert [(row["experiment"], row["size"]) for row in rows] == [
        ("hmode", size) for size in ("small", "middle", "large")
    ]
    for row in rows:
        assert abs(sum(float(row[f"E{k}"]) for k in (1, 2, 3)) - 1) < 1e-6
    assert len(list(csv.DictReader((folder / "gates.csv").open(newline="")))) == 4
