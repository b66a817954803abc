"""The losses against the equations, on full-size maps, one image and one map at a time; DM-Count's
against plain Sinkhorn and sums by hand; and their total (eq. 7)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    OFFICIAL_WEIGHTS,
    assert_same_as_repeated,
    fine,
    images,
    narrow,
    refusal,
    uniform,
    value_and_gradient,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import relative_loss_by_loops, repeat
from scipy.special import logsumexp

from hmode import (
    LossSettings,
    Prediction,
    attention_loss,
    density_loss,
    density_map,
    importance_loss,
    relative_count_loss,
    total_loss,
)
from hmode.analysis import gradient_norms
from hmode.errors import InputError
from hmode.losses import (
    SETTINGS,
    count_loss,
    local_count_loss,
    loss_settings,
    nested_count_loss,
    ranking_loss,
    transport_loss,
    variation_loss,
)

# All are computed on the coarse grid of the maps

MAPS, REGIONS = {"output_weights": OFFICIAL_WEIGHTS}, {"regions": 9}


@pytest.mark.parametrize(
    ("loss", "grid", "side", "options"),
    [
        (density_loss, (4, 6), 1, {}),
        (density_loss, (4, 6), 2, MAPS | {"reduction": "sum"}),
        (density_loss, (4, 6), 8, MAPS),
        (attention_loss, (4, 6), 1, {"threshold": 0.5}),
        (attention_loss, (4, 6), 4, {"threshold": 0.5, "reduction": "sum"}),
        (relative_count_loss, (16, 16), 4, REGIONS),
        (relative_count_loss, (16, 32), 2, REGIONS | MAPS | {"form": "official"}),
        # regions finer than the cells of the map
        (relative_count_loss, (16, 32), 4, REGIONS | MAPS | {"cells": 64}),
        # regions across cells
        (relative_count_loss, (6, 10), 2, REGIONS | {"cells": 4, "form": "official"}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_of_a_coarse_map_is_that_of_the_repeated_map(loss, grid, side, options, dtype):
    maps = 1 if loss is attention_loss else 7
    pred = 0.05 + 0.9 * uniform(3, maps, *grid, dtype=dtype)
    target = fine(3, 1, grid[0] * side, grid[1] * side, dtype=dtype)
    assert_same_as_repeated(lambda p: loss(p, target, **options), pred, side)


# Density loss (eq. 3)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("batch", [1, 4])
def test_density_loss_is_eq_3_summed_over_maps_and_averaged_over_images(reduction, batch):
    pred, target = uniform(batch, 7, 5, 3), fine(batch, 1, 20, 12)
    full = repeat(pred, 4).numpy()
    expected = 0.0
    for b in range(batch):
        for c in range(7):
            errors = (full[b, c] - target[b, 0].numpy()) ** 2
            expected += (errors.mean() if reduction == "mean" else errors.sum()) / batch
    found = density_loss(pred, target, reduction=reduction)
    assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("loss", [density_loss, attention_loss, relative_count_loss])
def test_a_map_that_does_not_tile_the_target_and_an_unknown_choice_are_named(loss):
    for grid in ((3, 4), (4, 3), (32, 32), (8, 4)):
        with pytest.raises(InputError, match=rf"{grid[0]} x {grid[1]}.*16 x 16"):
            loss(torch.zeros(1, 1, *grid), torch.zeros(1, 1, 16, 16))
    name = "form" if loss is relative_count_loss else "reduction"
    with pytest.raises(InputError, match=rf"{name} is 'other', expected"):
        loss(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 16, 16), **{name: "other"})


# Relative counts (eq. 2)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_relative_loss_equals_eq_2_by_loops(data):
    cells = data.draw(st.sampled_from([1, 2, 3, 4]), "cells")
    regions = data.draw(st.integers(1, cells**2), "regions")
    sublists = data.draw(st.integers(1, 5), "sublists")
    form = data.draw(st.sampled_from(["paper", "official"]), "form")
    batch, maps = data.draw(st.integers(1, 4), "batch"), data.draw(st.integers(1, 3), "maps")
    side = data.draw(st.sampled_from([1, 2, 4]), "side")
    h, w = data.draw(st.integers(1, 3), "height"), data.draw(st.integers(1, 3), "width")
    seed = data.draw(st.integers(0, 1000), "seed")
    pred = uniform(batch, maps, h * cells, w * cells, seed=seed)
    target = fine(batch, 1, h * cells * side, w * cells * side, seed=seed + 1)
    weights = uniform(maps, seed=seed + 2)
    kind = {"cells": cells, "regions": regions, "sublists": sublists, "form": form}
    found = relative_count_loss(pred, target, output_weights=weights, **kind)
    expected = relative_loss_by_loops(repeat(pred, side), target, weights=weights, **kind)
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def with_counts(counts, region=4):
    """A full-size map `[1, 1, H, W]` of square regions that hold these counts, evenly spread."""
    side = math.isqrt(len(counts))
    grid = torch.tensor(counts, dtype=torch.float64).reshape(1, 1, side, side)
    return repeat(grid / region**2, region)


FOUR, REVERSED_FOUR = [4, 3, 2, 1], [1, 2, 3, 4]
NINE, REVERSED_NINE = list(range(9, 0, -1)), list(range(1, 10))


@pytest.mark.parametrize(
    ("pred", "target", "sublists", "form", "expected"),
    [
        (REVERSED_FOUR, FOUR, 1, "paper", 3),  # three neighbours, one apart
        (REVERSED_FOUR, FOUR, 1, "official", 3 * 1 + 2 * 2 + 1 * 3),
        (REVERSED_FOUR, FOUR, 2, "paper", 4),  # (x1, x3), (x2, x4)
        (REVERSED_FOUR, FOUR, 4, "paper", 0),  # no pair
        ([0, 0, 0, 5], FOUR, 1, "paper", 5),
        ([7, 1, 2, 9], [1, 2, 3, 4], 1, "paper", 6),  # ranked: 9, 2, 1, 7
        (REVERSED_NINE, NINE, 3, "paper", 6 * 3),  # (1,2), (2,3) of each sub-list, 3 apart
        (REVERSED_NINE, NINE, 3, "official", 6 * 3 + 3 * 6),  # and (1,3), 6 apart
        ([9, 0, 0, 0, 0, 0, 5, 0, 0], NINE, 3, "paper", 5),  # x1 = 9, x4 = 0, x7 = 5
        ([3, 0, 0, 0, 0, 0, 5, 0, 0], NINE, 3, "official", 5 + 2),  # x7 over x4, x7 over x1
    ],
)
def test_relative_loss_of_counts_written_down_by_hand(pred, target, sublists, form, expected):
    cells = math.isqrt(len(pred))
    kind = {"cells": cells, "regions": len(pred), "sublists": sublists, "form": form}
    loss = relative_count_loss(with_counts(pred), with_counts(target), **kind)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_gradient_reaches_only_the_regions_with_the_largest_squared_error():
    true = [16.0, 14, 12, 10, 9, 8, 7, 6, 5, 4, 3.5, 3, 2.5, 2, 1.5, 1]
    pred = list(true)
    pred[0], pred[3], pred[9] = 1.0, 20.0, 15.0  # far off, and in the wrong order
    pred[13], pred[14] = 1.5, 2.0  # in the wrong order too, but nearly right
    value, gradient = value_and_gradient(
        lambda p: relative_count_loss(p, with_counts(true), cells=4, regions=3, sublists=1),
        with_counts(pred),
    )
    assert value.item() == pytest.approx(20 - 1)  # ranked 1, 20, 15
    expected = torch.zeros(16)
    expected[0], expected[3] = -1, 1
    expected = repeat(expected.reshape(1, 1, 4, 4), 4).double()
    torch.testing.assert_close(gradient, expected)


def test_random_mining_repeats_with_its_generator_and_takes_regions_that_hard_mining_leaves():
    true = [20.0, 18, *range(14, 0, -1)]
    pred = list(true)
    pred[0], pred[1] = 90.0, 80.0  # the hard ones, rightly ordered
    pred[14], pred[15] = 1.0, 2.0

    def loss(seed, mining="random", regions=2):
        kind = {"cells": 4, "regions": regions, "sublists": 1, "mining": mining}
        generator = torch.Generator().manual_seed(seed)
        return relative_count_loss(
            with_counts(pred), with_counts(true), generator=generator, **kind
        ).item()

    assert loss(0, "hard") == 0
    drawn = [loss(seed) for seed in range(300)]
    assert drawn == [loss(seed) for seed in range(300)]
    assert {round(value, 6) for value in drawn} == {0.0, 1.0}  # one pair of 120 is wrong
    assert loss(0, regions=16) == loss(0, "hard", regions=16) > 0


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"cells": 5}, ["cells", "5", "64", "32"]),
        ({"cells": 0}, ["cells", "0"]),
        ({"regions": 65}, ["regions", "65", "64"]),
        ({"cells": 2, "regions": 0}, ["regions", "0", "4"]),
        ({"sublists": 0}, ["sublists", "0", "1"]),
        ({"mining": "soft"}, ["mining", "'soft'", "hard", "random"]),
        ({"mining": "random"}, ["random", "generator"]),
    ],
)
def test_bad_settings_of_the_relative_loss_are_named(bad, named):
    with refusal(*named):
        relative_count_loss(torch.zeros(1, 1, 16, 8), torch.zeros(1, 1, 64, 32), **bad)


# Attention loss (eq. 5)


@pytest.mark.parametrize("threshold", [1e-5, 3e-4])
def test_attention_loss_is_the_cross_entropy_with_the_foreground_at_full_size(threshold):
    attention = 0.05 + 0.9 * uniform(3, 1, 4, 6)
    target = 2 * threshold * uniform(3, 1, 16, 24, seed=1)
    a, g = repeat(attention, 4).numpy(), (target > threshold).numpy()
    assert 0.2 < g.mean() < 0.8
    entropy = -(g * np.log(a) + (1 - g) * np.log(1 - a))
    found = attention_loss(attention, target, threshold=threshold)
    assert found.item() == pytest.approx(entropy.mean(), rel=1e-5)
    summed = attention_loss(attention, target, threshold=threshold, reduction="sum")
    assert summed.item() == pytest.approx(entropy.sum() / 3, rel=1e-5)


def test_the_threshold_is_one_person_in_100_000_pixels_and_itself_background():
    target = torch.tensor([0.9e-5, 1e-5, 1.1e-5, 1.0]).reshape(1, 1, 2, 2)
    foreground = torch.tensor([0.0, 0, 1, 1]).reshape(1, 1, 2, 2)
    assert attention_loss(foreground, target).item() == 0


def test_the_foreground_of_a_head_is_its_window_or_a_disc_of_14_9_pixels():
    radius = math.sqrt(-32 * math.log(1e-5 * 2 * math.pi * 16))
    assert radius == pytest.approx(14.9, abs=0.05)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    down, across = (rows - 25).abs(), (columns - 30).abs()
    box, disc = torch.maximum(down, across) <= 7, down**2 + across**2 < radius**2
    for window, foreground in ((15, box), (None, disc)):
        target = density_map([[30.5, 25.5]], (64, 64), sigma=4.0, window=window)[None, None]
        assert attention_loss(foreground.float()[None, None], target).item() == 0


# Importance loss (eq. 6)


@pytest.mark.parametrize(
    ("weights", "paper"),
    [
        ([[[1 / 3, 1 / 3, 1 / 3]]], 0.0),
        ([[[1.0, 0.0]]], 1.0),  # mean 1/2, standard deviation 1/2
        ([[[0.75, 0.25]]], 0.25),
        ([[[1.0, 0.0], [0.75, 0.25], [0.5, 0.5]]], 1.25),  # summed over groups
        ([[[1.0, 0.0, 0.0]]], 2.0),  # mean 1/3, variance 2/9
        ([[[1.0, 0.0]], [[0.75, 0.25]]], (1 + 0.25) / 2),  # averaged over images
    ],
)
def test_importance_loss_is_the_squared_coefficient_of_variation(weights, paper):
    gate = torch.tensor(weights, dtype=torch.float64)[..., None, None].expand(-1, -1, -1, 3, 5)
    assert importance_loss(gate).item() == pytest.approx(paper, abs=1e-12)
    if len(weights) == 1:
        members = gate.shape[2]
        unbiased = paper * members / (members - 1)
        found = importance_loss(gate, form="official").item()
        assert found == pytest.approx(unbiased, abs=1e-12)


def test_importance_is_over_an_image_and_in_the_official_form_over_the_whole_batch():
    halves = torch.zeros(1, 1, 2, 4, 4)
    halves[:, :, 0, :2], halves[:, :, 1, 2:] = 1, 1  # each member rules one half
    assert importance_loss(halves).item() == importance_loss(halves, form="official").item() == 0
    opposed = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])[..., None, None]
    assert importance_loss(opposed).item() == pytest.approx(1.0)
    assert importance_loss(opposed, form="official").item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match=r"form.*'mine'.*paper.*official"):
        importance_loss(opposed, form="mine")


# DM-Count's terms


def heads(*points):
    """Points `[1, N, 2]`, all valid."""
    points = torch.tensor(points, dtype=torch.float64).reshape(1, -1, 2)
    return points, torch.ones(points.shape[:2], dtype=torch.bool)


def problem(grid, n, stride):
    """A map, heads on it, and the squared distances between them."""
    (h, w), people = grid, 0.1 + uniform(1, 1, *grid)
    points, valid = heads(*(uniform(n, 2, seed=3) * stride * min(grid)).tolist())
    cells = [(stride * (j + 0.5), stride * (i + 0.5)) for i in range(h) for j in range(w)]
    cost = np.array([[(x - a) ** 2 + (y - b) ** 2 for a, b in cells] for x, y in points[0]])
    return people, points, valid, cost


def entropic_transport(mass, cost, reg):
    """min ⟨P, C⟩ + reg Σ P log P for uniform heads, by Sinkhorn in logarithms to convergence."""
    a, b = np.full(len(cost), 1 / len(cost)), mass / mass.sum()
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(100):
        f = reg * (np.log(a) - logsumexp((g - cost) / reg, axis=1))
        g = reg * (np.log(b) - logsumexp((f[:, None] - cost) / reg, axis=0))
    plan = np.exp((f[:, None] + g - cost) / reg)
    return (plan * cost).sum() + reg * (plan * np.log(plan)).sum()


def test_transport_is_entropic_optimal_transport_in_pixels_with_its_gradient():
    people, points, valid, cost = problem((2, 3), 4, stride=2)
    value, gradient = value_and_gradient(
        lambda p: transport_loss(p, points, valid, stride=2, iterations=300), people
    )
    mass = people.flatten().numpy()
    assert value.item() == pytest.approx(entropic_transport(mass, cost, 10.0), 1e-6)
    for cell, step in enumerate(1e-5 * np.eye(6)):
        up, down = (entropic_transport(mass + sign * step, cost, 10.0) for sign in (1, -1))
        assert gradient.flatten()[cell].item() == pytest.approx((up - down) / 2e-5, rel=1e-3)


def test_the_pull_of_transport_is_bounded_however_far_the_heads():
    """As in the released code; with exact potentials it would be 200 times as much."""
    people, (points, valid) = torch.ones(1, 1, 32, 32, dtype=torch.float64), heads((1, 1))
    _, gradient = value_and_gradient(lambda p: transport_loss(p, points, valid, stride=8), people)
    assert gradient.abs().max() < 2 * 368.5 / 1024
    torch.testing.assert_close(gradient[..., 31, 31], gradient[..., 10, 20])
    assert gradient.sum().item() == pytest.approx(0, abs=1e-3)  # more of everything is no change


def test_variation_and_count_by_hand():
    def variation(rows, *points):
        people = torch.tensor(rows, dtype=torch.float64)[None, None]
        return variation_loss(people, *heads(*points), stride=8).item()

    people = [[1.0, 0.0], [0.0, 3.0]]
    assert variation(people, (1, 2), (7, 7)) == pytest.approx(2 * 0.75)  # both in the first cell
    assert variation(people, (1, 2), (9, 9), (15, 15), (8, 8)) == pytest.approx(0, abs=1e-5)
    beside = [[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]]  # x runs along the rows
    assert variation(beside, (1, 2), (9, 3), (15, 0), (8, 7)) == pytest.approx(0, abs=1e-5)
    for scale in (1, 9):
        apart = [[scale * value for value in row] for row in people]
        assert variation(apart, (8, 0), (0, 8), (0, 8)) == pytest.approx(3)

    people = torch.tensor([[4.0, 1.5], [0.5, 0.0]]).reshape(2, 1, 1, 2)
    valid = torch.tensor([[True, True, False], [True, True, True]])
    value, gradient = value_and_gradient(lambda p: count_loss(p, valid), people)
    assert value.item() == pytest.approx((3.5 + 2.5) / 2)
    torch.testing.assert_close(gradient, torch.tensor([0.5, -0.5]).reshape(2, 1, 1, 1) + 0 * people)


MATCHING = {
    "transport": lambda people, points, valid: transport_loss(people, points, valid, stride=8),
    "count": lambda people, points, valid: count_loss(people, valid),
    "variation": lambda people, points, valid: variation_loss(people, points, valid, stride=8),
}


@pytest.mark.parametrize("loss", MATCHING.values(), ids=MATCHING)
def test_a_batch_of_crowds_is_the_mean_of_its_images_and_padding_does_not_count(loss):
    people = uniform(4, 1, 3, 5)
    points = uniform(4, 6, 2, seed=1) * torch.tensor([40.0, 24.0]).double()
    valid = torch.arange(6) < torch.tensor([6, 3, 0, 1])[:, None]
    singles = [
        loss(people[b : b + 1], points[b : b + 1, :n], valid[b : b + 1, :n])
        for b, n in enumerate(valid.sum(dim=1).tolist())
    ]
    torch.testing.assert_close(loss(people, points, valid), sum(singles) / 4)


@pytest.mark.parametrize("people", [0.0, 1e-9, 1e4])
@pytest.mark.parametrize("n", [0, 1, 50])
@pytest.mark.parametrize("name", MATCHING)
def test_matching_is_finite_for_empty_and_for_crowded_images(name, n, people):
    """Fifty heads on one spot among them; without people there is only a count."""
    points, valid = torch.full((2, 50, 2), 3.0), torch.zeros(2, 50, dtype=torch.bool)
    valid[:, :n] = True
    maps = torch.full((2, 1, 16, 16), people / 256)
    value, gradient = value_and_gradient(lambda p: MATCHING[name](p, points, valid), maps)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    if n == 0 and name != "count":
        assert value == 0
        assert not gradient.any()


@pytest.mark.parametrize("name", ["transport", "variation"])
def test_negative_values_count_as_no_people_and_points_of_other_maps_are_named(name):
    people = torch.tensor([[2.0, -5.0], [-1.0, 1.0]], dtype=torch.float64)[None, None]
    points, valid = heads((3, 3), (12, 9))
    found = MATCHING[name](people, points, valid)
    torch.testing.assert_close(found, MATCHING[name](people.relu(), points, valid))
    for points, valid in (((2, 5, 2), (2, 5)), ((1, 5, 3), (1, 5)), ((1, 5, 2), (1, 4))):
        with refusal(str(list(points)), str(list(valid)), "[1, N, 2]"):
            MATCHING[name](people, torch.ones(points), torch.ones(valid).bool())


# The total


def prediction_of(scale=100.0, batch=2, levels=1, people=1.0):
    """Seven maps (three more with a second level) on 16 x 16 cells of 64 x 64 pixels."""

    def maps(channels, seed):
        return people * scale * 0.01 * uniform(batch, channels, 16, 16, seed=seed)

    return Prediction(
        density=maps(1, 0),
        experts=maps(3, 1),
        levels=tuple(maps(3, 2 + i) for i in range(levels)),
        gates=tuple(
            uniform(batch, 3, 2, 16, 16, seed=5 + i).mul(3).softmax(2) for i in range(levels)
        ),
        gate2=uniform(batch, 3, 16, 16, seed=8).softmax(1),
        attention=0.05 + 0.9 * uniform(batch, 1, 16, 16, seed=9),
        size=(64, 64),
        stride=4,
        scale=scale,
    )


TARGET = 0.02 * uniform(2, 1, 64, 64, seed=40) ** 2
PIXELS = 64**2


def entropy_by_pixels(attention, target):
    g = (target > 1e-5).double()
    return F.binary_cross_entropy(repeat(attention, 4), g, reduction="sum").item() / 2


def importance_by_numpy(gate, official=False):
    sums = gate.sum((-2, -1)).numpy()
    sums = sums.sum(0, keepdims=True) if official else sums
    return ((sums.std(-1, ddof=int(official)) / sums.mean(-1)) ** 2).sum() / len(sums)


@pytest.mark.parametrize(
    ("name", "pixels", "relative_pixels"),
    [("paper", 1, 1), ("means", PIXELS, PIXELS), ("printed", PIXELS, 1), ("official", 1, 1)],
)
@pytest.mark.parametrize(("levels", "scale"), [(1, 100), (2, 10)])
def test_the_total_is_the_sum_of_four_terms_on_full_size_maps(
    name, pixels, relative_pixels, levels, scale
):
    """L_Eim stands beside sums over pixels; as printed, REL alone is a sum. The released code
    weighs experts 1, groups 2 and the final map 4."""
    prediction, official = prediction_of(scale, levels=levels), name == "official"
    losses = total_loss(prediction, TARGET, name)
    full, target = scale * prediction.full_size(prediction.maps), scale * TARGET
    weights = torch.tensor([1.0] * 3 + [2.0] * 3 * levels + [4.0]) if official else torch.ones(1)
    squares = (full - target).square().sum((0, 2, 3)) / 2
    kind = {"form": "official", "weights": weights} if official else {}
    relative = relative_loss_by_loops(full, target, cells=8, regions=9, sublists=3, **kind)
    expected = {
        "density": (squares * weights).sum().item() / pixels,
        "relative": relative / relative_pixels,
        "attention": entropy_by_pixels(prediction.attention, TARGET) / pixels,
        "importance": sum(importance_by_numpy(gate, official) for gate in prediction.gates),
    }
    expected["total"] = sum(expected.values())
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, 1e-6)


def test_the_total_weighs_each_named_term_and_leaves_out_those_of_weight_zero():
    weights = {"density": 0.5, "relative": 3.0, "attention": 0.25, "importance": 7.0}
    plain = total_loss(prediction_of(), TARGET)
    for left_out in (None, *weights):
        some = weights | ({left_out: 0.0} if left_out else {})
        losses = total_loss(
            prediction_of(), TARGET, LossSettings(**{f"{k}_weight": v for k, v in some.items()})
        )
        assert losses.keys() == plain.keys() - {left_out}
        for name in losses.keys() - {"total"}:
            torch.testing.assert_close(losses[name], plain[name])
        expected = sum(weight * plain[name] for name, weight in some.items())
        torch.testing.assert_close(losses["total"], expected)


def test_the_final_map_alone_and_the_importance_of_gating_net_2():
    settings = LossSettings(output_weights="final", importance2_weight=2.0)
    prediction = prediction_of()
    losses, plain = (total_loss(prediction, TARGET, each) for each in (settings, "paper"))
    final = 100 * prediction.full_size()
    expected = (final - 100 * TARGET).square().sum().item() / 2
    assert losses["density"].item() == pytest.approx(expected)
    importance2 = importance_by_numpy(prediction.gate2[:, None])
    assert losses["importance2"].item() == pytest.approx(importance2)
    assert "importance2" not in plain
    terms = ("density", "relative", "attention", "importance")
    total = sum(losses[name].item() for name in terms) + 2 * importance2
    assert losses["total"].item() == pytest.approx(total)


OTHERS = {"ranking": 0.5, "local": 2.0, "transport": 0.1, "count": 3.0, "variation": 0.01}


def crowd(batch=2, n=12):
    """Heads `[B, n, 2]` on 64 x 64 pixels, the last image short of some."""
    valid = torch.ones(batch, n, dtype=torch.bool)
    valid[-1, n // 2 :] = False
    return {"points": 64 * uniform(batch, n, 2, seed=50), "valid": valid}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_terms_of_other_methods_join_by_name_on_their_maps_and_in_their_units(reduction):
    """On the final map in people per cell; the local counts on all maps as they are."""
    basis = LossSettings(density_reduction=reduction, ranking_temperature=0.2, cells=4)
    settings = replace(basis, **{f"{name}_weight": weight for name, weight in OTHERS.items()})
    prediction, heads = prediction_of(), crowd()
    losses = total_loss(prediction, TARGET, settings, **heads)
    people, pixels = prediction.density * 4**2 / 100, PIXELS if reduction == "sum" else 1
    true = TARGET.sum(dim=(1, 2, 3))
    expected = {
        "ranking": pixels * ranking_loss(prediction.count, true, temperature=0.2),
        "local": pixels * local_count_loss(prediction.maps, 100 * TARGET, cells=4),
        "transport": transport_loss(people, *heads.values(), stride=4),
        "count": (prediction.count - torch.tensor([12, 6])).abs().mean(),
        "variation": variation_loss(people, *heads.values(), stride=4),
    }
    plain = total_loss(prediction, TARGET, basis)
    for name, value in expected.items():
        assert value > 0
        torch.testing.assert_close(losses[name], value)
    weighted = sum(OTHERS[name] * value for name, value in expected.items())
    torch.testing.assert_close(losses["total"], plain["total"] + weighted)
    assert not plain.keys() & expected.keys()


@pytest.mark.parametrize("name", ["paper", "official", "dmcount"])
@pytest.mark.parametrize("people", [0.0, 1.0])
def test_a_network_with_one_output_and_images_without_people(name, people):
    prediction, heads = prediction_of(levels=0, people=people), crowd()
    prediction.attention = prediction.gate2 = None
    prediction.experts = prediction.experts[:, :0]
    prediction.density.requires_grad_()
    losses = total_loss(prediction, TARGET, name, **heads)
    if name == "dmcount":  # with its published weights
        terms = losses["count"] + 0.1 * losses["transport"] + 0.01 * losses["variation"]
        torch.testing.assert_close(losses["total"], terms)
    else:
        assert losses.keys() == {"density", "relative", "total"}
        squares = (100 * prediction.full_size() - 100 * TARGET).square().sum() / 2
        torch.testing.assert_close(losses["density"], (4 if name == "official" else 1) * squares)
    heads["valid"][:] = False
    losses = total_loss(prediction, 0 * TARGET, name, **heads)
    (gradient,) = torch.autograd.grad(losses["total"], prediction.density)
    assert torch.isfinite(gradient).all()
    total = losses["total"].item()
    assert total == pytest.approx(0) if people == 0 else total > 0


def test_settings_of_the_relative_loss_reach_it():
    kind = {"cells": 4, "regions": 5, "sublists": 2}
    settings = LossSettings(relative_form="official", relative_reduction="sum", **kind)
    prediction = prediction_of(scale=1.0)
    full = prediction.full_size(prediction.maps)
    expected = relative_loss_by_loops(full, TARGET, form="official", **kind)
    assert total_loss(prediction, TARGET, settings)["relative"].item() == pytest.approx(expected)


def test_random_regions_and_nested_squares_come_from_the_generator_given():
    below = prediction_of()
    below.density = below.density - 1.0  # so that squares inside may hold more

    def relative(mining, seed, reduction="sum"):
        settings = LossSettings(relative_mining=mining, relative_reduction=reduction)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return total_loss(below, TARGET, settings, generator=generator)["relative"]

    for mining in ("random", "matryoshka"):
        assert relative(mining, 0) == relative(mining, 0) != relative(mining, 1)
        torch.testing.assert_close(relative(mining, 0, "mean"), relative(mining, 0) / PIXELS)
        with pytest.raises(InputError, match="generator"):
            relative(mining, None)
    nested = nested_count_loss(below.maps, TARGET, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(relative("matryoshka", 0), nested)


def test_a_branch_of_its_own_takes_the_relative_loss_from_the_density_maps():
    prediction = prediction_of()
    prediction.local = 0.5 * uniform(2, 1, 16, 16, seed=77)
    leaves = (prediction.density, prediction.experts, prediction.local)
    for leaf in leaves:
        leaf.requires_grad_()
    losses = total_loss(prediction, TARGET, LossSettings(output_weights="official"))
    expected = relative_count_loss(prediction.local, 100 * TARGET, judged=prediction.density)
    torch.testing.assert_close(losses["relative"], expected)
    assert not torch.isclose(expected, relative_count_loss(prediction.local, 100 * TARGET))
    gradients = torch.autograd.grad(losses["relative"], leaves, allow_unused=True)
    assert gradients[0] is gradients[1] is None
    assert gradients[2].any()


@pytest.mark.parametrize("settings", ["paper", "official"])
@pytest.mark.parametrize("empty", ["target", "prediction", "both"])
def test_losses_and_gradients_are_finite_for_empty_images_and_empty_maps(settings, empty):
    prediction = prediction_of(people=float(empty == "target"))
    if empty == "both":  # and an attention of zeros and ones
        prediction.attention = prediction.attention.round()
    leaves = [prediction.density, prediction.experts, prediction.levels[0], prediction.attention]
    for leaf in leaves:
        leaf.requires_grad_()
    losses = total_loss(prediction, TARGET * (empty == "prediction"), settings)
    assert all(torch.isfinite(loss) and loss >= 0 for loss in losses.values())
    for gradient in torch.autograd.grad(losses["total"], leaves):
        assert torch.isfinite(gradient).all()
    if empty == "both":
        assert losses["density"] == losses["relative"] == 0


def test_gradient_norms_are_those_of_a_backward_pass_and_leave_the_network_alone():
    model, target = narrow(), density_map(64 * uniform(20, 2), (64, 64))[None, None]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    norms = gradient_norms(model, images(1, 3, 64, 64), target)
    twice = gradient_norms(model, images(1, 3, 64, 64), target, LossSettings(density_weight=2.0))
    assert twice["density"] == pytest.approx(2 * norms["density"])
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    losses = total_loss(model.train()(images(1, 3, 64, 64)), target)
    for name, loss in losses.items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        gradients = [p.grad.ravel() for p in model.parameters() if p.grad is not None]
        assert norms.pop(name) == pytest.approx(torch.cat(gradients).norm().item(), rel=1e-4)
    assert not norms


def test_gradient_norms_of_parts_add_up_by_their_squares():
    model, target = narrow(), density_map(64 * uniform(20, 2), (64, 64))[None, None]
    parts = {name.split(".")[0] for name, _ in model.named_parameters()}
    found = [gradient_norms(model, images(1, 3, 64, 64), target, within=f"{p}.") for p in parts]
    whole = gradient_norms(model, images(1, 3, 64, 64), target)
    for term, norm in whole.items():
        assert sum(each[term] ** 2 for each in found) ** 0.5 == pytest.approx(norm, rel=1e-4)
    with pytest.raises(InputError, match="within is 'nobody', expected the beginning"):
        gradient_norms(model, images(1, 3, 64, 64), target, within="nobody")


# Settings


def test_settings_by_name_are_the_papers_and_the_released_codes():
    assert loss_settings("paper") == LossSettings() != loss_settings("official")
    assert SETTINGS.keys() == {"paper", "means", "printed", "official", "dmcount"}
    for name in ("Paper", None):
        with pytest.raises(InputError, match=rf"{name!r}.*official.*paper"):
            total_loss(prediction_of(), TARGET, name)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("density_reduction", "other", ("mean", "sum")),
        ("attention_reduction", "other", ("mean", "sum")),
        ("relative_reduction", "other", ("mean", "sum")),
        ("relative_form", "other", ("paper", "official")),
        ("relative_mining", "other", ("hard", "random", "matryoshka")),
        ("importance_form", "other", ("paper", "official")),
        ("output_weights", "other", ("equal", "official", "final")),
        ("density_weight", -1.0, ("at least 0",)),
        ("variation_weight", float("nan"), ("at least 0",)),
        ("ranking_temperature", 0.0, ("positive",)),
        ("cells", 0, ("at least 1",)),
        ("regions", 65, ("64",)),
        ("sublists", 0, ("at least 1",)),
    ],
)
def test_a_setting_out_of_its_range_is_named_at_construction(field, value, expected):
    with refusal(field, repr(value), *expected):
        LossSettings(**{field: value})


@pytest.mark.parametrize("missing", ["points", "valid"])
def test_a_term_without_the_points_it_needs_is_named(missing):
    for name in ("transport", "count", "variation"):
        settings = LossSettings(**{f"{name}_weight": 0.5})
        with pytest.raises(InputError, match=rf"{missing}.*{name}_weight"):
            total_loss(prediction_of(), TARGET, settings, **(crowd() | {missing: None}))
