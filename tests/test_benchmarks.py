"""The benchmarks: plain forms equal hmode's, meters read what is known, goals are judged."""

import ast
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import page, plain, profile, running, scaling, series, work
from benchmarks.cases import CASES, Case, Goal
from benchmarks.limits import Limits, product_rates
from benchmarks.measure import Paired, flops, paired, peak_memory
from benchmarks.ours import our_count, our_inference, our_targets, random_batch, random_network
from hmode import memory
from hmode.density import adaptive_sigma, density_map
from hmode.errors import InputError, MissingFileError
from hmode.losses import total_loss
from hmode.notebooks import Report

PROJECT = Path(__file__).resolve().parents[1]
LIMITS = Limits({"slow": 1e9, "fast": 2e9}, 1e8)


# Plain forms


def heads(number=12, size=(48, 64), margin=0, seed=0):
    rng = np.random.default_rng(seed)
    inner = [side - 2 * margin for side in reversed(size)]
    return (rng.random((number, 2)) * inner + margin).astype(np.float32)


def test_the_plain_sigmas_are_those_of_the_density_maps():
    points = heads(30)
    np.testing.assert_allclose(
        plain.adaptive_sigmas(points), adaptive_sigma(torch.from_numpy(points)), rtol=1e-6
    )


def test_a_filter_per_head_gives_the_density_map_of_heads_away_from_borders():
    points, sigmas = np.floor(heads(margin=20)) + 0.5, np.linspace(1.0, 3.0, 12)
    expected = density_map(points, (48, 64), sigma=torch.from_numpy(sigmas))
    found = plain.filtered(points, (48, 64), sigmas, truncate=6)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.sum() == pytest.approx(12, rel=1e-5)


def test_stamped_windows_give_the_density_map_at_borders_too():
    points, sigmas = heads(), np.linspace(1.0, 3.0, 12)
    expected = density_map(points, (48, 64), sigma=torch.from_numpy(sigmas))
    found = plain.stamped(points, (48, 64), sigmas, truncate=7)
    np.testing.assert_allclose(found, expected, atol=1e-6)


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
    ours = total_loss(prediction, target)
    assert set(ours) == {"density", "relative", "attention", "importance", "total"}
    assert all(value > 0 for value in ours.values())
    other = plain.total_loss(prediction, target)
    torch.testing.assert_close(other, ours["total"], rtol=1e-6, atol=0)
    for found, expected in zip(
        torch.autograd.grad(other, leaves), torch.autograd.grad(ours["total"], leaves), strict=True
    ):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_the_plain_step_has_the_gradients_of_hmodes():
    network = random_network(1 / 16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    work.require_same_gradients(network, random_batch(2, 64))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:precision is 'bf16'")
def test_in_bfloat16_ours_is_as_exact_as_the_plain_step():
    work.require_as_exact(random_network(1 / 16), random_batch(2, 64))


def test_the_plain_forward_pass_counts_what_the_folded_network_counts():
    network = random_network(1 / 16)
    work.trained_norms(network)
    images = random_batch(2, 64).images
    found = our_count(our_inference(network), images)
    torch.testing.assert_close(found, plain.count(network, images), rtol=1e-4, atol=0)


def test_random_crops_hold_their_heads():
    batch = random_batch(4, 32)
    points = batch.points[batch.valid]
    assert (points >= 0).all()
    assert (points < 32).all()
    assert batch.valid.any(dim=1).all()


def test_a_check_refuses_what_differs():
    work.require_close("map", [1.0, 2.0], [1.0, 2.0], 0)
    with pytest.raises(work.Different, match=r"map: relative difference 0\.1, expected 0\.05"):
        work.require_close("map", torch.tensor([1.1, 0.0]), [1.0, 0.0], 0.05)
    with pytest.raises(work.Different):
        work.require_close("map", [float("nan")], [1.0], 0.5)


@pytest.mark.parametrize(
    "prepare", [work.losses, work.inference, lambda cheap: work.stamped_density(500, cheap)]
)
def test_cheap_cases_compare_the_same(prepare):
    prepare(True).check()


# Meters


def test_pairs_are_timed_in_turns_and_compared_one_by_one():
    calls = []
    # Starts and ends of ours and the other, of two pairs: 1 and 3 seconds, then 2 and 4.
    clock = iter([0, 1, 10, 13, 20, 22, 30, 34]).__next__
    times = paired(
        lambda: calls.append("ours"),
        lambda: calls.append("other"),
        repetitions=2,
        warm_up=1,
        scale=10,
        clock=clock,
    )
    assert calls == ["ours", "other"] * 3
    assert times == Paired((1, 2), (30, 40))
    assert times.ratios == [30, 20]
    assert times.ratio == 25


def test_what_keeps_its_memory_is_timed_after_some_calls():
    calls = []
    depths = []

    def ours():
        calls.append("ours")
        depths.append(memory._depth)

    times = paired(
        ours,
        lambda: calls.append("other"),
        repetitions=2,
        warm_up=0,
        steady=(2, 0),
        clock=iter([0, 1, 10, 13, 20, 22, 30, 34]).__next__,
    )
    assert calls == [*["ours"] * 3, "other"] * 2
    assert set(depths) == {1}
    assert times == Paired((1, 2), (3, 4))
    assert memory._depth == 0


def test_the_peak_counts_tensors_alive_at_once():
    first = torch.zeros(10)

    def freed():
        big = torch.empty(1000)
        del big
        torch.empty(500)

    def kept():
        big, small = torch.empty(1000), torch.empty(500, dtype=torch.float64)
        del big, small
        torch.empty(100)

    assert peak_memory(freed) == 4000
    assert peak_memory(kept) == 8000
    assert peak_memory(lambda: first.neg_()) == 0
    assert peak_memory(lambda: first[2:].view(2, 4)) == 0


def test_the_peak_counts_what_a_backward_pass_keeps_and_makes():
    leaf = torch.ones(1000, requires_grad=True)
    assert peak_memory(leaf.exp) == 4000

    def gradient():  # both results, and the gradients of both
        torch.autograd.grad(leaf.exp().exp(), leaf, leaf.detach())

    assert peak_memory(gradient) == 4 * 4000


def test_the_peak_is_the_same_at_every_call_whatever_was_alive_before():
    held = []

    def replace():
        held[:] = [torch.empty(1000)]
        torch.empty(500)

    assert [peak_memory(replace) for _ in range(3)] == [6000] * 3
    replace()
    assert peak_memory(replace) == 6000


def test_operations_of_a_product_are_counted_forward_and_backward():
    left = torch.ones(3, 5, requires_grad=True)
    right = torch.ones(5, 7, requires_grad=True)
    assert flops(lambda: left @ right) == 2 * 3 * 5 * 7
    assert flops(lambda: (left @ right).sum().backward()) == 3 * 2 * 3 * 5 * 7


def test_limits_are_those_of_the_fastest_product_and_of_the_slower_part():
    assert LIMITS.flops == 2e9
    assert LIMITS.least_seconds(4e9, 1e8) == 2
    assert LIMITS.least_seconds(1e9, 3e8) == 3
    rates = product_rates(repetitions=1, sides=(16, 32))
    assert "torch.mm" in rates
    assert all(rate > 0 for rate in rates.values())


# Goals and the command


@pytest.mark.parametrize(
    ("goal", "value", "slack", "holds"),
    [
        (Goal("ratio", least=10), 10, 1, True),
        (Goal("ratio", least=10), 9.9, 1, False),
        (Goal("ratio", least=10), 8, 0.8, True),
        (Goal("ratio", least=10), 7.9, 0.8, False),
        (Goal("seconds", most=0.05), 0.05, 1, True),
        (Goal("seconds", most=0.05), 0.051, 1, False),
        (Goal("seconds", most=0.05), 0.0625, 0.8, True),
        (Goal("seconds", most=0.05), 0.063, 0.8, False),
    ],
)
def test_a_goal_is_a_bound_with_slack(goal, value, slack, holds):
    assert goal.holds(value, slack) == holds


def allocating(floats):
    return lambda: torch.empty(floats)


def fake(name="fake", least=3.0, memory=4.0, check=lambda: None):
    """Ours takes a quarter of the memory, and under `fake_times` a third of the time."""
    product = torch.ones(10, 10)

    def ours():
        return product @ product, torch.empty(900)

    prepared = work.Work(ours, allocating(4000), check, traffic=100, memory=True)
    goals = (Goal("ratio", least=least), Goal("memory ratio", least=memory))
    return Case(name, "a product", "a product", lambda cheap: prepared, goals, goals[:1])


@pytest.fixture
def fake_times(monkeypatch):
    times = Paired((1e-6, 1e-6, 1e-6), (2e-6, 3e-6, 4e-6))
    monkeypatch.setattr(running, "paired", lambda *args, **options: times)
    monkeypatch.setattr(command, "measure_limits", lambda dtype: LIMITS)


@pytest.fixture
def run(fake_times, monkeypatch):
    """Run the command on these cases; returns its exit code and output."""

    def invoke(cases, *arguments):
        monkeypatch.setattr(command, "CASES", cases)
        done = CliRunner().invoke(command.main, arguments)
        return done.exit_code, done.output

    return invoke


def test_a_result_says_what_was_measured(fake_times):
    result = running.run_case(fake(), LIMITS)
    assert result.quantities == pytest.approx({
        "ratio": 3, "seconds": 1e-6, "rate": 2 * 10**3 / 1e-6 / 2e9, "memory ratio": 4,
    })  # fmt: skip
    assert result.share_of_limit == pytest.approx(1.0)  # 2,000 operations at 2e9 a second
    assert result.missed() == []
    (row,) = running.rows([result])
    assert (row["ratio_min"], row["ratio_max"]) == (2, 4)
    assert (row["ours_bytes"], row["other_bytes"]) == (4000, 16000)
    assert row["held"]


def test_check_fails_by_name_where_a_goal_is_missed(run):
    code, output = run([fake("good"), fake("slow", least=3.5), fake("fat", memory=4.5)], "--check")
    assert code == 1
    missed = output.splitlines()[-2:]
    assert missed == ["slow: 3x, goal ≥ 3.5x", "fat: 4x less memory, goal ≥ 4.5x less memory"]


def test_check_passes_where_goals_are_held_with_slack(run):
    assert run([fake()], "--check")[0] == 0
    assert run([fake(least=3.5)], "--check", "--slack", "0.8")[0] == 0
    assert run([fake(least=4)], "--check", "--slack", "0.8")[0] == 1


def test_cheap_judges_the_cheap_goals_of_cases_that_have_some(run):
    code, output = run([fake("fat", memory=9)], "--check", "--cheap")
    assert code == 0
    assert "fat" in output
    assert {case.name for case in CASES if case.cheap_goals} >= {"losses", "inference"}


def test_a_case_that_the_processor_is_not_for_is_left_out_in_words(run, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    low = replace(fake("low", least=9), dtype=torch.bfloat16)
    code, output = run([fake(), low], "--check")
    assert code == 0
    assert "low: left out, this processor has no unit for torch.bfloat16" in output
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert run([fake(), low], "--check")[0] == 1


def test_a_case_whose_forms_differ_is_not_timed(run):
    def check():
        work.require_close("map", [1.0], [2.0], 0)

    code, output = run([fake(check=check)], "--check")
    assert code == 1
    assert "fake: map: relative difference 0.5" in output


def test_an_output_without_a_page_is_refused_before_anything_is_measured(run, tmp_path):
    code, output = run([fake()], "--output", str(tmp_path))
    assert code == 1
    assert "no such page" in output
    assert "fake" not in output


# Curves, profile, page


def test_a_power_law_has_its_exponent():
    sizes = [1, 2, 4, 8]
    exact = scaling.fit_power(sizes, [3 * size**1.5 for size in sizes])
    assert exact.exponent == pytest.approx(1.5)
    assert exact.error == pytest.approx(0, abs=1e-6)
    # Off by factors of two up and down: the slope stays, and its error is known by hand.
    noisy = scaling.fit_power([1, 2, 4], [2, 1, 2])
    assert noisy.exponent == pytest.approx(0)
    assert noisy.error == pytest.approx(np.sqrt((6 / 9) / (3 - 2) / 2), rel=1e-6)


def test_a_curve_has_a_row_for_each_size():
    curve = scaling.Curve(
        "floats", "an array", "floats", (100, 200, 400), lambda n: (allocating(n), n)
    )
    rows = list(scaling.measure_curve(curve, repetitions=2))
    assert [row["size"] for row in rows] == [100, 200, 400]
    assert [row["bytes"] for row in rows] == [400, 800, 1600]
    assert [row["parameters"] for row in rows] == [100, 200, 400]
    assert all(0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"] for row in rows)
    assert scaling.fits(rows)["bytes"].exponent == pytest.approx(1)


def test_every_curve_prepares_a_call():
    scaling.density(5, 32, 48)[0]()
    assert scaling.forward(64, width=1 / 16)[0]().shape == (1,)
    call, params = scaling.step(1, 64, width=1 / 16, experts=4)
    losses, _ = call()
    assert losses["total"] > 0
    assert params == sum(p.numel() for p in random_network(1 / 16, experts=4).parameters())


def marked_loss(x):
    return (x**2).sum()


def test_time_is_told_apart_by_kind_and_not_counted_twice():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
    )
    images = torch.randn(2, 3, 32, 32)

    def call():
        marked_loss(network(images)).backward()

    seconds = profile.seconds_by_kind(call, {"losses": (f"{__name__}.marked_loss",)})
    assert set(seconds) == {
        "convolution", "batch norm", "ReLU and other elementwise", "pooling", "losses",
        profile.OTHER,
    }  # fmt: skip
    assert all(value > 0 for value in seconds.values())


class Event:
    """As torch's profiler tells of an operation."""

    def __init__(self, name, microseconds=0.0, around=None, sequence=-1):
        self.name, self.self_cpu_time_total = name, microseconds
        self.cpu_parent, self.sequence_nr = around, sequence


def test_the_backward_pass_belongs_to_the_part_of_its_forward_pass():
    call = Event("call", 1e6)
    part = Event("part: losses", 2e6, call)
    backward = Event("autograd::engine::evaluate_function: PowBackward0", 8e6, sequence=7)
    other = Event("autograd::engine::evaluate_function: MulBackward0", 32e6, sequence=6)
    optimiser = Event("Optimizer.step#Adam.step", 128e6, call)
    events = [
        call,
        part,
        Event("aten::pow", 4e6, part, sequence=7),
        backward,
        Event("aten::mul", 16e6, backward),
        other,
        Event("aten::mul", 64e6, other, sequence=6),
        optimiser,
        Event("aten::add_", 256e6, optimiser),
    ]
    assert profile.sum_up(events) == {
        profile.OTHER: 1,
        "losses": 2 + 4 + 8 + 16,
        "ReLU and other elementwise": 32 + 64,
        "optimiser": 128 + 256,
    }


def test_the_profiled_parts_are_there_and_take_time():
    step = profile.profile_step("smoke", batch_size=2, crop=64)
    assert {"data", "targets", "losses", "convolution", "optimiser", "batch norm"} <= set(step)
    before = profile.profile_step("smoke", batch_size=2, crop=64, plainly=True)
    assert {"data", "targets", "losses", "convolution", "optimiser", "batch norm"} <= set(before)
    assert {"convolution", "batch norm"} <= set(profile.profile_evaluation("smoke", plainly=True))
    evaluation = profile.profile_evaluation("smoke")
    assert "batch norm" not in evaluation
    assert set(profile.EVALUATION_PARTS) - {profile.WINOGRAD} <= set(evaluation)
    rows = profile.rows({"step": step, "evaluation": evaluation})
    for name in ("step", "evaluation"):
        assert sum(row[name] for row in rows[:-1]) == pytest.approx(1)
    assert rows[-1]["kind"] == "seconds"


# The series


def notebook(name, seconds):
    return {"notebook": name} | dict.fromkeys(series.COLUMNS, seconds)


def test_a_notebooks_time_is_told_apart(tmp_path, monkeypatch):
    """A runner that trains in the second notebook only; papermill's notes of each cell."""
    for name in ("01-one.ipynb", "02-two.ipynb"):
        cells = [nbformat.v4.new_code_cell("1") for _ in range(2)]
        for cell in cells:
            cell.metadata["papermill"] = {"duration": 5.0}
        cells.append(nbformat.v4.new_markdown_cell("no code"))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / name)

    def reproduce(*, profile, output, notebooks, only, say):
        if only == ["02-two.ipynb"]:
            run = Path(output, "runs", profile, "synthetic", "hmode-seed0")
            run.mkdir(parents=True)
            (run / "timing.csv").write_text("epoch,seconds,peak\n1,1.5,\n2,2.5,\n")
        return [Report(only[0], 12.0, Path(notebooks, only[0]), [])]

    monkeypatch.setattr(series, "reproduce", reproduce)
    one, two = series.measure_series(notebooks=tmp_path)
    assert one == {
        "notebook": "01-one.ipynb", "seconds": 12, "training": 0, "other cells": 10,
        "start and end": 2,
    }  # fmt: skip
    assert two == one | {"notebook": "02-two.ipynb", "training": 4, "other cells": 6}
    assert series.total([one, two])["other cells"] == 16


@pytest.mark.parametrize(("seconds", "slack", "code"), [(700, 1, 0), (800, 1, 1), (800, 0.5, 0)])
def test_the_series_is_held_to_its_goal(run, monkeypatch, seconds, slack, code):
    rows = [notebook("01-one", seconds / 2), notebook("02-two", seconds / 2)]
    monkeypatch.setitem(command.PARTS, "series", lambda: iter(rows))
    found, output = run([fake()], "--check", "--slack", str(slack), "series")
    assert found == code
    assert "01-one" in output
    assert "fake" not in output


PARTS = ("cases", *page.TABLES)
PAGE = "\n".join(
    ["# A page"] + [f"about\n<!-- {name} -->\nold\n<!-- /{name} -->" for name in PARTS]
)


def test_only_what_is_between_the_markers_of_that_name_changes():
    once = page.filled(PAGE, "scaling", "| new \\1 |\n")
    assert once == PAGE.replace("<!-- scaling -->\nold\n", "<!-- scaling -->\n| new \\1 |\n")
    assert page.filled(once, "scaling", "| new \\1 |") == once


@pytest.mark.parametrize("text", ["", "<!-- scaling -->", PAGE + PAGE])
def test_markers_must_be_there_once(text):
    with pytest.raises(InputError, match="expected once"):
        page.filled(text, "scaling", "new")


def test_a_run_fills_the_page_and_leaves_its_numbers(fake_times, tmp_path):
    (tmp_path / "benchmarks.md").write_text(PAGE)
    one, two = (running.run_case(fake(name), LIMITS) for name in ("one", "two"))
    curve = scaling.Curve(
        "floats", "an array", "floats", (1, 2, 4), lambda n: (allocating(n), None)
    )
    measured = list(scaling.measure_curve(curve))
    shares = profile.rows({"step": profile.Counter({"convolution": 3.0, "data": 1.0})})
    written = page.Page(tmp_path)
    for _ in range(2):  # the second run replaces the first
        written.write_cases([one, two])
        written.write("scaling", measured)
        written.write("profile", shares)
        written.write("series", [notebook("one", 60.0), notebook("two", 40)])
    text = (tmp_path / "benchmarks.md").read_text()
    assert "old" not in text
    assert text.count("(`one`)") == text.count("Limits:") == 1
    assert "3 [2–4]; memory 4x" in text
    assert "| convolution | 75.0% |" in text
    assert "| **all** (goal ≤ 720) | **100** |" in text
    assert "one,60.0," in (tmp_path / "benchmarks" / "series.csv").read_text()
    assert {path.name for path in (tmp_path / "benchmarks").iterdir()} == {
        "cases.csv", "scaling.csv", "profile.csv", "series.csv",
    }  # fmt: skip


def test_cases_keep_what_another_machine_measured(fake_times, tmp_path):
    (tmp_path / "benchmarks.md").write_text(PAGE)
    written = page.Page(tmp_path)
    written.write_cases([running.run_case(fake(name), LIMITS) for name in ("one", "two")])
    faster = replace(LIMITS, products={"mm": 8e9}, dtype="bfloat16")
    written.write_cases([running.run_case(fake("two"), faster)])
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.count("(`one`)") == text.count("(`two`)") == 1
    for about in ("float32 matrix product slow 1 GFLOP/s, fast 2", "bfloat16 matrix product mm 8"):
        assert text.count(about) == 1


def test_a_folder_without_a_page_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match=r"benchmarks\.md"):
        page.Page(tmp_path)


def test_the_page_in_the_docs_has_every_case_with_its_goals():
    text = (PROJECT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in PARTS:
        page.filled(text, name, "")
    lines = text.splitlines()
    for case in CASES:
        (line,) = [line for line in lines if f"(`{case.name}`)" in line]
        assert ", ".join(map(str, case.goals)) in line


def test_numbers_are_written_to_three_digits():
    assert page.duration(0.0123) == "12.3 ms"
    assert page.duration(2.5e-6) == "2.5 µs"
    assert page.duration(1234.5) == "1,234 s"
    assert page.size(3 * 2**20) == "3 MiB"
    assert page.size(3 * 2**30) == "3 GiB"


def test_hmode_imports_no_benchmark():
    for path in (PROJECT / "hmode").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.split(".")[0] == "benchmarks" for name in names), path
