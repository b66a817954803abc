"""Networks made ready to count: the same maps, without batch norm."""

import pytest
import torch
from conftest import crowds
from torch import nn

import hmode
from hmode.models import MODELS, build_model, for_inference
from hmode.models.batchnorm import synchronise_batch_norm

SETTINGS = [
    {"model": "Baseline"},
    {"model": "Concat"},
    {"model": "CSRNet"},
    {"model": "DMCount"},
    {"model": "HMoDE"},
    {"model": "HMoDE", "experts": 4, "depth": 3},
    {"model": "HMoDE", "gating": "channel"},
    {"model": "HMoDE", "gate1": "msblock", "attention": "resblock"},
    {"model": "HMoDE", "local_head": True},
]


def trained(config):
    """A network whose batch norms do something, in training mode."""
    torch.manual_seed(0)
    model = build_model({"width": 0.0625, **config})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.train()


def values(prediction):
    fields = vars(prediction) | {"local": None}
    return {name: value for name, value in fields.items() if value is not None}


@pytest.mark.parametrize("config", SETTINGS, ids=str)
def test_every_map_and_gate_is_the_networks(config):
    model = trained(config)
    folded = for_inference(model)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())
    assert not folded.training
    images = torch.randn(2, 3, 64, 80)
    found, expected = values(folded(images)), values(model.eval()(images))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found["density"].std() > 0


def test_every_network_is_tried():
    assert {config["model"] for config in SETTINGS} == set(MODELS)


def test_the_network_itself_is_left_as_it_is():
    model = trained({"model": "HMoDE", "local_head": True})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for_inference(model)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert model.local_head is not None
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_layers_that_no_count_needs_are_left_out():
    assert for_inference(trained({"model": "HMoDE", "local_head": True})).local_head is None


def test_shared_batch_norms_are_folded_too():
    model = synchronise_batch_norm(trained({"model": "Baseline"}), torch.device("cpu"))
    images = torch.randn(1, 3, 64, 64)
    found, expected = for_inference(model)(images).density, model.eval()(images).density
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_images_counted_together_count_as_they_do_alone():
    """Sizes that alternate and repeat; more of one size than fit into a batch."""
    model = trained({"model": "HMoDE"})
    dataset = [
        *crowds([3, 9], (64, 64)),
        *crowds([5], (70, 66)),
        *crowds([1] * 3, (256, 512), seed=4),
        *crowds([2, 8], (64, 64), seed=9),
    ]
    together = hmode.evaluate(model, dataset).table
    for row, sample in zip(together, dataset, strict=True):
        (alone,) = hmode.evaluate(model, [sample]).table
        assert row.pop("name") == alone.pop("name") == sample.name
        assert row == pytest.approx(alone, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("config", SETTINGS, ids=str)
def test_under_autocast_weights_are_cast_once_and_the_maps_stay(config):
    model = trained(config)
    images = torch.randn(2, 3, 64, 80)
    folded = for_inference(model)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        low = for_inference(model)
        found, expected = low(images), folded(images)
    torch.testing.assert_close(values(found), values(expected), rtol=0, atol=0)
    types = {p.dtype for m in low.modules() if isinstance(m, nn.Conv2d) for p in m.parameters()}
    assert types == {torch.bfloat16}
    torch.testing.assert_close(found.count, folded(images).count, rtol=0.05, atol=0)
