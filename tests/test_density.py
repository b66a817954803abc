"""What a density map, an adaptive sigma and a local count mean."""

import numpy as np
import pytest
import torch
from helpers import refusal
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import adaptive_sigma_by_pairs, density_by_points

import hmode
from hmode.density import batch_density_maps

coordinates = st.floats(-20, 60, width=32)
sides = st.integers(1, 40)


def random_points(n, size, seed=0, margin=0.0):
    rng = np.random.default_rng(seed)
    height, width = size
    low, high = margin, (width - margin, height - margin)
    return torch.tensor(rng.uniform(low, high, (n, 2)), dtype=torch.float32)


# Density maps


@settings(deadline=None, max_examples=80)
@given(
    points=st.lists(st.tuples(coordinates, coordinates), max_size=12),
    height=sides,
    width=sides,
    sigma=st.sampled_from([1e-30, 0.01, 0.3, 4.0, 50.0, 1e6]),
    window=st.sampled_from([None, 1, 3, 15, 101]),
)
@example(points=[(16.0, 5.0), (5.0, 20.0), (-0.5, 0.0), (0.0, 0.0)], height=20, width=16,
         sigma=4.0, window=None)  # fmt: skip
def test_map_sums_to_the_points_inside_the_frame(points, height, width, sigma, window):
    density = hmode.density_map(points, (height, width), sigma=sigma, window=window)
    inside = sum(0 <= x < width and 0 <= y < height for x, y in points)
    assert density.shape == (height, width)
    assert density.dtype == torch.float32
    assert (density >= 0).all()
    assert density.sum().item() == pytest.approx(inside, rel=1e-4, abs=1e-12)


@settings(deadline=None, max_examples=80)
@given(
    people=st.lists(st.tuples(coordinates, coordinates, st.floats(0.3, 30)), max_size=12),
    twice=st.integers(0, 3),
    height=sides,
    width=sides,
    window=st.sampled_from([None, 1, 9, 15]),
)
def test_map_equals_one_gaussian_per_point_in_float64(people, twice, height, width, window):
    """Duplicates, points on the border and outside, a sigma for each."""
    people = np.array(people + people[:twice], dtype=float).reshape(-1, 3)
    points, sigma = people[:, :2], people[:, 2]
    density = hmode.density_map(points, (height, width), sigma=sigma, window=window)
    expected = density_by_points(points, (height, width), sigma, window)
    np.testing.assert_allclose(density.numpy(), expected, rtol=0, atol=2e-5)


def test_a_crowd_of_more_than_one_product_takes():
    points = random_points(9000, (12, 16), margin=-1.0)
    density = hmode.density_map(points, (12, 16), sigma=2.0)
    expected = density_by_points(points, (12, 16), [2.0] * 9000)
    np.testing.assert_allclose(density.numpy(), expected, rtol=1e-4)


def test_window_15_sigma_4_inside_is_the_normalised_gaussian_kernel_on_the_heads_pixel():
    steps = np.arange(-7, 8)
    kernel = np.exp(-(steps[:, None] ** 2 + steps[None] ** 2) / 32)
    expected = np.zeros((40, 50))
    expected[21 - 7 : 21 + 8, 30 - 7 : 30 + 8] = kernel / kernel.sum()
    for point in ([30.0, 21.0], [30.5, 21.5], [30.97, 21.02]):
        density = hmode.density_map([point], (40, 50), sigma=4.0, window=15)
        np.testing.assert_allclose(density.numpy(), expected, rtol=1e-5, atol=1e-12)


def test_tiny_sigma_is_the_heads_pixel_and_huge_sigma_the_whole_image():
    points = [[5.25, 6.75], [0.5, 0.9], [9.4, 11.6]]
    expected = torch.zeros(12, 10)
    expected[6, 5] = expected[0, 0] = expected[11, 9] = 1
    torch.testing.assert_close(hmode.density_map(points, (12, 10), sigma=1e-12), expected)
    even = hmode.density_map(points, (12, 10), sigma=1e6)
    torch.testing.assert_close(even, torch.full((12, 10), 3 / 120), rtol=1e-5, atol=0)


def test_points_may_be_lists_arrays_or_tensors_of_any_number_type():
    points = torch.tensor([[3.0, 4.0], [5.0, 1.0]])
    expected = hmode.density_map(points, (8, 9))
    for same in ([[3, 4], [5, 1]], points.long().numpy(), points.double()):
        assert torch.equal(hmode.density_map(same, (8, 9)), expected)


@pytest.mark.parametrize("window", [None, 15])
@pytest.mark.parametrize("per_point", [False, True])
def test_batch_maps_equal_single_maps_and_ignore_padding(window, per_point):
    size, counts = (20, 28), (7, 0, 3)
    points = torch.stack([random_points(7, size, seed=s) for s in range(3)])
    sigma = torch.linspace(0.5, 5, 21).reshape(3, 7) if per_point else 2.5
    valid = torch.arange(7)[None] < torch.tensor(counts)[:, None]
    batch = batch_density_maps(points, valid, size, sigma=sigma, window=window)
    assert batch.shape == (3, 1, *size)
    for b, n in enumerate(counts):
        one = hmode.density_map(
            points[b, :n], size, sigma=sigma[b, :n] if per_point else sigma, window=window
        )
        torch.testing.assert_close(batch[b, 0], one, rtol=1e-5, atol=1e-7)
    with torch.autocast("cpu", torch.bfloat16):
        again = batch_density_maps(points, valid, size, sigma=sigma, window=window)
        alone = hmode.density_map(points[0], size, window=window)
    assert torch.equal(again, batch)
    assert torch.equal(alone, hmode.density_map(points[0], size, window=window))
    assert not batch_density_maps(points[:, :0], valid[:, :0], size, window=window).any()


# Their gradients


def finite_differences(function, points, step=0.02):
    gradient = torch.zeros_like(points)
    for i in range(points.numel()):
        for sign in (1, -1):
            moved = points.clone()
            moved.view(-1)[i] += sign * step
            gradient.view(-1)[i] += sign * function(moved) / (2 * step)
    return gradient


def test_gradient_in_the_points_equals_finite_differences():
    size = (24, 30)
    weight = torch.tensor(np.random.default_rng(0).normal(size=size).cumsum(0).cumsum(1))
    points = random_points(4, size, seed=5)
    points[0] = torch.tensor([0.3, 23.6])  # where the frame cuts the Gaussian

    def loss(points):
        return (hmode.density_map(points, size, sigma=3.0).double() * weight).sum()

    moving = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(moving), moving)
    torch.testing.assert_close(gradient, finite_differences(loss, points), rtol=2e-3, atol=2e-3)


def test_gradient_with_a_window_is_that_of_the_cut_gaussian_around_its_pixel_centre():
    size, point = (30, 30), torch.tensor([[14.2, 11.9]])
    weight = np.random.default_rng(1).normal(size=size).cumsum(0).cumsum(1)
    rows, columns = np.mgrid[:30, :30] + 0.5

    def loss(centre):
        (x, y) = centre[0].double().numpy()
        kernel = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 32)
        kernel[(abs(columns - 14.5) > 7) | (abs(rows - 11.5) > 7)] = 0
        return torch.tensor((kernel / kernel.sum() * weight).sum(), dtype=torch.float32)

    moving = point.clone().requires_grad_()
    density = hmode.density_map(moving, size, sigma=4.0, window=15)
    (gradient,) = torch.autograd.grad((density.double() * torch.tensor(weight)).sum(), moving)
    expected = finite_differences(loss, torch.tensor([[14.5, 11.5]]))
    torch.testing.assert_close(gradient, expected, rtol=5e-3, atol=5e-3)


# Adaptive sigma


@settings(deadline=None, max_examples=80)
@given(
    points=st.lists(st.tuples(*[st.integers(0, 6).map(float) | coordinates] * 2), max_size=12),
    neighbours=st.integers(1, 5),
    beta=st.sampled_from([0.1, 0.3, 1.0]),
    fallback=st.sampled_from([1.0, 4.0, 15.0]),
)
def test_adaptive_sigma_equals_brute_force_with_duplicates(points, neighbours, beta, fallback):
    sigma = hmode.adaptive_sigma(points, neighbours=neighbours, beta=beta, fallback=fallback)
    expected = adaptive_sigma_by_pairs(points, neighbours, beta, fallback)
    assert sigma.shape == (len(points),)
    assert sigma.dtype == torch.float32
    np.testing.assert_allclose(sigma.numpy(), expected, rtol=1e-5)


def test_adaptive_sigma_by_hand_and_without_gradient():
    assert hmode.adaptive_sigma([[3.0, 4.0]] * 5, fallback=6.0).tolist() == [6.0] * 5
    two = hmode.adaptive_sigma(torch.tensor([[0.0, 0.0], [30.0, 40.0]], requires_grad=True))
    assert two.tolist() == pytest.approx([15.0, 15.0])  # 0.3 x 50
    assert not two.requires_grad
    sigma = hmode.adaptive_sigma([[0.0, 0.0], [0.0, 0.0], [10.0, 0.0]], neighbours=2, beta=1.0)
    assert sigma.tolist() == pytest.approx([5.0, 5.0, 10.0])


# Local counts


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), region=st.integers(1, 6))
def test_local_counts_are_the_sums_over_cells(rows, columns, region):
    shape = (2, 3, rows * region, columns * region)
    density = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = hmode.local_counts(density, region)
    assert counts.shape == (2, 3, rows, columns)
    for i in range(rows):
        for j in range(columns):
            cell = density[..., i * region : (i + 1) * region, j * region : (j + 1) * region]
            torch.testing.assert_close(counts[..., i, j], cell.sum((-2, -1)))
    torch.testing.assert_close(hmode.local_counts(density[0, 0], region), counts[0, 0])


# Bad input

TWO = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (hmode.density_map, {"points": np.zeros((4, 3))}, ["points", "[4, 3]", "[N, 2]"]),
        (hmode.density_map, {"points": [[1.0, float("nan")]]}, ["points", "finite"]),
        (hmode.density_map, {"sigma": 0.0}, ["sigma", "positive"]),
        (hmode.density_map, {"sigma": [4.0, float("inf")]}, ["sigma", "finite"]),
        (hmode.density_map, {"sigma": [4.0, 4.0, 4.0]}, ["sigma", "[3]", "[2]"]),
        (hmode.density_map, {"window": 14}, ["window", "14", "odd"]),
        (hmode.density_map, {"window": -3}, ["window", "-3", "odd"]),
        (hmode.density_map, {"window": 15.0}, ["window", "15.0", "odd"]),
        (hmode.density_map, {"size": (10, 0)}, ["size", "(10, 0)", "positive"]),
        (hmode.density_map, {"size": (10, 10, 3)}, ["size", "(10, 10, 3)", "height"]),
        (hmode.adaptive_sigma, {"points": np.zeros((4, 3))}, ["points", "[4, 3]", "[N, 2]"]),
        (hmode.adaptive_sigma, {"neighbours": 0}, ["neighbours", "0", "positive"]),
        (hmode.adaptive_sigma, {"beta": -0.3}, ["beta", "-0.3", "positive"]),
        (hmode.adaptive_sigma, {"fallback": float("nan")}, ["fallback", "nan", "positive"]),
        (hmode.local_counts, {"region": 5}, ["region", "5", "32", "48"]),
        (hmode.local_counts, {"region": 0}, ["region", "0", "32", "48"]),
        (hmode.local_counts, {"region": 2.5}, ["region", "2.5", "32", "48"]),
    ],
)
def test_bad_input_is_named(function, arguments, named):
    good = {
        hmode.density_map: {"points": TWO, "size": (10, 10)},
        hmode.adaptive_sigma: {"points": TWO},
        hmode.local_counts: {"density": torch.zeros(32, 48)},
    }
    with refusal(*named):
        function(**(good[function] | arguments))
