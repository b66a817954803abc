"""DM-Count's three terms against plain Sinkhorn, a linear programme, and sums by hand."""

import math

import numpy as np
import pytest
import torch
from helpers import uniform, value_and_gradient
from scipy.optimize import linprog
from scipy.special import logsumexp

from hmode.errors import InputError
from hmode.losses import count_loss, transport_loss, variation_loss


def grid_of(*rows):
    return torch.tensor(rows, dtype=torch.float64)[None, None]


def heads(*points):
    """Points `[1, N, 2]`, all valid."""
    points = torch.tensor(points, dtype=torch.float64).reshape(1, -1, 2)
    return points, torch.ones(points.shape[:2], dtype=torch.bool)


def squared_distances_by_loops(points, grid, stride):
    h, w = grid
    return np.array([
        [
            (x - stride * (j + 0.5)) ** 2 + (y - stride * (i + 0.5)) ** 2
            for i in range(h)
            for j in range(w)
        ]
        for x, y in np.asarray(points)
    ])  # fmt: skip


def entropic_transport(mass, cost, reg):
    """min ⟨P, C⟩ + reg Σ P log P for uniform heads, by Sinkhorn in logarithms to convergence."""
    a, b = np.full(len(cost), 1 / len(cost)), mass / mass.sum()
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(100):
        f = reg * (np.log(a) - logsumexp((g - cost) / reg, axis=1))
        g = reg * (np.log(b) - logsumexp((f[:, None] - cost) / reg, axis=0))
    plan = np.exp((f[:, None] + g - cost) / reg)
    return (plan * cost).sum() + reg * (plan * np.log(plan)).sum()


def random_heads(n, size, seed=3):
    return heads(*(uniform(n, 2, seed=seed) * size).tolist())


def test_transport_is_entropic_optimal_transport_in_pixels():
    people, (points, valid) = 0.1 + uniform(1, 1, 3, 4), random_heads(5, 6.0)
    cost = squared_distances_by_loops(points[0], (3, 4), 2)
    found = transport_loss(people, points, valid, stride=2)
    assert found.item() == pytest.approx(
        entropic_transport(people.flatten().numpy(), cost, 10.0), 1e-6
    )


def test_the_gradient_of_transport_is_that_of_its_value():
    people, (points, valid) = 0.1 + uniform(1, 1, 2, 3), random_heads(4, 4.0)
    cost = squared_distances_by_loops(points[0], (2, 3), 2)
    _, gradient = value_and_gradient(
        lambda p: transport_loss(p, points, valid, stride=2, iterations=300), people
    )
    mass = people.flatten().numpy()
    for cell in range(6):
        step = np.zeros(6)
        step[cell] = 1e-5
        up, down = (entropic_transport(mass + sign * step, cost, 10.0) for sign in (1, -1))
        assert gradient.flatten()[cell].item() == pytest.approx((up - down) / 2e-5, rel=1e-3)


@pytest.mark.parametrize("reg", [0.3, 0.1])
def test_transport_with_little_entropy_is_the_linear_programme(reg):
    people, (points, valid) = 0.1 + uniform(1, 1, 2, 2), random_heads(3, 2.0)
    cost = squared_distances_by_loops(points[0], (2, 2), 1)
    mass = people.flatten().numpy() / people.sum().item()
    rows, columns = np.kron(np.eye(3), np.ones(4)), np.kron(np.ones(3), np.eye(4))
    optimum = linprog(
        cost.flatten(), A_eq=np.vstack([rows, columns]), b_eq=[*[1 / 3] * 3, *mass]
    ).fun
    found = transport_loss(people, points, valid, stride=1, reg=reg, iterations=5000).item()
    assert optimum - reg * math.log(12) <= found <= optimum + 1e-6


def test_transport_costs_nothing_but_the_entropy_where_the_distributions_coincide():
    people = grid_of([3.0, 0.0], [0.0, 1.0])
    at_home = heads((4, 4), (4, 4), (4, 4), (12, 12))
    plan_entropy = -(3 * 0.25 * math.log(0.25) + 0.25 * math.log(0.25))
    found = transport_loss(people, *at_home, stride=8, reg=2.0).item()
    assert found == pytest.approx(-2.0 * plan_entropy, abs=1e-5)
    for elsewhere in ((8, 12), (12, 10)):
        away = heads((4, 4), (4, 4), (4, 4), elsewhere)
        cost = (elsewhere[0] - 12) ** 2 + (elsewhere[1] - 12) ** 2
        moved = transport_loss(people, *away, stride=8, reg=2.0).item()
        assert moved == pytest.approx(found + cost / 4, abs=1e-4)


def test_transport_moves_people_to_the_heads_and_keeps_their_number():
    people, (points, valid) = torch.ones(1, 1, 4, 4, dtype=torch.float64), heads((4, 4), (5, 3))
    _, gradient = value_and_gradient(lambda p: transport_loss(p, points, valid, stride=8), people)
    assert gradient[0, 0, 0, 0] == gradient.min() < 0 < gradient.max()
    assert gradient.sum().item() == pytest.approx(0, abs=1e-4)  # more of everything is no change


def test_the_pull_of_transport_is_bounded_however_far_the_heads():
    """As in the released code; with exact potentials it would be 200 times as much."""
    people, (points, valid) = torch.ones(1, 1, 32, 32, dtype=torch.float64), heads((1, 1))
    _, gradient = value_and_gradient(lambda p: transport_loss(p, points, valid, stride=8), people)
    assert gradient.abs().max() < 2 * 368.5 / 1024
    torch.testing.assert_close(gradient[..., 31, 31], gradient[..., 10, 20])


def test_variation_by_hand():
    people = grid_of([1.0, 0.0], [0.0, 3.0])
    two = heads((1, 2), (7, 7))  # both in the first cell
    assert variation_loss(people, *two, stride=8).item() == pytest.approx(2 * 0.75)
    right = heads((1, 2), (9, 9), (15, 15), (8, 8))
    assert variation_loss(people, *right, stride=8).item() == pytest.approx(0, abs=1e-5)
    beside = grid_of([1.0, 3.0, 0.0], [0.0, 0.0, 0.0])  # x runs along the rows
    right = heads((1, 2), (9, 3), (15, 0), (8, 7))
    assert variation_loss(beside, *right, stride=8).item() == pytest.approx(0, abs=1e-5)
    apart = heads((8, 0), (0, 8), (0, 8))
    assert variation_loss(people, *apart, stride=8).item() == pytest.approx(3)
    assert variation_loss(9 * people, *apart, stride=8).item() == pytest.approx(3)


def test_count_by_hand():
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
    people, points = (
        uniform(4, 1, 3, 5),
        uniform(4, 6, 2, seed=1) * torch.tensor([40.0, 24.0]).double(),
    )
    valid = torch.arange(6) < torch.tensor([6, 3, 0, 1])[:, None]
    singles = [
        loss(people[b : b + 1], points[b : b + 1, :n], valid[b : b + 1, :n])
        for b, n in enumerate(valid.sum(dim=1).tolist())
    ]
    torch.testing.assert_close(loss(people, points, valid), sum(singles) / 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("people", [0.0, 1e-9, 1.0, 1e4])
@pytest.mark.parametrize("n", [0, 1, 50])
@pytest.mark.parametrize("loss", MATCHING.values(), ids=MATCHING)
def test_matching_is_finite_for_empty_and_for_crowded_images(loss, n, people, dtype):
    """Fifty heads on one spot among them."""
    points, valid = torch.full((2, 50, 2), 3.0, dtype=dtype), torch.zeros(2, 50, dtype=torch.bool)
    valid[:, :n] = True
    maps = torch.full((2, 1, 16, 16), people / 256, dtype=dtype)
    value, gradient = value_and_gradient(lambda p: loss(p, points, valid), maps)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["transport", "variation"])
def test_an_image_without_people_has_only_a_count(name):
    points, valid = torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)
    value, gradient = value_and_gradient(
        lambda p: MATCHING[name](p, points, valid), uniform(1, 1, 4, 4).float()
    )
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("name", ["transport", "variation"])
def test_negative_values_count_as_no_people(name):
    people, (points, valid) = grid_of([2.0, -5.0], [-1.0, 1.0]), heads((3, 3), (12, 9))
    found = MATCHING[name](people, points, valid)
    torch.testing.assert_close(found, MATCHING[name](people.relu(), points, valid))


@pytest.mark.parametrize("name", ["transport", "variation"])
@pytest.mark.parametrize(
    ("points", "valid"),
    [((2, 5, 2), (2, 5)), ((1, 5, 3), (1, 5)), ((5, 2), (5,)), ((1, 5, 2), (1, 4))],
)
def test_points_that_do_not_belong_to_the_maps_are_named(name, points, valid):
    with pytest.raises(InputError) as error:
        MATCHING[name](torch.ones(1, 1, 4, 4), torch.ones(points), torch.ones(valid).bool())
    for words in (str(list(points)), str(list(valid)), "[1, N, 2]"):
        assert words in str(error.value)
