"""What a density map, an adaptive sigma and a local count mean."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import adaptive_sigma_by_pairs, density_by_points

import hmode
import hmode.density
from hmode.density import batch_density_maps
from hmode.errors import InputError

coordinates = st.floats(-20, 60, width=32)
point_lists = st.lists(st.tuples(coordinates, coordinates), max_size=12)
whole = st.integers(0, 6).map(float)


def random_points(n, size, seed=0, margin=0.0):
    rng = np.random.default_rng(seed)
    height, width = size
    low, high = margin, (width - margin, height - margin)
    return torch.tensor(rng.uniform(low, high, (n, 2)), dtype=torch.float32)


def centres(n, size, seed=0):
    """Points strictly inside distinct or equal pixels, on a grid that float32 holds exactly."""
    rng = np.random.default_rng(seed)
    cells = np.stack([rng.integers(0, size[1], n), rng.integers(0, size[0], n)], axis=1)
    return torch.tensor(cells + rng.integers(10, 23, (n, 2)) / 32, dtype=torch.float32)


# Density maps: mass


@settings(deadline=None, max_examples=80)
@given(
    points=point_lists,
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    sigma=st.sampled_from([0.01, 0.3, 4.0, 50.0, 1e6]),
    window=st.sampled_from([None, 1, 3, 15, 101]),
)
def test_map_sums_to_the_points_inside_the_frame(points, height, width, sigma, window):
    density = hmode.density_map(points, (height, width), sigma=sigma, window=window)
    inside = sum(0 <= x < width and 0 <= y < height for x, y in points)
    assert density.shape == (height, width)
    assert density.dtype == torch.float32
    assert (density >= 0).all()
    assert density.sum().item() == pytest.approx(inside, rel=1e-4, abs=1e-12)


def test_no_points_give_a_map_of_zeros():
    for points in ([], np.zeros((0, 2)), torch.zeros(0, 2)):
        density = hmode.density_map(points, (7, 9))
        assert density.shape == (7, 9)
        assert density.dtype == torch.float32
        assert not density.any()


@pytest.mark.parametrize("window", [None, 15])
def test_duplicates_are_people(window):
    one = hmode.density_map([[5.2, 6.7]], (20, 16), window=window)
    four = hmode.density_map([[5.2, 6.7]] * 4, (20, 16), window=window)
    torch.testing.assert_close(four, 4 * one, rtol=1e-6, atol=0)


@pytest.mark.parametrize("window", [None, 15])
@pytest.mark.parametrize(
    "outside", [(-0.01, 5), (5, -0.01), (16, 5), (5, 20), (-358.7, 3), (17, 30)]
)
def test_a_point_outside_the_frame_lies_in_no_map(outside, window):
    inside = [(5.2, 6.7), (15.99, 19.99), (0.0, 0.0)]
    alone = hmode.density_map(inside, (20, 16), window=window)
    both = hmode.density_map([outside, *inside], (20, 16), window=window)
    assert torch.equal(both, alone)


def test_sigma_of_a_point_outside_is_dropped_with_it():
    points = [[-3.0, 5.0], [4.0, 4.0], [12.0, 9.0]]
    sigma = [9.0, 1.0, 3.0]
    both = hmode.density_map(points, (16, 20), sigma=sigma)
    assert torch.equal(both, hmode.density_map(points[1:], (16, 20), sigma=sigma[1:]))


# Density maps: shape


def test_window_15_sigma_4_inside_is_the_normalised_gaussian_kernel_on_the_heads_pixel():
    steps = np.arange(-7, 8)
    kernel = np.exp(-(steps[:, None] ** 2 + steps[None] ** 2) / 32)
    expected = np.zeros((40, 50))
    expected[21 - 7 : 21 + 8, 30 - 7 : 30 + 8] = kernel / kernel.sum()
    for point in ([30.0, 21.0], [30.5, 21.5], [30.97, 21.02]):
        density = hmode.density_map([point], (40, 50), sigma=4.0, window=15)
        np.testing.assert_allclose(density.numpy(), expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("window", [None, 15])
def test_map_equals_one_gaussian_per_point_in_float64(window):
    size = (96, 128)
    points = random_points(2000, size, seed=3)
    points[:20] = points[20:40]  # duplicates
    sigma = hmode.adaptive_sigma(points)
    density = hmode.density_map(points, size, sigma=sigma, window=window)
    expected = density_by_points(points, size, sigma, window)
    np.testing.assert_allclose(density.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("sigma", "window"), [(0.3, None), (4.0, None), (30.0, None), (4.0, 15)])
def test_map_at_the_border_equals_the_renormalised_gaussian(sigma, window):
    points = [[0.0, 0.0], [19.9, 3.0], [0.4, 29.9], [10.0, 29.0]]
    density = hmode.density_map(points, (30, 20), sigma=sigma, window=window)
    expected = density_by_points(points, (30, 20), [sigma] * 4, window)
    np.testing.assert_allclose(density.numpy(), expected, rtol=0, atol=1e-6)


def test_tiny_sigma_puts_every_head_on_its_pixel():
    points = centres(60, (12, 10))
    expected = np.zeros((12, 10))
    for x, y in points.numpy():
        expected[int(y), int(x)] += 1
    density = hmode.density_map(points, (12, 10), sigma=0.01)
    np.testing.assert_allclose(density.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [1e-12, 1e-20, 1e-30])
def test_map_stays_finite_for_any_positive_sigma(sigma):
    density = hmode.density_map([[5.25, 6.75]], (12, 10), sigma=sigma)
    assert density[6, 5].item() == pytest.approx(1.0)
    assert density.sum().item() == pytest.approx(1.0)


def test_huge_sigma_spreads_every_head_evenly():
    density = hmode.density_map(random_points(6, (8, 10)), (8, 10), sigma=1e6)
    torch.testing.assert_close(density, torch.full((8, 10), 6 / 80), rtol=1e-5, atol=0)


@pytest.mark.parametrize("window", [None, 9])
def test_mirroring_and_transposing_the_points_does_the_same_to_the_map(window):
    height, width = 24, 32
    points = centres(15, (height, width), seed=1)
    x, y = points.unbind(1)
    sigma = torch.linspace(0.5, 5, 15)

    def density(x, y, size):
        return hmode.density_map(torch.stack([x, y], 1), size, sigma=sigma, window=window)

    original = density(x, y, (height, width))
    close = {"rtol": 1e-5, "atol": 1e-7}
    torch.testing.assert_close(density(width - x, y, (height, width)), original.flip(1), **close)
    torch.testing.assert_close(density(x, height - y, (height, width)), original.flip(0), **close)
    torch.testing.assert_close(density(y, x, (width, height)), original.T, **close)


@pytest.mark.parametrize("window", [None, 9])
def test_moving_the_points_by_whole_pixels_moves_the_map(window):
    points = random_points(10, (40, 50), margin=14.0)
    original = hmode.density_map(points, (40, 50), sigma=1.5, window=window)
    moved = hmode.density_map(
        points + torch.tensor([3.0, -2.0]), (40, 50), sigma=1.5, window=window
    )
    torch.testing.assert_close(moved[5:30, 8:40], original[7:32, 5:37], rtol=1e-4, atol=1e-7)
    assert original[7:32, 5:37].sum().item() == pytest.approx(10, abs=1e-2)


def test_map_does_not_depend_on_how_many_points_one_product_takes(monkeypatch):
    points = random_points(103, (30, 40), margin=-4.0)
    sigma = torch.linspace(0.5, 6, 103)
    whole_map = hmode.density_map(points, (30, 40), sigma=sigma)
    monkeypatch.setattr("hmode.method.density.POINTS_PER_PRODUCT", 10)
    pieces = hmode.density_map(points, (30, 40), sigma=sigma)
    torch.testing.assert_close(pieces, whole_map, rtol=1e-5, atol=1e-6)


def test_points_may_be_lists_arrays_or_tensors_of_any_number_type():
    expected = hmode.density_map(torch.tensor([[3.0, 4.0], [5.0, 1.0]]), (8, 9))
    for points in (
        [[3, 4], [5, 1]],
        np.array([[3, 4], [5, 1]]),
        np.array([[3.0, 4.0], [5.0, 1.0]]),
        torch.tensor([[3.0, 4.0], [5.0, 1.0]], dtype=torch.float64),
    ):
        density = hmode.density_map(points, (8, 9))
        assert density.dtype == torch.float32
        assert torch.equal(density, expected)


def test_map_is_float32_and_exact_under_autocast():
    points = random_points(300, (20, 20))
    expected = hmode.density_map(points, (20, 20))
    with torch.autocast("cpu", torch.bfloat16):
        density = hmode.density_map(points, (20, 20))
    assert density.dtype == torch.float32
    assert torch.equal(density, expected)


# Density maps: gradient


def finite_differences(function, points, step):
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
    expected = finite_differences(loss, points, 0.02)
    torch.testing.assert_close(gradient, expected, rtol=2e-3, atol=2e-3)


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
    expected = finite_differences(loss, torch.tensor([[14.5, 11.5]]), 0.02)
    torch.testing.assert_close(gradient, expected, rtol=5e-3, atol=5e-3)


def test_descent_on_the_map_moves_a_point_to_where_it_should_be():
    target = hmode.density_map([[24.5, 16.25]], (36, 40))
    point = torch.tensor([[20.0, 20.0]], requires_grad=True)
    optimiser = torch.optim.Adam([point], lr=0.3)
    for _ in range(120):
        optimiser.zero_grad()
        (hmode.density_map(point, (36, 40)) - target).square().sum().mul(1e3).backward()
        optimiser.step()
    torch.testing.assert_close(point.detach(), torch.tensor([[24.5, 16.25]]), rtol=0, atol=0.05)


# Density maps: bad input


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"points": [1.0, 2.0, 3.0]}, ["points", "[3]", "[N, 2]"]),
        ({"points": np.zeros((4, 3))}, ["points", "[4, 3]", "[N, 2]"]),
        ({"points": [[1.0, float("nan")]]}, ["points", "finite"]),
        ({"points": [[float("inf"), 1.0]]}, ["points", "finite"]),
        ({"sigma": 0.0}, ["sigma", "positive"]),
        ({"sigma": -4.0}, ["sigma", "positive"]),
        ({"sigma": float("nan")}, ["sigma"]),
        ({"sigma": float("inf")}, ["sigma", "finite"]),
        ({"sigma": [4.0, 0.0]}, ["sigma", "positive"]),
        ({"sigma": [4.0, 4.0, 4.0]}, ["sigma", "[3]", "[2]"]),
        ({"sigma": [[4.0, 4.0]]}, ["sigma", "[1, 2]"]),
        ({"window": 14}, ["window", "14", "odd"]),
        ({"window": -3}, ["window", "-3", "odd"]),
        ({"window": 0}, ["window", "0", "odd"]),
        ({"window": 15.0}, ["window", "15.0", "odd"]),
        ({"size": (0, 10)}, ["size", "(0, 10)", "positive"]),
        ({"size": (10, -1)}, ["size", "-1", "positive"]),
        ({"size": 10}, ["size", "10", "height"]),
        ({"size": (10, 10, 3)}, ["size", "(10, 10, 3)", "height"]),
    ],
)
def test_bad_input_to_density_map_is_named(arguments, named):
    good = {"points": [[1.0, 2.0], [3.0, 4.0]], "size": (10, 10)}
    with pytest.raises(InputError) as error:
        hmode.density_map(**(good | arguments))
    for words in named:
        assert words in str(error.value)


# Batches


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


def test_batch_maps_are_float32_and_exact_under_autocast():
    points, valid = random_points(50, (16, 16))[None], torch.ones(1, 50, dtype=torch.bool)
    expected = batch_density_maps(points, valid, (16, 16))
    with torch.autocast("cpu", torch.bfloat16):
        batch = batch_density_maps(points, valid, (16, 16))
    assert batch.dtype == torch.float32
    assert torch.equal(batch, expected)


def test_batch_without_any_point_is_zero():
    maps = batch_density_maps(torch.zeros(2, 0, 2), torch.zeros(2, 0, dtype=torch.bool), (8, 8))
    assert maps.shape == (2, 1, 8, 8)
    assert not maps.any()


# Adaptive sigma


@settings(deadline=None, max_examples=80)
@given(
    points=st.lists(st.tuples(whole, whole), max_size=12),
    neighbours=st.integers(1, 5),
    beta=st.sampled_from([0.1, 0.3, 1.0]),
    fallback=st.sampled_from([1.0, 4.0, 15.0]),
)
def test_adaptive_sigma_equals_brute_force_with_duplicates(points, neighbours, beta, fallback):
    sigma = hmode.adaptive_sigma(points, neighbours=neighbours, beta=beta, fallback=fallback)
    expected = adaptive_sigma_by_pairs(points, neighbours, beta, fallback)
    assert sigma.shape == (len(points),)
    assert sigma.dtype == torch.float32
    assert (sigma > 0).all()
    np.testing.assert_allclose(sigma.numpy(), expected, rtol=1e-5)


def test_adaptive_sigma_equals_brute_force_for_scattered_points():
    points = random_points(150, (200, 300))
    expected = adaptive_sigma_by_pairs(points, 3, 0.3, 4.0)
    np.testing.assert_allclose(hmode.adaptive_sigma(points).numpy(), expected, rtol=1e-5)


def test_adaptive_sigma_of_none_one_and_two_points():
    assert hmode.adaptive_sigma([]).shape == (0,)
    assert hmode.adaptive_sigma([[3.0, 4.0]], fallback=7.0).tolist() == [7.0]
    two = hmode.adaptive_sigma([[0.0, 0.0], [30.0, 40.0]])
    assert two.tolist() == pytest.approx([15.0, 15.0])  # 0.3 x 50


def test_adaptive_sigma_of_people_at_one_place_is_the_fallback():
    assert hmode.adaptive_sigma([[3.0, 4.0]] * 5, fallback=6.0).tolist() == [6.0] * 5


def test_adaptive_sigma_counts_a_duplicate_as_a_neighbour_at_distance_zero():
    sigma = hmode.adaptive_sigma([[0.0, 0.0], [0.0, 0.0], [10.0, 0.0]], neighbours=2, beta=1.0)
    assert sigma.tolist() == pytest.approx([5.0, 5.0, 10.0])


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_adaptive_sigma_scales_with_the_image(scale):
    points = random_points(40, (100, 100))
    torch.testing.assert_close(
        hmode.adaptive_sigma(points * scale), hmode.adaptive_sigma(points) * scale
    )


def test_adaptive_sigma_follows_the_order_of_the_points_and_carries_no_gradient():
    points = random_points(40, (100, 100))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    sigma = hmode.adaptive_sigma(points)
    torch.testing.assert_close(hmode.adaptive_sigma(points[order]), sigma[order])
    assert not hmode.adaptive_sigma(points.requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"points": np.zeros((4, 3))}, ["points", "[4, 3]", "[N, 2]"]),
        ({"points": [[1.0, float("nan")]]}, ["points", "finite"]),
        ({"neighbours": 0}, ["neighbours", "0", "positive"]),
        ({"beta": -0.3}, ["beta", "-0.3", "positive"]),
        ({"fallback": 0.0}, ["fallback", "0.0", "positive"]),
        ({"fallback": float("nan")}, ["fallback", "nan", "positive"]),
    ],
)
def test_bad_input_to_adaptive_sigma_is_named(arguments, named):
    with pytest.raises(InputError) as error:
        hmode.adaptive_sigma(**({"points": [[1.0, 2.0], [3.0, 4.0]]} | arguments))
    for words in named:
        assert words in str(error.value)


# Local counts


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    region=st.integers(1, 6),
    lead=st.integers(0, 2),
)
def test_local_counts_are_the_sums_over_cells(rows, columns, region, lead):
    shape = ((2, 3)[:lead]) + (rows * region, columns * region)
    density = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = hmode.local_counts(density, region)
    assert counts.shape == (*shape[:-2], rows, columns)
    for i in range(rows):
        for j in range(columns):
            cell = density[..., i * region : (i + 1) * region, j * region : (j + 1) * region]
            torch.testing.assert_close(counts[..., i, j], cell.sum((-2, -1)))
    assert counts.sum().item() == pytest.approx(density.sum().item())


@pytest.mark.parametrize("region", [5, 0, -4, 2.5, 64])
def test_a_region_that_does_not_divide_the_map_is_named(region):
    with pytest.raises(InputError) as error:
        hmode.local_counts(torch.zeros(32, 48), region)
    for words in ("region", str(region), "32", "48"):
        assert words in str(error.value)
