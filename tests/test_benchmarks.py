"""The benchmarks: plain forms equal hmode's, meters read what is known, goals are judged."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import gpu, page, plain, running, scaling, series, work
from benchmarks.cases import CASES, Case, holds, worded
from benchmarks.limits import Limits
from benchmarks.measure import Paired, flops, paired, peak_memory
from benchmarks.ours import our_count, our_inference, our_targets, random_batch, random_network
from hmode.density import adaptive_sigma, density_map
from hmode.errors import InputError, MissingFileError
from hmode.losses import total_loss

PROJECT = Path(__file__).resolve().parents[1]
LIMITS = Limits({"slow": 1e9, "fast": 2e9}, 1e8)


# Plain forms


@pytest.mark.parametrize("form", ["filtered", "stamped"])
def test_density_maps_head_by_head(form):
    """Filters of heads at pixel centres away from borders; stamps anywhere."""
    points = np.random.default_rng(0).random((12, 2)) * (64, 48)
    if form == "filtered":
        points = np.floor(points * (24 / 64, 8 / 48) + 20) + 0.5
    points, sigmas = points.astype(np.float32), np.linspace(1.0, 3.0, 12)
    expected = density_map(points, (48, 64), sigma=torch.from_numpy(sigmas))
    found = getattr(plain, form)(points, (48, 64), sigmas, truncate=7)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(
        plain.adaptive_sigmas(points), adaptive_sigma(torch.from_numpy(points)), rtol=1e-6
    )


def test_a_loop_over_heads_gives_the_targets_of_padded_crops():
    batch = random_batch(5, 64, seed=3)
    assert len({int(valid.sum()) for valid in batch.valid}) > 1
    torch.testing.assert_close(our_targets(batch), plain.targets(batch), rtol=1e-4, atol=1e-8)
    sums = plain.targets(batch).sum(dim=(1, 2, 3))
    torch.testing.assert_close(sums, batch.valid.sum(dim=1).float())


def test_the_plain_losses_have_the_value_and_the_gradient_of_hmodes():
    leaves = [leaf.detach().double().requires_grad_() for leaf in work.random_maps(3, 16)]
    target = our_targets(random_batch(3, 64)).double()
    prediction = work.prediction_of(leaves, 64)
    ours, other = total_loss(prediction, target), plain.total_loss(prediction, target)
    assert all(value > 0 for value in ours.values())
    torch.testing.assert_close(other, ours["total"], rtol=1e-6, atol=0)
    gradients = (torch.autograd.grad(each, leaves) for each in (other, ours["total"]))
    for found, expected in zip(*gradients, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_the_plain_step_has_the_gradients_of_hmodes():
    work.require_same_gradients(random_network(1 / 16), random_batch(2, 64))


def test_the_plain_forward_pass_counts_what_the_folded_network_counts():
    network = random_network(1 / 16)
    work.trained_norms(network)
    images = random_batch(2, 64).images
    found = our_count(our_inference(network), images)
    torch.testing.assert_close(found, plain.count(network, images), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "prepare", [work.losses, work.inference, lambda cheap: work.stamped_density(500, cheap)]
)
def test_cheap_cases_compare_the_same(prepare):
    prepare(True).check()


# Meters


@pytest.mark.parametrize("steady", [0, 2])
def test_pairs_are_timed_in_turns_and_compared_one_by_one(steady):
    calls = []
    # Starts and ends of ours and the other, of two pairs: 1 and 3 seconds, then 2 and 4.
    clock = iter([0, 1, 10, 13, 20, 22, 30, 34]).__next__
    pair = (lambda: calls.append("ours"), lambda: calls.append("other"))
    options = {"repetitions": 2, "scale": 10, "steady": (steady, 0), "clock": clock}
    times = paired(*pair, warm_up=1, **options)
    assert calls == ["ours", "other", *(["ours"] * (1 + steady) + ["other"]) * 2]
    assert times == Paired((1, 2), (30, 40))
    assert times.ratios == [30, 20]
    assert times.ratio == 25


def test_the_peak_counts_tensors_alive_at_once_the_same_at_every_call():
    held, leaf = [], torch.ones(1000, requires_grad=True)

    def freed():
        big = torch.empty(1000)
        del big
        torch.empty(500)

    def kept():
        big, small = torch.empty(1000), torch.empty(500, dtype=torch.float64)
        del big, small
        torch.empty(100)

    def replaced():
        held[:] = [torch.empty(1000)]
        torch.empty(500)

    def gradient():  # both results, and the gradients of both
        torch.autograd.grad(leaf.exp().exp(), leaf, leaf.detach())

    first = torch.zeros(10)
    for call, peak in (
        (freed, 4000),
        (kept, 8000),
        (replaced, 6000),
        (gradient, 16000),
        (lambda: first.neg_(), 0),
        (lambda: first[2:].view(2, 4), 0),
    ):
        assert [peak_memory(call) for _ in range(2)] == [peak] * 2


def test_operations_of_a_product_are_counted_forward_and_backward():
    left = torch.ones(3, 5, requires_grad=True)
    right = torch.ones(5, 7, requires_grad=True)
    assert flops(lambda: left @ right) == 2 * 3 * 5 * 7
    assert flops(lambda: (left @ right).sum().backward()) == 3 * 2 * 3 * 5 * 7


# Goals and the command


def test_a_goal_is_a_bound_with_slack():
    for name, bound, kept in (
        ("ratio", 10, (10, 9.9, 8)),
        ("seconds", 0.05, (0.05, 0.051, 0.0625)),
    ):
        assert [holds(name, bound, value) for value in kept] == [True, False, False]
        assert holds(name, bound, kept[-1], slack=0.8)


def allocating(floats):
    return lambda: torch.empty(floats)


def fake(name="fake", least=3.0, memory=4.0, check=lambda: None):
    """Ours takes a quarter of the memory, and under `run` a third of the time."""
    product = torch.ones(10, 10)

    def ours():
        return product @ product, torch.empty(900)

    prepared = work.Work(ours, allocating(4000), check, traffic=100, memory=True)
    goals = {"ratio": least, "memory ratio": memory}
    cheap_goals = {"ratio": least}
    return Case(name, "a product", "a product", lambda cheap: prepared, goals, cheap_goals)


@pytest.fixture
def run(monkeypatch):
    """Run the command on these cases; returns its exit code and output."""
    times = Paired((1e-6, 1e-6, 1e-6), (2e-6, 3e-6, 4e-6))
    monkeypatch.setattr(running, "paired", lambda *args, **options: times)
    monkeypatch.setattr(command, "measure_limits", lambda: LIMITS)

    def invoke(cases, *arguments):
        monkeypatch.setattr(command, "CASES", cases)
        done = CliRunner().invoke(command.main, arguments)
        return done.exit_code, done.output

    return invoke


def test_a_result_says_what_was_measured(run):
    row = running.run_case(fake(), LIMITS)
    assert (row["ratio_min"], row["ratio"], row["ratio_max"]) == (2, 3, 4)
    assert (row["ours_bytes"], row["other_bytes"]) == (4000, 16000)
    assert row["share_of_limit"] == pytest.approx(1.0)  # 2,000 operations at 2e9 a second
    assert (row["goals"], row["held"]) == ("≥ 3x; ≥ 4x less memory", True)


def test_check_fails_by_name_where_a_goal_is_missed(run):
    cases = [fake("good"), fake("slow", least=3.5), fake("fat", memory=4.5)]
    code, output = run(cases, "--check")
    assert code == 1
    missed = output.splitlines()[-2:]
    assert missed == ["slow: 3x, goal ≥ 3.5x", "fat: 4x less memory, goal ≥ 4.5x less memory"]
    assert run(cases, "--check", "--slack", "0.8")[0] == 0
    assert run(cases[::2], "--check", "--cheap")[0] == 0  # whose goals are cheap ones


def test_a_case_whose_forms_differ_is_not_timed(run):
    code, output = run([fake(check=lambda: work.require_close("map", [1.0], [2.0], 0))], "--check")
    assert code == 1
    assert "fake: map: relative difference 0.5" in output


def test_an_output_without_a_page_is_refused_before_anything_is_measured(run, tmp_path):
    code, output = run([fake()], "--output", str(tmp_path))
    assert code == 1
    assert "no such page" in output
    assert "fake" not in output
    with pytest.raises(MissingFileError, match=r"benchmarks\.md"):
        page.Page(tmp_path)


# Curves, series


def test_a_power_law_has_its_exponent():
    exact = scaling.fit_power([1, 2, 4, 8], [3 * size**1.5 for size in (1, 2, 4, 8)])
    assert exact.exponent == pytest.approx(1.5)
    assert exact.error == pytest.approx(0, abs=1e-6)
    # Off by factors of two up and down: the slope stays, and its error is known by hand.
    noisy = scaling.fit_power([1, 2, 4], [2, 1, 2])
    assert noisy.exponent == pytest.approx(0)
    assert noisy.error == pytest.approx(np.sqrt((6 / 9) / (3 - 2) / 2), rel=1e-6)


CURVE = scaling.Curve(
    "floats", "an array", "floats", (100, 200, 400), lambda n: (allocating(n), n * 10**6)
)


def test_a_curve_has_a_row_for_each_size():
    rows = list(scaling.measure_curve(CURVE, repetitions=2))
    assert [row["size"] for row in rows] == [100, 200, 400]
    assert [row["bytes"] for row in rows] == [400, 800, 1600]
    assert scaling.fits(rows)["bytes"].exponent == pytest.approx(1)


def test_every_curve_prepares_a_call():
    scaling.density(5, 32, 48)[0]()
    assert scaling.forward(64, width=1 / 16)[0]().shape == (1,)
    call, params = scaling.step(1, 64, width=1 / 16, experts=4)
    assert call()[0]["total"] > 0
    assert params == sum(p.numel() for p in random_network(1 / 16, experts=4).parameters())


def test_the_series_is_held_to_its_goal(run, monkeypatch):
    rows = [{"notebook": "01-one"} | dict.fromkeys(series.COLUMNS, 800)]
    monkeypatch.setitem(command.PARTS, "series", lambda: iter(rows))
    for slack, code in (("1", 1), ("0.5", 0)):
        found, output = run([fake()], "--check", "--slack", slack, "series")
        assert (found, "01-one" in output, "fake" in output) == (code, True, False)


# The page


PARTS = ("cases", *page.TABLES)
PAGE = "\n".join(
    ["# A page"] + [f"about\n<!-- {name} -->\nold\n<!-- /{name} -->" for name in PARTS]
)


def test_only_what_is_between_the_markers_of_that_name_changes():
    once = page.filled(PAGE, "scaling", "| new \\1 |\n")
    assert once == PAGE.replace("<!-- scaling -->\nold\n", "<!-- scaling -->\n| new \\1 |\n")
    assert page.filled(once, "scaling", "| new \\1 |") == once
    for text in ("", "<!-- scaling -->", PAGE + PAGE):
        with pytest.raises(InputError, match="expected once"):
            page.filled(text, "scaling", "new")


def test_a_run_fills_the_page_and_keeps_what_another_machine_measured(run, tmp_path):
    (tmp_path / "benchmarks.md").write_text(PAGE)
    one, two = (running.run_case(fake(name), LIMITS) for name in ("one", "two"))
    written = page.Page(tmp_path)
    for _ in range(2):  # the second run replaces the first
        written.write_cases([one, two])
        written.write("scaling", list(scaling.measure_curve(CURVE)))
        written.write("series", [{"notebook": "one"} | dict.fromkeys(series.COLUMNS, 60.0)])
    faster = replace(LIMITS, products={"mm": 8e9})
    written.write_cases([running.run_case(fake("two"), faster)])
    text = (tmp_path / "benchmarks.md").read_text()
    assert "old" not in text
    for once in (
        *("(`one`)", "(`two`)", "float32 matrix product slow 1 GFLOP/s, fast 2"),
        "float32 matrix product mm 8",
        *("| **all** (goal ≤ 720) | **60** |", "100.0 M, 200.0 M, 400.0 M"),
    ):
        assert text.count(once) == 1, once
    assert "3 [2–4]; memory 4x" in text
    assert "one,60.0," in (tmp_path / "benchmarks" / "series.csv").read_text()


def test_the_page_in_the_docs_has_every_case_with_its_goals():
    text = (PROJECT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in PARTS:
        page.filled(text, name, "")
    lines = text.splitlines()
    for case in CASES:
        (line,) = [line for line in lines if f"(`{case.name}`)" in line]
        assert ", ".join(worded(case.goals)) in line


def test_hmode_imports_no_benchmark():
    sources = (path.read_text() for path in (PROJECT / "hmode").rglob("*.py"))
    assert not any(re.search(r"^\s*(from|import) benchmarks\b", s, re.MULTILINE) for s in sources)


# What is measured on a GPU, at a toy size on the CPU


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Run the command on some parts; returns its exit code, output and table."""
    monkeypatch.setattr(gpu, "product_rates", lambda *_: {"mm": 1e12})
    monkeypatch.setattr(gpu, "copy_bandwidth", lambda *_: 1e9)

    def invoke(parts):
        monkeypatch.setattr(gpu, "PARTS", parts)
        done = CliRunner().invoke(gpu.main, ["--tiny", "--output", str(tmp_path)])
        with open(tmp_path / "gpu.csv", newline="") as file:
            return done.exit_code, done.output, list(csv.DictReader(file))

    return invoke


@pytest.mark.slow
def test_every_part_measures_something(tiny):
    code, output, rows = tiny(gpu.PARTS)
    assert code == 0, output
    by_name = {row["name"]: row for row in rows}
    assert len(by_name) == len(rows)
    assert all(float(row["value"]) >= 0 for row in rows)
    for start in ("limit", "step", "captured", "plain", "memory", "targets", "training", "count"):
        assert any(name.startswith(start) for name in by_name), start
    assert by_name["captured against eager, float32: largest difference"]["held"] == "True"
    assert by_name["count, ours / plain - 1"]["held"] == "True"


def test_a_part_that_fails_is_said_and_takes_no_other_with_it(tiny):
    def broken(sizes, found):
        raise RuntimeError("no such kernel")

    def after(sizes, found):
        found.add("fast", 10, "x", least=3)
        found.add("large", 0.6, "", most=0.5)
        found.add("free", 1, "")

    code, output, rows = tiny((broken, after))
    assert code == 1
    assert "no such kernel" in output
    assert [row["held"] for row in rows] == ["True", "False", ""]
