"""What REL is compared with in Table IX: global ranking, absolute counts, nested squares, and REL
on a branch of its own."""

import math

import pytest
import torch
from helpers import assert_same_as_repeated, fine, refusal, uniform, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import block_sums, repeat

from hmode.errors import InputError
from hmode.losses import (
    local_count_loss,
    nested_count_loss,
    ranking_loss,
    relative_count_loss,
)
from hmode.losses.ranking import log_soft_permutation, permutation


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


# GRL: the ranking of a batch


def soft_permutation_by_loops(scores, temperature):
    """NeuralSort, Grover et al., eq. 5, with ranks from 1."""
    n = len(scores)
    rows = []
    for rank in range(1, n + 1):
        logits = [
            ((n + 1 - 2 * rank) * s - sum(abs(s - other) for other in scores)) / temperature
            for s in scores
        ]
        weights = [math.exp(logit - max(logits)) for logit in logits]
        rows.append([weight / sum(weights) for weight in weights])
    return torch.tensor(rows, dtype=torch.float64)


@settings(deadline=None, max_examples=50)
@given(
    scores=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=7),
    temperature=st.floats(0.05, 10),
)
def test_the_soft_permutation_is_neural_sorts(scores, temperature):
    soft = log_soft_permutation(vector(*scores), temperature).exp()
    torch.testing.assert_close(soft, soft_permutation_by_loops(scores, temperature))
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(len(scores)).double())


def test_the_colder_the_soft_permutation_the_nearer_to_sorting():
    scores = vector(3, 9, 1, 4)
    exact = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]])
    torch.testing.assert_close(permutation(scores), exact.float())
    torch.testing.assert_close(log_soft_permutation(scores, 0.01).exp(), exact.double())


def test_images_that_tie_share_their_ranks():
    half, third = 1 / 2, 1 / 3
    expected = torch.tensor([[0, 1, 0], [half, 0, half], [half, 0, half]])
    torch.testing.assert_close(permutation(vector(1, 5, 1)), expected)
    torch.testing.assert_close(log_soft_permutation(vector(1, 5, 1), 0.01).exp().float(), expected)
    torch.testing.assert_close(permutation(vector(2, 2, 2)), torch.full((3, 3), third))


@pytest.mark.parametrize(("first", "second"), [(12.0, 4.0), (4.0, 12.0), (8.0, 8.0)])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_the_ranking_of_two_images_is_a_logistic_loss_of_their_difference(
    first, second, temperature
):
    """Both rows are the softmax of the two scores, here in mean true counts of 8."""
    loss = ranking_loss(vector(first, second), vector(14, 2), temperature=temperature)
    expected = math.log1p(math.exp(-(first - second) / 8 / temperature))
    assert loss.item() == pytest.approx(expected)


def test_the_right_order_costs_nothing_when_cold_and_the_reversed_one_much():
    true = vector(40, 10, 30, 20)
    for counts in (true, true**2, true - 100):
        assert ranking_loss(counts, true, temperature=0.01).item() == pytest.approx(0, abs=1e-6)
    assert ranking_loss(50 - true, true, temperature=0.01) > 50
    assert ranking_loss(50 - true, true) > 2 * ranking_loss(true, true)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_the_ranking_loss_knows_neither_the_order_of_a_batch_nor_the_size_of_its_crowds(data):
    n = data.draw(st.integers(2, 6), "images")
    true = vector(*data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n), "true"))
    counts = 10 * uniform(n, seed=data.draw(st.integers(0, 1000), "seed"))
    order = torch.tensor(data.draw(st.permutations(range(n)), "order"))
    loss = ranking_loss(counts, true)
    assert loss >= -1e-9
    torch.testing.assert_close(ranking_loss(counts[order], true[order]), loss)
    torch.testing.assert_close(ranking_loss(7 * counts, 7 * true), loss)


def test_true_counts_that_differ_by_rounding_tie_and_ask_for_equal_predictions():
    true = torch.tensor([3.0, 3.0 - 1e-6, 3.0 + 1e-6])
    assert ranking_loss(torch.tensor([5.0, 5.0, 5.0]), true).item() == pytest.approx(0, abs=1e-6)
    value, gradient = value_and_gradient(
        lambda c: ranking_loss(c, true), torch.tensor([6.0, 5.0, 4.0])
    )
    assert value > 0
    assert gradient[0] > 0 > gradient[2]


@pytest.mark.parametrize("true", [[7.0], [0.0], [0.0, 0.0, 0.0]])
def test_one_image_or_empty_ones_have_no_ranking(true):
    counts = torch.full((len(true),), 2.0)
    value, gradient = value_and_gradient(lambda c: ranking_loss(c, torch.tensor(true)), counts)
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("counts", "true", "temperature", "named"),
    [
        ([1.0, 2.0], [1.0], 1.0, ["[2]", "[1]"]),
        ([[1.0]], [[1.0]], 1.0, ["[1, 1]"]),
        ([1.0, 2.0], [1.0, 2.0], 0.0, ["temperature", "0.0"]),
        ([1.0, 2.0], [1.0, 2.0], float("nan"), ["temperature", "nan"]),
    ],
)
def test_bad_input_of_the_ranking_loss_is_named(counts, true, temperature, named):
    with refusal(*named):
        ranking_loss(torch.tensor(counts), torch.tensor(true), temperature=temperature)


# ALC: absolute local counts


def with_counts(counts, region=2):
    """A full-size map `[1, 1, H, W]` of square regions that hold these counts, evenly spread."""
    side = math.isqrt(len(counts))
    return repeat(vector(*counts).reshape(1, 1, side, side) / region**2, region)


@pytest.mark.parametrize(("cells", "side"), [(8, 4), (4, 2), (16, 1), (32, 4), (2, 8)])
def test_absolute_local_counts_of_a_coarse_map_are_those_of_the_repeated_map(cells, side):
    pred, target = uniform(2, 3, 16, 16), fine(2, 1, 16 * side, 16 * side)
    assert_same_as_repeated(lambda p: local_count_loss(p, target, cells=cells), pred, side)


def test_absolute_local_counts_are_summed_over_maps_and_averaged_over_images():
    pred, target, weights = uniform(3, 4, 8, 8), fine(3, 1, 16, 24)[..., :16], uniform(4, seed=5)
    full = repeat(pred, 2).numpy()
    expected = 0.0
    for b in range(3):
        true = block_sums(target[b, 0].numpy(), 4)
        for c in range(4):
            errors = abs(block_sums(full[b, c], 4) - true)
            expected += weights[c].item() * errors.mean() / (4 * 4) / 3
    found = local_count_loss(pred, target, cells=4, output_weights=weights)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("cells", [0, 3, -4, 2.0])
def test_cells_that_do_not_divide_the_image_are_named(cells):
    with pytest.raises(InputError, match=f"cells is {cells}.*16 and 32"):
        local_count_loss(torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 16, 32), cells=cells)


# REL on nested squares


def nested(pred, target, seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    return nested_count_loss(pred, target, generator=generator, **more)


@settings(deadline=None, max_examples=50)
@given(
    h=st.integers(1, 12),
    w=st.integers(1, 12),
    side=st.sampled_from([1, 4]),
    seed=st.integers(0, 99),
)
def test_squares_of_a_map_without_negative_values_are_always_in_order(h, w, side, seed):
    """So that a network that ends in a ReLU learns nothing from them."""
    pred, target = uniform(2, 3, h, w, seed=seed), torch.zeros(2, 1, h * side, w * side)
    value, gradient = value_and_gradient(lambda p: nested(p, target.double(), seed), pred)
    assert value.item() == pytest.approx(0, abs=1e-9)
    assert not gradient.any()


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
@pytest.mark.parametrize("seed", range(5))
def test_the_squares_are_the_largest_around_a_central_anchor_and_four_inside_it(size, seed):
    """Below zero everywhere all pairs are in the wrong order, and the gradient draws the squares:
    -1 between the outermost and the innermost, 0 elsewhere."""
    pred = -torch.ones(1, 1, *size, dtype=torch.float64)
    value, gradient = value_and_gradient(lambda p: nested(p, pred, seed), pred)
    ring = -gradient[0, 0]
    assert value == pytest.approx(ring.sum().item())
    assert ring.min() >= 0
    assert ring.max() <= 1 + 1e-9
    width = math.sqrt(value / (1 - 0.75**8))  # of the outermost square
    for axis, length in enumerate(size):
        along = (ring > 0).any(dim=1 - axis).nonzero()
        low, high = along.min().item(), along.max().item() + 1
        middle = (low + high) / 2
        assert high - low == pytest.approx(width, abs=2)
        assert abs(middle - length / 2) <= length / 16 + 1  # the central eighth
        hole = (ring.narrow(1 - axis, size[1 - axis] // 2, 1) < 1e-9).sum().item()
        assert hole - (length - (high - low)) == pytest.approx(width * 0.75**4, abs=4)
    short = min(size)
    assert short * 7 / 8 - 1e-9 <= width <= short  # it reaches a border


def test_every_image_has_its_own_anchor_and_all_its_maps_share_it():
    pred = -torch.ones(2, 3, 32, 32, dtype=torch.float64)
    _, gradient = value_and_gradient(lambda p: nested(p, pred[:, :1]), pred)
    assert not torch.equal(gradient[0], gradient[1])
    torch.testing.assert_close(gradient[:, 0], gradient[:, 2])


@pytest.mark.parametrize("side", [1, 2, 4])
def test_nested_squares_of_a_coarse_map_are_those_of_the_repeated_map(side):
    pred, target = uniform(3, 4, 12, 20) - 0.7, torch.zeros(3, 1, 12 * side, 20 * side)
    weights = uniform(4, seed=3)
    assert_same_as_repeated(
        lambda p: nested(p, target.double(), seed=7, output_weights=weights), pred, side
    )


def test_nested_squares_need_and_repeat_with_a_generator():
    pred, target = uniform(2, 1, 16, 16) - 0.6, torch.zeros(2, 1, 64, 64)
    assert nested(pred, target, 1) == nested(pred, target, 1) != nested(pred, target, 2)
    with pytest.raises(InputError, match=r"matryoshka.*generator"):
        nested_count_loss(pred, target)


# Double branch


def test_the_errors_of_another_map_can_choose_the_hard_regions():
    true = [16.0, 14, 12, 10, 9, 8, 7, 6, 5, 4, 3.5, 3, 2.5, 2, 1.5, 1]
    density, local = list(true), [0.5 * x for x in true]
    density[13], density[14] = 9.0, 9.0  # hard for the density map
    local[13], local[14] = 3.0, 5.0  # and in the wrong order on the branch of local counts
    local[0], local[1] = 0.0, 50.0  # which errs more elsewhere
    target = with_counts(true, 4)

    def loss(pred):
        return relative_count_loss(
            pred, target, judged=with_counts(density, 4), cells=4, regions=2, sublists=1
        )

    value, gradient = value_and_gradient(loss, with_counts(local, 4))
    assert value.item() == pytest.approx(5 - 3)
    expected = torch.zeros(16, dtype=torch.float64)
    expected[13], expected[14] = -1, 1
    torch.testing.assert_close(gradient, repeat(expected.reshape(1, 1, 4, 4), 4))
