"""How counts and full-size maps are read off a prediction."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hmode import Prediction


def prediction_of(size, stride, scale=100.0, batch=2, seed=0):
    """A prediction whose values stand for no network: experts 1, 2, 3, groups 4, 5, 6, final."""
    generator = torch.Generator().manual_seed(seed)
    grid = [-(-side // stride) for side in size]

    def maps(channels):
        return torch.rand(batch, channels, *grid, generator=generator)

    return Prediction(
        density=maps(1),
        experts=maps(3),
        levels=(maps(3),),
        gates=(torch.full((batch, 3, 2, *grid), 0.5),),
        size=size,
        stride=stride,
        scale=scale,
    )


sides = st.integers(1, 40)


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(sides, sides),
    stride=st.sampled_from([1, 2, 4, 8]),
    scale=st.sampled_from([1.0, 100.0]),
)
def test_counts_are_the_sums_of_the_full_size_maps(size, stride, scale):
    prediction = prediction_of(size, stride, scale)
    full = prediction.full_size()
    assert full.shape == (2, 1, *size)
    torch.testing.assert_close(prediction.count, full.sum((1, 2, 3)), rtol=1e-5, atol=1e-7)
    every = prediction.full_size(prediction.maps)
    assert every.shape == (2, 7, *size)
    torch.testing.assert_close(
        prediction.counts(prediction.maps), every.sum((2, 3)), rtol=1e-5, atol=1e-7
    )


@settings(deadline=None, max_examples=60)
@given(size=st.tuples(sides, sides), stride=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 99))
def test_a_mask_leaves_what_full_size_leaves(size, stride, seed):
    prediction = prediction_of(size, stride)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, 1, *size, generator=generator) < 0.5
    masked = prediction.masked(mask)
    expected = (prediction.full_size(prediction.maps) * mask).sum(dim=(-2, -1))
    torch.testing.assert_close(masked.counts(masked.maps), expected)


@settings(deadline=None, max_examples=60)
@given(size=st.tuples(sides, sides), stride=st.sampled_from([1, 2, 4, 8]), value=st.floats(0, 50))
def test_a_constant_map_counts_each_pixel_of_the_image_once(size, stride, value):
    prediction = prediction_of(size, stride, scale=100.0)
    prediction.density = torch.full_like(prediction.density, value)
    expected = size[0] * size[1] * value / 100
    assert prediction.count.tolist() == pytest.approx([expected] * 2, rel=1e-5)


def test_full_size_shows_at_each_pixel_the_value_of_its_cell_in_people():
    prediction = prediction_of((10, 15), 4, scale=50.0)
    full = prediction.full_size(prediction.experts)
    for row in range(10):
        for column in range(15):
            cell = prediction.experts[:, :, row // 4, column // 4] / 50
            torch.testing.assert_close(full[:, :, row, column], cell)


def test_maps_are_experts_then_groups_then_the_final_map():
    prediction = prediction_of((16, 24), 4)
    maps = prediction.maps
    assert maps.shape == (2, 7, 4, 6)
    assert torch.equal(maps[:, :3], prediction.experts)
    assert torch.equal(maps[:, 3:6], prediction.groups)
    assert torch.equal(maps[:, 6:], prediction.density)


def test_groups_and_gate1_are_those_of_the_first_level():
    prediction = prediction_of((16, 24), 4)
    second = torch.zeros(2, 3, 4, 6)
    prediction.levels = (*prediction.levels, second)
    prediction.gates = (*prediction.gates, torch.zeros(2, 3, 2, 4, 6))
    assert prediction.groups is prediction.levels[0]
    assert prediction.gate1 is prediction.gates[0]
    assert prediction.maps.shape[1] == 3 + 3 + 3 + 1
    assert torch.equal(prediction.maps[:, 6:9], second)


def test_without_a_hierarchy_there_are_no_groups_and_no_gates():
    prediction = Prediction(
        density=torch.ones(1, 1, 2, 2),
        experts=torch.ones(1, 3, 2, 2),
        size=(8, 8),
        stride=4,
        scale=1.0,
    )
    assert prediction.groups is None
    assert prediction.gate1 is None
    assert prediction.gate2 is None
    assert prediction.attention is None
    assert prediction.maps.shape == (1, 4, 2, 2)


def test_the_count_is_differentiable_and_weighs_a_cell_by_its_pixels():
    prediction = prediction_of((10, 15), 4, scale=100.0, batch=1)
    density = prediction.density.requires_grad_()
    (gradient,) = torch.autograd.grad(prediction.count.sum(), density)
    expected = torch.outer(torch.tensor([4.0, 4, 2]), torch.tensor([4.0, 4, 4, 3])) / 100
    torch.testing.assert_close(gradient[0, 0], expected)


def test_counts_keep_float32_under_autocast():
    prediction = prediction_of((100, 120), 4)
    expected = prediction.count
    with torch.autocast("cpu", torch.bfloat16):
        count = prediction.count
    assert count.dtype == torch.float32
    torch.testing.assert_close(count, expected)
