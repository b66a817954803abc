"""Gates that know the truth, the best scale, and what a map tells about it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import crowd
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hmode.analysis import (
    View,
    best_choice,
    best_mixture,
    best_scale,
    map_names,
    mutual_information,
    oracle_errors,
    quantile_bins,
    scale_information,
    view,
)
from hmode.density import density_map
from hmode.errors import InputError
from hmode.models import Baseline, HMoDE, Prediction

SIZE = (50, 70)  # cells of 4 x 4 but for 2 rows at the bottom and 2 columns at the right


def network(kind=HMoDE, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(width=1 / 16, **settings).eval()


def prediction(kind=HMoDE, size=SIZE, seed=0, batch=1, **settings) -> Prediction:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return network(kind, **settings)(torch.randn(batch, 3, *size, generator=generator))


# What a network makes of an image.


@pytest.mark.parametrize(
    ("kind", "settings", "sizes", "names"),
    [
        (Baseline, {}, (3,), "E1 E2 E3 final"),
        (HMoDE, {}, (3, 3), "E1 E2 E3 Gr1 Gr2 Gr3 final"),
        (HMoDE, {"depth": 3}, (3, 3, 3), "E1 E2 E3 Gr1 Gr2 Gr3 Gr1' Gr2' Gr3' final"),
    ],
)
def test_maps_and_their_names(kind, settings, sizes, names):
    sample, predicted = crowd(12, SIZE), prediction(kind, **settings)
    found = view(sample, predicted)
    assert found.sizes == sizes
    assert found.names == map_names(sizes) == names.split()
    assert len(found.maps) == len(found.names)
    expected = predicted.maps[0] / predicted.scale
    torch.testing.assert_close(torch.from_numpy(found.maps), expected)
    np.testing.assert_array_equal(found.experts, found.maps[:3])
    last = predicted.levels[-1][0] / predicted.scale if predicted.levels else expected[:0]
    torch.testing.assert_close(torch.from_numpy(found.groups), last)


def test_one_output_has_neither_experts_nor_groups():
    assert map_names((0,)) == ["final"]
    density = torch.ones(1, 1, 8, 8)
    found = view(crowd(1, (64, 64)), Prediction(density, density[:, :0], (64, 64), 8, 1.0))
    assert len(found.experts) == len(found.groups) == 0
    with pytest.raises(InputError, match="experts"):
        oracle_errors([found])


def test_the_truth_on_the_grid():
    sample = crowd(12, SIZE)
    found = view(sample, prediction(), sigma=2.0)
    assert found.pixels.shape == found.truth.shape == (13, 18)
    assert (found.pixels[0, 0], found.pixels[-1, 0], found.pixels[0, -1]) == (16, 8, 8)
    assert found.pixels[-1, -1] == 4
    assert (found.pixels * found.truth).sum() == pytest.approx(12, rel=1e-5)
    density = density_map(sample.points, SIZE, sigma=2.0).numpy()
    for rows, columns in (((0, 4), (0, 4)), ((20, 24), (36, 40)), ((48, 50), (68, 70))):
        block = density[slice(*rows), slice(*columns)]
        cell = rows[0] // 4, columns[0] // 4
        assert found.truth[cell] == pytest.approx(block.mean(), rel=1e-4)
        assert found.variance[cell] == pytest.approx(block.var(), rel=1e-3, abs=1e-12)


def test_proxies():
    row = torch.arange(50.0)[:, None].expand(SIZE).contiguous()
    sample, predicted = replace(crowd(12, SIZE), perspective=row), prediction()
    found = view(sample, predicted).proxies
    assert set(found) == {"local density", "perspective", "attention"}
    expected = [*(4 * i + 1.5 for i in range(12)), 48.5]
    np.testing.assert_allclose(found["perspective"], np.repeat([expected], 18, axis=0).T)
    np.testing.assert_array_equal(found["attention"], predicted.attention[0, 0])
    truth = view(sample, predicted).truth
    assert found["local density"][6, 9] == pytest.approx(truth[2:11, 5:14].mean(), rel=1e-5)
    assert found["local density"][0, 17] == pytest.approx(truth[:5, 13:].mean(), rel=1e-5)
    assert set(view(crowd(12, SIZE), prediction(Baseline)).proxies) == {"local density"}


def test_only_what_lies_in_the_mask_counts():
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[:, :34] = True  # half of the ninth column of cells
    sample, predicted = replace(crowd(40, SIZE), mask=mask), prediction()
    found = view(sample, predicted)
    assert found.count == int((sample.points[:, 0] < 34).sum()) < 40
    assert (found.pixels[0, 7], found.pixels[0, 8], found.pixels[0, 9]) == (16, 8, 0)
    assert not found.maps[:, :, 9:].any()
    assert not found.truth[:, 9:].any()
    assert (best_scale(found.experts, found.truth)[:, 9:] == -1).all()
    density = density_map(sample.points, SIZE)
    assert (found.pixels * found.truth).sum() == pytest.approx(float(density[:, :34].sum()))
    final = oracle_errors([found])[found.names.index("final")]
    error = (predicted.full_size()[0, 0] - density)[:, :34]
    assert final["density_mse"] == pytest.approx(float((error**2).mean()), rel=1e-4)


def test_a_prediction_of_something_else():
    with pytest.raises(InputError, match=r"crowd.*\(64, 64\).*\(50, 70\)"):
        view(crowd(3, SIZE), prediction(size=(64, 64)))
    with pytest.raises(InputError, match="of 2 images"):
        view(crowd(3, SIZE), prediction(batch=2))


# The best scale, and gates that know it.


def test_the_best_scale_by_hand():
    truth = [[3.0, 3.0, 3.0, 0.0, 0.0, 5.0]]
    experts = [
        [[3.1, 0.0, 9.0, 0.0, 0.5, 5.0]],
        [[2.0, 4.0, 3.5, 0.0, 0.2, 5.0]],
        [[5.0, 2.5, 2.0, 0.0, 0.1, 1.0]],
    ]
    # Nearest: E1, E3, E2; nobody is there and nobody says so; E3 claims least; E1 and E2 tie.
    assert best_scale(experts, truth).tolist() == [[0, 2, 1, -1, 2, -1]]
    assert best_scale(experts, truth, floor=1.0).tolist() == [[0, 2, 1, -1, -1, -1]]
    assert best_choice(experts, truth).tolist() == [[3.1, 2.5, 3.5, 0.0, 0.1, 5.0]]
    assert best_mixture(experts, truth).tolist() == [[3.0, 3.0, 3.0, 0.0, 0.1, 5.0]]


densities = st.floats(0, 10, width=32)


@settings(max_examples=50)
@given(arrays(float, (3, 2, 4), elements=densities), arrays(float, (2, 4), elements=densities))
def test_no_gate_is_nearer_than_the_best_mixture(experts, truth):
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 50)  # any convex weights
    mixtures = np.tensordot(weights, experts, axes=1)
    best = np.abs(best_mixture(experts, truth) - truth)
    assert (best <= np.abs(mixtures - truth) + 1e-9).all()
    choice = np.abs(best_choice(experts, truth) - truth)
    assert (best <= choice).all()
    np.testing.assert_array_equal(choice, np.abs(experts - truth).min(axis=0))


def by_hand(maps, truth, count, sizes, pixels=((16, 8),), variance=((0.0, 0.0),)) -> View:
    maps, truth, pixels, variance = map(np.array, (maps, truth, pixels, variance))
    return View("image", count, maps, sizes, truth, variance, pixels, {})


def test_oracle_errors_by_hand():
    first = by_hand(
        [[[1.0, 0.5]], [[3.0, 1.0]], [[2.0, 0.75]]], [[2.5, 0.0]], 41, (2,), variance=[[0.5, 0.0]]
    )
    second = by_hand([[[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]]], [[2.0, 0.0]], 30, (2,))
    found = {row["map"]: row for row in oracle_errors(each for each in (first, second))}
    assert list(found) == [
        *("E1", "E2", "final", "best expert", "best mixture of experts", "average of experts")
    ]
    # Over 48 pixels: 16 (1 - 2.5)² + 8 · 0.5² + 16 (1 - 2)² + 8 · 0² for E1, and so on.
    squares = {"E1": 54, "E2": 84, "final": 46.5, "best expert": 22, "best mixture of experts": 18}
    for name, total in squares.items():
        assert found[name]["cell_mse"] == pytest.approx(total / 48), name
        assert found[name]["density_mse"] == pytest.approx((total + 16 * 0.5) / 48), name
    # E1 counts 20 of 41 and 16 of 30; the best expert 48 + 4 and 16; the mixture 40 + 4 and 16.
    assert found["E1"]["mae"] == pytest.approx((21 + 14) / 2)
    assert found["best expert"]["mae"] == pytest.approx((11 + 14) / 2)
    assert found["best mixture of experts"]["mae"] == pytest.approx((3 + 14) / 2)
    assert found["best mixture of experts"]["mse"] == pytest.approx(((9 + 196) / 2) ** 0.5)
    assert {k: v for k, v in found["final"].items() if k != "map"} == {
        k: v for k, v in found["average of experts"].items() if k != "map"
    }


def test_oracle_errors_are_those_of_whole_maps_at_full_size():
    samples = [crowd(12, SIZE, seed=1), crowd(5, (64, 48), seed=2)]
    outside = torch.tensor([[-3.0, 5.0]])  # is of the people, and in no map
    samples[0] = replace(samples[0], points=torch.cat([samples[0].points, outside]))
    predictions = [prediction(size=sample.size, seed=i) for i, sample in enumerate(samples)]
    views = [view(s, p, sigma=2.0) for s, p in zip(samples, predictions, strict=True)]
    found = {row["map"]: row for row in oracle_errors(views)}
    for c, name in enumerate(map_names((3, 3))):
        errors, counts = [], []
        for sample, predicted in zip(samples, predictions, strict=True):
            full = predicted.full_size(predicted.maps)[0, c].double()
            errors.append((full - density_map(sample.points, sample.size, sigma=2.0)).flatten())
            counts.append(float(full.sum()) - sample.count)
        assert found[name]["density_mse"] == pytest.approx(
            float((torch.cat(errors) ** 2).mean()), rel=1e-4
        )
        assert found[name]["mae"] == pytest.approx(np.abs(counts).mean(), rel=1e-4)
    experts, groups = (
        (found[f"best mixture of {kind}"], found[f"best {kind[:-1]}"])
        for kind in ("experts", "groups")
    )
    for mixture, choice in (experts, groups):
        assert mixture["cell_mse"] <= choice["cell_mse"]
    assert experts[0]["cell_mse"] <= groups[0]["cell_mse"] <= found["final"]["cell_mse"]


def test_oracle_errors_of_nothing_or_of_different_networks():
    with pytest.raises(InputError, match="0 views"):
        oracle_errors([])
    views = [view(crowd(3, SIZE), prediction(kind)) for kind in (Baseline, HMoDE)]
    with pytest.raises(InputError, match="same network"):
        oracle_errors(views)


# What a map tells.


@pytest.mark.parametrize(
    ("values", "bins", "expected"),
    [
        (range(8), 4, [0, 0, 1, 1, 2, 2, 3, 3]),
        ([30, 10, 20, 40], 2, [1, 0, 0, 1]),
        ([0, 0, 0, 1], 2, [0, 0, 0, 1]),  # the median is 0, and a bin of its own
        ([0, 0, 0, 0, 0, 0, 5, 9], 4, [1, 1, 1, 1, 1, 1, 3, 3]),
        ([7, 7, 7], 8, [4, 4, 4]),
        ([1.5], 8, [4]),
    ],
)
def test_quantile_bins_by_hand(values, bins, expected):
    assert quantile_bins(np.array(values), bins).tolist() == expected


@given(arrays(float, st.integers(1, 60), elements=st.integers(-9, 9)), st.integers(1, 9))
def test_quantile_bins_keep_order_and_ties(values, bins):
    found = quantile_bins(values, bins)
    assert found.min() >= 0
    assert found.max() < bins
    order = np.argsort(values, kind="stable")
    steps, rises = np.diff(found[order]), np.diff(values[order])
    assert (steps >= 0).all()
    assert (steps[rises == 0] == 0).all()
    np.testing.assert_array_equal(quantile_bins(3 * values + 1, bins), found)


def pairs(table):
    """The two arrays that a table of counts describes."""
    first, second = np.indices(np.shape(table)).reshape(2, -1)
    return np.repeat(first, np.ravel(table)), np.repeat(second, np.ravel(table))


@pytest.mark.parametrize(
    ("table", "bits"),
    [
        ([[50, 0], [0, 50]], 1.0),  # given away
        ([[10, 0, 0, 0], [0, 10, 0, 0], [0, 0, 10, 0], [0, 0, 0, 10]], 2.0),
        ([[25, 25], [25, 25]], 0.0),
        ([[2, 4, 6], [1, 2, 3]], 0.0),  # independent: the rows are proportional
        # 1 - H(0.7): H(0.7) = 0.7 log2(1 / 0.7) + 0.3 log2(1 / 0.3) = 0.36020 + 0.52109.
        ([[35, 15], [15, 35]], 0.118709),
        # H(1/2) + H(1/4) - H(1/4, 1/4, 1/2) = 1 + 0.811278 - 1.5.
        ([[1, 1], [0, 2]], 0.311278),
        ([[3, 5]], 0.0),  # one value has nothing to tell
    ],
)
def test_mutual_information_by_hand(table, bits):
    first, second = pairs(table)
    assert mutual_information(first, second) == pytest.approx(bits, abs=1e-6)
    assert mutual_information(second, first) == pytest.approx(bits, abs=1e-6)


def test_mutual_information_of_unrelated_arrays_is_its_known_bias():
    rng, n = np.random.default_rng(0), 1000
    drawn = [mutual_information(rng.integers(0, 3, n), rng.integers(0, 8, n)) for _ in range(100)]
    expected = (3 - 1) * (8 - 1) / (2 * n * np.log(2))
    assert np.mean(drawn) == pytest.approx(expected, rel=0.15)


def test_mutual_information_of_what_is_not_counted():
    for first in ([0, 1, 2], [], [0.5, 1.0], [-1, 0], [[0, 1]]):
        with pytest.raises(InputError, match="expected whole numbers"):
            mutual_information(first, [0, 1])


def random_scales(rng, images=4, shape=(20, 30)):
    return [rng.integers(-1, 3, shape) for _ in range(images)]


def test_a_map_that_gives_the_best_scale_away():
    rng = np.random.default_rng(0)
    best = random_scales(rng)
    values = [np.where(b < 0, np.nan, 10.0 * b + 1) for b in best]  # idle cells do not matter
    found = scale_information(best, values, rng=rng, bins=3)
    assert found.cells == sum((b >= 0).sum() for b in best)
    assert found.entropy == pytest.approx(np.log2(3), abs=0.01)
    assert found.bits == pytest.approx(found.entropy)
    assert found.share == pytest.approx(1)
    assert 0 <= found.shuffled_mean < 0.01
    assert found.shuffled_share == found.shuffled_mean / found.entropy


def test_a_map_that_tells_nothing_does_no_better_than_shuffled():
    rng = np.random.default_rng(1)
    best = random_scales(rng)
    values = [rng.normal(size=b.shape) for b in best]
    found = scale_information(best, values, rng=rng, shuffles=50)
    assert found.bits > 0  # the bias
    assert abs(found.bits - found.shuffled_mean) < 4 * found.shuffled_sd
    bias = (3 - 1) * (8 - 1) / (2 * found.cells * np.log(2))
    assert found.shuffled_mean == pytest.approx(bias, rel=0.3)


def test_shuffles_stay_within_an_image():
    """One image is all E1 with low values, another all E3 with high ones."""
    best = [np.zeros((4, 4), int), np.full((4, 4), 2)]
    values = [np.arange(16.0).reshape(4, 4), np.arange(16.0).reshape(4, 4) + 100]
    found = scale_information(best, values, rng=np.random.default_rng(0))
    assert found.bits == found.shuffled_mean == pytest.approx(1)
    assert found.shuffled_sd == pytest.approx(0)


def test_maps_that_do_not_fit():
    with pytest.raises(InputError, match=r"shape \[1, 2, 3\] .*expected \[K, h, w\] with K ≥ 2"):
        best_choice(np.zeros((1, 2, 3)), np.zeros((2, 3)))
    rng, best = np.random.default_rng(0), [np.zeros((2, 3), int)]
    good = [np.arange(6.0).reshape(2, 3)]
    for wrong in ([], [np.zeros((3, 2))], good * 2):
        with pytest.raises(InputError, match="same images and shapes"):
            scale_information(best, wrong, rng=rng)
    with pytest.raises(InputError, match="no cell"):
        scale_information([np.full((2, 3), -1)], good, rng=rng)
    with pytest.raises(InputError, match="no cell"):
        scale_information([], [], rng=rng)
    with pytest.raises(InputError, match="shuffles is 1"):
        scale_information(best, good, rng=rng, shuffles=1)
    with pytest.raises(InputError, match="bins is 0"):
        scale_information(best, good, rng=rng, bins=0)
    with pytest.raises(InputError, match="1 of 6 values are not finite"):
        scale_information(best, [np.where(good[0] == 3, np.nan, good[0])], rng=rng)
