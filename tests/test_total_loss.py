"""The training loss as a whole: its terms, their settings, their sum."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import OFFICIAL_WEIGHTS, uniform
from reference import relative_loss_by_loops, repeat

from hmode import (
    Baseline,
    HMoDE,
    LossSettings,
    Prediction,
    importance_loss,
    relative_count_loss,
    total_loss,
)
from hmode.errors import InputError
from hmode.losses import (
    SETTINGS,
    local_count_loss,
    loss_settings,
    nested_count_loss,
    ranking_loss,
    transport_loss,
    variation_loss,
)


def prediction_of(scale=100.0, batch=2, levels=1, seed=0, people=1.0):
    """Seven maps (three more with a second level) on 16 x 16 cells of 64 x 64 pixels."""

    def maps(channels, k):
        return people * scale * 0.01 * uniform(batch, channels, 16, 16, seed=10 * seed + k)

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


def entropy_by_pixels(attention, target):
    g = (target > 1e-5).double()
    return F.binary_cross_entropy(repeat(attention, 4), g, reduction="sum")


@pytest.mark.parametrize(
    ("name", "pixels", "relative_pixels"),
    [("paper", 1, 1), ("means", 64**2, 64**2), ("printed", 64**2, 1)],
)
def test_the_papers_total_is_the_sum_of_four_terms_on_full_size_maps(name, pixels, relative_pixels):
    """L_Eim stands beside sums over pixels; as printed, REL alone is a sum."""
    prediction = prediction_of(scale=100.0)
    losses = total_loss(prediction, TARGET, name)
    full = 100 * prediction.full_size(prediction.maps)
    relative = relative_loss_by_loops(full, 100 * TARGET, cells=8, regions=9, sublists=3)
    importance = prediction.gate1.sum((-2, -1)).numpy()
    expected = {
        "density": (full - 100 * TARGET).square().sum().item() / pixels / 2,
        "relative": relative / relative_pixels,
        "attention": entropy_by_pixels(prediction.attention, TARGET).item() / pixels / 2,
        "importance": ((importance.std(-1) / importance.mean(-1)) ** 2).sum() / 2,
    }
    expected["total"] = sum(expected.values())
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, 1e-6)


def test_the_official_total_sums_over_pixels_and_weighs_the_outputs_1_1_1_2_2_2_4():
    prediction = prediction_of(scale=100.0)
    losses = total_loss(prediction, TARGET, "official")
    full = 100 * prediction.full_size(prediction.maps)
    importance = prediction.gate1.sum((0, -2, -1)).numpy()
    squares = (full - 100 * TARGET).square().sum((0, 2, 3)) / 2
    expected = {
        "density": (squares * OFFICIAL_WEIGHTS).sum().item(),
        "relative": relative_loss_by_loops(
            full,
            100 * TARGET,
            cells=8,
            regions=9,
            sublists=3,
            form="official",
            weights=OFFICIAL_WEIGHTS,
        ),
        "attention": entropy_by_pixels(prediction.attention, TARGET).item() / 2,
        "importance": ((importance.std(-1, ddof=1) / importance.mean(-1)) ** 2).sum(),
    }
    expected["total"] = sum(expected.values())
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, 1e-6)


def test_the_total_weighs_each_named_term():
    weights = {"density": 0.5, "relative": 3.0, "attention": 0.25, "importance": 7.0}
    settings = LossSettings(**{f"{name}_weight": value for name, value in weights.items()})
    losses = total_loss(prediction_of(), TARGET, settings)
    plain = total_loss(prediction_of(), TARGET)
    for name in weights:
        torch.testing.assert_close(losses[name], plain[name])
    expected = sum(weight * plain[name] for name, weight in weights.items())
    torch.testing.assert_close(losses["total"], expected)


@pytest.mark.parametrize("term", ["density", "relative", "attention", "importance"])
def test_a_weight_of_zero_leaves_its_term_out(term):
    losses = total_loss(prediction_of(), TARGET, LossSettings(**{f"{term}_weight": 0.0}))
    names = {"density", "relative", "attention", "importance", "total"}
    assert losses.keys() == names - {term}
    torch.testing.assert_close(losses["total"], sum(v for k, v in losses.items() if k != "total"))


OTHERS = {"ranking": 0.5, "local": 2.0, "transport": 0.1, "count": 3.0, "variation": 0.01}


def crowd(batch=2, n=12):
    """Heads `[B, n, 2]` on 64 x 64 pixels, the last image short of some."""
    valid = torch.ones(batch, n, dtype=torch.bool)
    valid[-1, n // 2 :] = False
    return {"points": 64 * uniform(batch, n, 2, seed=50), "valid": valid}


def single_output(**more):
    """A prediction with a final map only, as of CSRNet and DM-Count."""
    prediction = prediction_of(levels=0, **more)
    prediction.attention, prediction.experts = None, prediction.experts[:, :0]
    return prediction


def test_the_terms_of_other_methods_join_by_name_on_their_maps_and_in_their_units():
    """On the final map in people per cell; the local counts on all maps as they are."""
    settings = LossSettings(**{f"{name}_weight": weight for name, weight in OTHERS.items()})
    prediction, heads = prediction_of(), crowd()
    losses = total_loss(prediction, TARGET, settings, **heads)
    people = prediction.density * 4**2 / 100
    torch.testing.assert_close(people.sum(dim=(1, 2, 3)), prediction.count)
    expected = {
        "ranking": 64**2 * ranking_loss(prediction.count, TARGET.sum(dim=(1, 2, 3))),
        "local": 64**2 * local_count_loss(prediction.maps, 100 * TARGET, cells=8),
        "transport": transport_loss(people, *heads.values(), stride=4),
        "count": (prediction.count - torch.tensor([12, 6])).abs().mean(),
        "variation": variation_loss(people, *heads.values(), stride=4),
    }
    plain = total_loss(prediction, TARGET)
    for name, value in expected.items():
        assert value > 0
        torch.testing.assert_close(losses[name], value)
    weighted = sum(OTHERS[name] * value for name, value in expected.items())
    torch.testing.assert_close(losses["total"], plain["total"] + weighted)
    assert not plain.keys() & expected.keys()


def test_the_temperature_and_the_cells_reach_their_terms():
    settings = LossSettings(
        density_reduction="mean",
        ranking_weight=1,
        ranking_temperature=0.2,
        local_weight=1,
        cells=4,
    )
    prediction, true = prediction_of(), TARGET.sum(dim=(1, 2, 3))
    losses = total_loss(prediction, TARGET, settings)
    ranking = ranking_loss(prediction.count, true, temperature=0.2)
    torch.testing.assert_close(losses["ranking"], ranking)
    local = local_count_loss(prediction.maps, 100 * TARGET, cells=4)
    torch.testing.assert_close(losses["local"], local)


def test_the_loss_of_dm_count_has_three_terms_with_their_published_weights():
    losses = total_loss(single_output(), TARGET, "dmcount", **crowd())
    assert losses.keys() == {"transport", "count", "variation", "total"}
    expected = losses["count"] + 0.1 * losses["transport"] + 0.01 * losses["variation"]
    torch.testing.assert_close(losses["total"], expected)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_terms_in_people_know_nothing_of_the_scale_of_the_maps(scale):
    settings = LossSettings(**{f"{name}_weight": 1.0 for name in OTHERS})
    one, other = (total_loss(prediction_of(s), TARGET, settings, **crowd()) for s in (100.0, scale))
    torch.testing.assert_close(other["local"], scale / 100 * one["local"])
    for name in ("ranking", "transport", "count", "variation"):
        torch.testing.assert_close(other[name], one[name])


@pytest.mark.parametrize("name", ["transport", "count", "variation"])
@pytest.mark.parametrize("missing", ["points", "valid"])
def test_a_term_without_the_points_it_needs_is_named(name, missing):
    heads = crowd() | {missing: None}
    with pytest.raises(InputError, match=rf"{missing}.*{name}_weight"):
        total_loss(prediction_of(), TARGET, LossSettings(**{f"{name}_weight": 0.5}), **heads)


def test_nested_squares_replace_the_regions():
    settings = LossSettings(relative_mining="matryoshka")

    def draw():
        return torch.Generator().manual_seed(0)

    below = prediction_of()
    below.density = below.density - 1.0
    expected = nested_count_loss(below.maps, TARGET, generator=draw())
    assert expected > 1
    losses = total_loss(below, TARGET, settings, generator=draw())
    torch.testing.assert_close(losses["relative"], expected)
    settings = replace(settings, relative_reduction="mean")
    by_pixel = total_loss(below, TARGET, settings, generator=draw())
    torch.testing.assert_close(by_pixel["relative"], expected / 64**2)
    with pytest.raises(InputError, match="generator"):
        total_loss(prediction_of(), TARGET, settings)


def test_a_branch_of_its_own_takes_the_relative_loss_from_the_density_maps():
    prediction = prediction_of()
    prediction.local = 0.5 * uniform(2, 1, 16, 16, seed=77)
    leaves = (prediction.density, prediction.experts, prediction.local)
    for leaf in leaves:
        leaf.requires_grad_()
    settings = LossSettings(output_weights="official", relative_reduction="sum")
    losses = total_loss(prediction, TARGET, settings)
    expected = relative_count_loss(prediction.local, 100 * TARGET, judged=prediction.density)
    torch.testing.assert_close(losses["relative"], expected)
    assert not torch.isclose(expected, relative_count_loss(prediction.local, 100 * TARGET))
    gradients = torch.autograd.grad(losses["relative"], leaves, allow_unused=True)
    assert gradients[0] is gradients[1] is None
    assert gradients[2].any()


@pytest.mark.parametrize("name", ["paper", "official"])
def test_a_network_with_one_output_has_one_map_to_supervise(name):
    prediction = single_output()
    losses = total_loss(prediction, TARGET, name)
    assert losses.keys() == {"density", "relative", "total"}
    weight = 1 if name == "paper" else 4
    full = 100 * prediction.full_size()
    squares = (full - 100 * TARGET).square().sum() / 2
    assert losses["density"].item() == pytest.approx(weight * squares.item())


@pytest.mark.parametrize("people", [0.0, 1.0])
def test_the_terms_of_other_methods_are_finite_for_images_without_people(people):
    prediction, heads = prediction_of(people=people), crowd()
    prediction.density.requires_grad_()
    heads["valid"][:] = False
    settings = LossSettings(**{f"{name}_weight": 1.0 for name in OTHERS})
    losses = total_loss(prediction, 0 * TARGET, settings, **heads)
    for loss in losses.values():
        assert torch.isfinite(loss)
    (gradient,) = torch.autograd.grad(losses["total"], prediction.density)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["paper", "printed", "official"])
def test_the_scale_of_the_maps_weighs_density_by_its_square_and_relative_counts_by_itself(name):
    one, hundred = (total_loss(prediction_of(scale), TARGET, name) for scale in (1.0, 100.0))
    torch.testing.assert_close(hundred["density"], 100**2 * one["density"])
    torch.testing.assert_close(hundred["relative"], 100 * one["relative"])
    torch.testing.assert_close(hundred["attention"], one["attention"])
    torch.testing.assert_close(hundred["importance"], one["importance"])


def test_settings_of_the_relative_loss_reach_it():
    kind = {"cells": 4, "regions": 5, "sublists": 2}
    settings = LossSettings(relative_form="official", relative_reduction="sum", **kind)
    prediction = prediction_of(scale=1.0)
    full = prediction.full_size(prediction.maps)
    expected = relative_loss_by_loops(full, TARGET, form="official", **kind)
    assert total_loss(prediction, TARGET, settings)["relative"].item() == pytest.approx(expected)


def test_random_regions_come_from_the_generator_given():
    settings = LossSettings(relative_mining="random")

    def relative(seed):
        generator = torch.Generator().manual_seed(seed)
        return total_loss(prediction_of(), TARGET, settings, generator=generator)["relative"]

    assert relative(0) == relative(0)
    assert relative(0) != relative(1)
    with pytest.raises(InputError, match="generator"):
        total_loss(prediction_of(), TARGET, settings)


def test_a_second_level_of_groups_is_supervised_weighed_and_balanced_like_the_first():
    prediction = prediction_of(levels=2)
    losses = total_loss(prediction, TARGET, LossSettings(output_weights="official"))
    full = 100 * prediction.full_size(prediction.maps)
    weights = torch.tensor([1.0] * 3 + [2.0] * 6 + [4.0])
    squares = (full - 100 * TARGET).square().sum((0, 2, 3)) / 2
    assert losses["density"].item() == pytest.approx((squares * weights).sum().item())
    both = sum(importance_loss(gate) for gate in prediction.gates)
    torch.testing.assert_close(losses["importance"], both)
    assert both > importance_loss(prediction.gates[0])


@pytest.mark.parametrize("settings", ["paper", "official"])
def test_the_baseline_has_no_terms_for_gates(settings):
    torch.manual_seed(0)
    model = Baseline(width=0.0625)
    prediction = model(torch.randn(2, 3, 64, 64))
    losses = total_loss(prediction, TARGET.float(), settings)
    assert losses.keys() == {"density", "relative", "total"}
    torch.testing.assert_close(losses["total"], losses["density"] + losses["relative"])


@pytest.mark.parametrize("settings", ["paper", "official"])
@pytest.mark.parametrize("empty", ["target", "prediction", "both"])
def test_losses_and_gradients_are_finite_for_empty_images_and_empty_maps(settings, empty):
    prediction = prediction_of()
    for name in ("density", "experts", "gate2", "attention"):
        setattr(prediction, name, getattr(prediction, name).float())
    prediction.levels = tuple(level.float() for level in prediction.levels)
    prediction.gates = tuple(gate.float() for gate in prediction.gates)
    target = TARGET.float()
    if empty != "prediction":
        target = torch.zeros_like(target)
    if empty != "target":
        prediction.density = torch.zeros_like(prediction.density)
        prediction.experts = torch.zeros_like(prediction.experts)
        prediction.levels = tuple(torch.zeros_like(level) for level in prediction.levels)
    leaves = [prediction.density, prediction.experts, prediction.levels[0], prediction.attention]
    for leaf in leaves:
        leaf.requires_grad_()
    losses = total_loss(prediction, target, settings)
    for loss in losses.values():
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        assert loss >= 0
    for gradient in torch.autograd.grad(losses["total"], leaves):
        assert torch.isfinite(gradient).all()
    if empty == "both":
        assert losses["density"] == losses["relative"] == 0


@pytest.mark.parametrize("settings", ["paper", "official"])
@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 2, 3), (4, 3, 2)])
def test_gradients_of_the_total_reach_every_parameter(settings, shape):
    torch.manual_seed(0)
    model = HMoDE(*shape, width=0.0625).train()
    generator = torch.Generator().manual_seed(0)
    prediction = model(torch.randn(2, 3, 64, 64, generator=generator))
    total_loss(prediction, TARGET.float(), settings)["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


# Settings


def test_settings_by_name_are_the_papers_and_the_released_codes():
    assert SETTINGS.keys() >= {"paper", "official"}
    assert loss_settings("paper") == LossSettings()
    assert loss_settings("official") != LossSettings()
    own = LossSettings(cells=4)
    assert loss_settings(own) is own


@pytest.mark.parametrize("name", ["Paper", "", None])
def test_an_unknown_name_of_settings_is_named(name):
    with pytest.raises(InputError) as error:
        total_loss(prediction_of(), TARGET, name)
    for words in (repr(name), "paper", "official"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ("density_reduction", ("mean", "sum")),
        ("attention_reduction", ("mean", "sum")),
        ("relative_reduction", ("mean", "sum")),
        ("relative_form", ("paper", "official")),
        ("relative_mining", ("hard", "random", "matryoshka")),
        ("importance_form", ("paper", "official")),
        ("output_weights", ("equal", "official")),
    ],
)
def test_an_unknown_choice_is_named_at_construction(field, allowed):
    for choice in allowed:
        assert getattr(LossSettings(**{field: choice}), field) == choice
    with pytest.raises(InputError) as error:
        LossSettings(**{field: "other"})
    for words in (field, "'other'", *allowed):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("density_weight", -1.0),
        ("relative_weight", float("nan")),
        ("attention_weight", -0.5),
        ("importance_weight", -1e-9),
        ("ranking_weight", -0.1),
        ("local_weight", float("nan")),
        ("transport_weight", -1.0),
        ("count_weight", -1.0),
        ("variation_weight", -1.0),
    ],
)
def test_a_negative_weight_is_named_at_construction(field, value):
    with pytest.raises(InputError) as error:
        LossSettings(**{field: value})
    for words in (field, str(value), "at least 0"):
        assert words in str(error.value)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_named_at_construction(value):
    with pytest.raises(InputError, match=f"ranking_temperature is {value}.*positive"):
        LossSettings(ranking_temperature=value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("cells", 0), ("cells", 5), ("regions", 0), ("regions", 65), ("sublists", 0)],
)
def test_settings_that_name_no_regions_are_named_before_any_loss(field, value):
    with pytest.raises(InputError) as error:
        total_loss(prediction_of(), TARGET, LossSettings(**{field: value}))
    for words in (field, str(value)):
        assert words in str(error.value)
