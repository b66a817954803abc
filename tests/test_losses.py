"""The losses against the equations, on full-size maps, one image and one map at a time."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    OFFICIAL_WEIGHTS,
    assert_same_as_repeated,
    fine,
    uniform,
    value_and_gradient,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import relative_loss_by_loops, repeat

from hmode import (
    attention_loss,
    density_loss,
    density_map,
    importance_loss,
    relative_count_loss,
)
from hmode.errors import InputError

# Density loss (eq. 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weights", [None, OFFICIAL_WEIGHTS])
@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_density_loss_of_a_coarse_map_is_that_of_the_repeated_map(dtype, reduction, weights, side):
    pred, target = uniform(3, 7, 4, 6, dtype=dtype), fine(3, 1, 4 * side, 6 * side, dtype=dtype)

    def loss(p):
        return density_loss(p, target, reduction=reduction, output_weights=weights)

    assert_same_as_repeated(loss, pred, side)


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


def test_density_loss_of_constant_maps_is_the_squared_difference():
    pred, target = torch.full((2, 3, 4, 4), 1.0), torch.full((2, 1, 16, 16), 3.0)
    assert density_loss(pred, target).item() == pytest.approx(3 * 4)
    assert density_loss(pred, target, reduction="sum").item() == pytest.approx(3 * 4 * 256)
    weighted = density_loss(pred, target, output_weights=torch.tensor([1.0, 0.5, 4.0]))
    assert weighted.item() == pytest.approx(5.5 * 4)


@pytest.mark.parametrize("loss", [density_loss, relative_count_loss])
def test_scale_brings_the_target_into_the_unit_of_the_maps(loss):
    pred, target = uniform(2, 3, 16, 8, dtype=torch.float64), fine(2, 1, 64, 32).double() / 100
    found = value_and_gradient(lambda p: loss(p, target, scale=100.0), pred)
    expected = value_and_gradient(lambda p: loss(p, 100 * target), pred)
    assert found[0] != loss(pred, target)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_density_loss_is_zero_only_for_the_target_itself():
    target = fine(2, 1, 8, 8)
    assert density_loss(target.expand(2, 3, 8, 8), target).item() == 0
    coarse = F.avg_pool2d(target, 4)
    spread = (target - repeat(coarse, 4)).square().mean()
    assert density_loss(coarse, target).item() == pytest.approx(spread.item())


@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (5, 4), (32, 32), (8, 4)])
def test_a_map_that_does_not_tile_the_target_is_named(grid):
    pred, target = torch.zeros(1, 1, *grid), torch.zeros(1, 1, 16, 16)
    for loss in (density_loss, attention_loss, relative_count_loss):
        with pytest.raises(InputError) as error:
            loss(pred, target)
        for words in (f"{grid[0]} x {grid[1]}", "16 x 16"):
            assert words in str(error.value)


@pytest.mark.parametrize("loss", [density_loss, attention_loss])
def test_an_unknown_reduction_is_named(loss):
    with pytest.raises(InputError, match=r"reduction.*'max'.*mean.*sum"):
        loss(torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, 1, 8, 8), reduction="max")


# Relative counts (eq. 2)


@pytest.mark.parametrize("weights", [None, OFFICIAL_WEIGHTS])
@pytest.mark.parametrize("form", ["paper", "official"])
@pytest.mark.parametrize(
    ("cells", "grid", "side"),
    [
        (4, (16, 16), 4),
        (8, (16, 16), 4),
        (8, (16, 32), 2),
        (64, (16, 32), 4),  # regions finer than the cells of the map
        (4, (6, 10), 2),  # regions across cells
        (3, (6, 9), 4),
    ],
)
def test_relative_loss_of_a_coarse_map_is_that_of_the_repeated_map(
    weights, form, cells, grid, side
):
    pred, target = uniform(3, 7, *grid), fine(3, 1, grid[0] * side, grid[1] * side)

    def loss(p):
        return relative_count_loss(
            p, target, cells=cells, form=form, regions=9, output_weights=weights
        )

    assert_same_as_repeated(loss, pred, side)


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
        (REVERSED_FOUR, FOUR, 2, "official", 4),
        (REVERSED_FOUR, FOUR, 3, "paper", 3),  # (x1, x4)
        (REVERSED_FOUR, FOUR, 4, "paper", 0),  # no pair
        (REVERSED_FOUR, FOUR, 4, "official", 0),
        ([1, 0, 0, 0], FOUR, 1, "paper", 0),
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
    loss = relative_count_loss(
        with_counts(pred),
        with_counts(target),
        cells=cells,
        regions=len(pred),
        sublists=sublists,
        form=form,
    )
    assert loss.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("form", ["paper", "official"])
@pytest.mark.parametrize("sublists", [1, 3])
def test_relative_loss_is_zero_where_the_predicted_order_is_the_true_one(form, sublists):
    counts = (10 * uniform(64)).tolist()
    target = with_counts(counts)
    for transform in (lambda x: x, lambda x: 0.1 * x, lambda x: x**3 + 5, lambda x: 0 * x + 2):
        pred = with_counts([transform(torch.tensor(x)).item() for x in counts])
        loss = relative_count_loss(pred, target, form=form, sublists=sublists)
        assert loss.item() == pytest.approx(0, abs=1e-5)
    against = relative_count_loss(with_counts([-x for x in counts]), target, form=form)
    assert against > 1


@pytest.mark.parametrize("batch", [2, 4])
@pytest.mark.parametrize("form", ["paper", "official"])
def test_relative_loss_of_a_batch_is_the_mean_of_its_images(batch, form):
    pred, target = uniform(batch, 7, 16, 16), fine(batch, 1, 64, 64)
    singles = [
        relative_count_loss(pred[b : b + 1], target[b : b + 1], form=form) for b in range(batch)
    ]
    found = relative_count_loss(pred, target, form=form)
    torch.testing.assert_close(found, sum(singles) / batch)


@pytest.mark.parametrize("form", ["paper", "official"])
def test_every_map_has_its_own_hard_regions(form):
    pred, target = uniform(2, 4, 16, 16), fine(2, 1, 64, 64)
    kind = {"form": form, "regions": 6}
    alone = sum(relative_count_loss(pred[:, c : c + 1], target, **kind) for c in range(4))
    torch.testing.assert_close(relative_count_loss(pred, target, **kind), alone)


@pytest.mark.parametrize("form", ["paper", "official"])
def test_the_same_count_more_in_every_region_changes_nothing_when_all_regions_take_part(form):
    pred, target = uniform(2, 3, 8, 8), fine(2, 1, 16, 16)
    kind = {"cells": 4, "regions": 16, "form": form}
    shifted = relative_count_loss(pred + 0.7, target, **kind)
    torch.testing.assert_close(shifted, relative_count_loss(pred, target, **kind))


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


def test_errors_inside_a_region_make_it_hard_even_if_its_count_is_right():
    target, pred = with_counts(FOUR), with_counts([4, 3, 1.4, 1.5])
    pred[..., 0, 0], pred[..., 0, 1] = 50.0, 4 * 2 / 16 - 50.0  # in region 1, its count unchanged
    value, gradient = value_and_gradient(
        lambda p: relative_count_loss(p, target, cells=2, regions=2, sublists=1), pred
    )
    assert value.item() == 0  # regions 1 and 3 in the right order; 3 and 4 would give 0.1
    assert not gradient.any()
    flat = relative_count_loss(
        with_counts([4, 3, 1.4, 1.5]), target, cells=2, regions=2, sublists=1
    )
    assert flat.item() == pytest.approx(0.1)


def test_random_mining_repeats_with_its_generator_and_takes_regions_that_hard_mining_leaves():
    true = [20.0, 18, *range(14, 0, -1)]
    pred = list(true)
    pred[0], pred[1] = 90.0, 80.0  # the hard ones, rightly ordered
    pred[14], pred[15] = 1.0, 2.0
    pred, target = with_counts(pred), with_counts(true)

    def loss(seed, mining="random"):
        generator = torch.Generator().manual_seed(seed)
        return relative_count_loss(
            pred, target, cells=4, regions=2, sublists=1, mining=mining, generator=generator
        ).item()

    assert loss(0, "hard") == 0
    drawn = [loss(seed) for seed in range(300)]
    assert drawn == [loss(seed) for seed in range(300)]
    assert {round(value, 6) for value in drawn} == {0.0, 1.0}  # one pair of 120 is wrong


def test_random_mining_of_all_regions_is_hard_mining_of_all_regions():
    pred, target = uniform(2, 3, 8, 8), fine(2, 1, 16, 16)
    kind = {"cells": 4, "regions": 16}
    random = relative_count_loss(
        pred, target, mining="random", generator=torch.Generator().manual_seed(0), **kind
    )
    torch.testing.assert_close(random, relative_count_loss(pred, target, **kind))


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"cells": 5}, ["cells", "5", "64", "32"]),
        ({"cells": 0}, ["cells", "0"]),
        ({"cells": -8}, ["cells", "-8"]),
        ({"regions": 0}, ["regions", "0", "64"]),
        ({"regions": 65}, ["regions", "65", "64"]),
        ({"cells": 2, "regions": 5}, ["regions", "5", "4"]),
        ({"sublists": 0}, ["sublists", "0", "1"]),
        ({"mining": "soft"}, ["mining", "'soft'", "hard", "random"]),
        ({"form": "other"}, ["form", "'other'", "paper", "official"]),
        ({"mining": "random"}, ["random", "generator"]),
    ],
)
def test_bad_settings_of_the_relative_loss_are_named(bad, named):
    with pytest.raises(InputError) as error:
        relative_count_loss(torch.zeros(1, 1, 16, 8), torch.zeros(1, 1, 64, 32), **bad)
    for words in named:
        assert words in str(error.value)


# Attention loss (eq. 5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("side", [1, 4])
def test_attention_loss_of_a_coarse_map_is_that_of_the_repeated_map(reduction, side):
    attention = 0.05 + 0.9 * uniform(3, 1, 4, 6, dtype=torch.float32)
    target = 2e-5 * uniform(3, 1, 4 * side, 6 * side, dtype=torch.float32)
    assert_same_as_repeated(
        lambda a: attention_loss(a, target, reduction=reduction), attention, side
    )


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


def test_the_foreground_of_a_windowed_head_is_its_whole_box():
    target = density_map([[30.2, 25.7]], (64, 64), sigma=4.0, window=15)[None, None]
    box = torch.zeros(1, 1, 64, 64)
    box[..., 25 - 7 : 25 + 8, 30 - 7 : 30 + 8] = 1
    assert attention_loss(box, target).item() == 0
    box[..., 25 - 7, 30 - 7] = 0
    assert attention_loss(box, target).item() > 0


def test_the_foreground_of_an_untruncated_head_is_a_disc():
    target = density_map([[30.5, 25.5]], (64, 64), sigma=4.0)[None, None]
    radius = math.sqrt(-32 * math.log(1e-5 * 2 * math.pi * 16))
    assert radius == pytest.approx(14.9, abs=0.05)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = ((rows - 25) ** 2 + (columns - 30) ** 2 < radius**2).float()[None, None]
    assert attention_loss(disc, target).item() == 0


def test_attention_loss_stays_finite_for_attention_0_and_1():
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4, :] = 1
    for value in (0.0, 1.0):
        loss, gradient = value_and_gradient(
            lambda a: attention_loss(a, target), torch.full((1, 1, 2, 2), value)
        )
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


# Importance loss (eq. 6)


def gate_of(weights, grid=(3, 5)):
    """A gate `[B, M, N, h, w]` that is constant over the pixels."""
    weights = torch.tensor(weights, dtype=torch.float64)
    return weights[..., None, None].expand(*weights.shape, *grid)


@pytest.mark.parametrize("form", ["paper", "official"])
def test_an_even_gate_costs_nothing(form):
    for members in (2, 3):
        gate = torch.full((2, 3, members, 4, 4), 1 / members, dtype=torch.float64)
        assert importance_loss(gate, form=form).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("form", ["paper", "official"])
def test_importance_counts_a_members_weight_over_the_whole_image(form):
    gate = torch.zeros(1, 1, 2, 4, 4)
    gate[:, :, 0, :2], gate[:, :, 1, 2:] = 1, 1  # each member rules one half
    assert importance_loss(gate, form=form).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("weights", "paper"),
    [
        ([[[1.0, 0.0]]], 1.0),  # mean 1/2, standard deviation 1/2
        ([[[0.75, 0.25]]], 0.25),
        ([[[1.0, 0.0], [0.75, 0.25], [0.5, 0.5]]], 1.25),  # summed over groups
        ([[[1.0, 0.0, 0.0]]], 2.0),  # mean 1/3, variance 2/9
    ],
)
def test_importance_loss_is_the_squared_coefficient_of_variation(weights, paper):
    gate = gate_of(weights)
    members = gate.shape[2]
    assert importance_loss(gate).item() == pytest.approx(paper)
    unbiased = paper * members / (members - 1)
    assert importance_loss(gate, form="official").item() == pytest.approx(unbiased)


def test_importance_is_per_image_and_in_the_official_form_of_the_whole_batch():
    opposed = gate_of([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert importance_loss(opposed).item() == pytest.approx(1.0)
    assert importance_loss(opposed, form="official").item() == pytest.approx(0, abs=1e-12)
    agreed = gate_of([[[1.0, 0.0]], [[1.0, 0.0]]])
    assert importance_loss(agreed).item() == pytest.approx(1.0)
    assert importance_loss(agreed, form="official").item() == pytest.approx(2.0)


def test_importance_of_a_batch_is_the_mean_of_its_images():
    gate = uniform(4, 3, 2, 5, 5).softmax(2)
    singles = [importance_loss(gate[b : b + 1]) for b in range(4)]
    torch.testing.assert_close(importance_loss(gate), sum(singles) / 4)


def test_an_unknown_form_of_importance_is_named():
    with pytest.raises(InputError, match=r"form.*'mine'.*paper.*official"):
        importance_loss(gate_of([[[0.5, 0.5]]]), form="mine")
