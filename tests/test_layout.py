"""The order of weights and features in memory changes no result."""

import copy

import pytest
import torch
from conftest import crowds

import hmode
from hmode.data import CropSampler
from hmode.losses import total_loss
from hmode.models.layout import lay_out

CPU = torch.device("cpu")


def network():
    torch.manual_seed(0)
    return hmode.HMoDE(width=0.0625)


def lies_channels_last(module):
    return module.weight.is_contiguous(memory_format=torch.channels_last)


def convolutions(model):
    return [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Conv2d) and min(module.weight.shape) > 1
    ]


def test_all_lie_channels_last():
    assert all(map(lies_channels_last, convolutions(lay_out(network(), CPU))))


def test_losses_and_gradients_stay():
    model, other = network().double(), network().double()
    lay_out(lay_out(model, CPU), CPU)  # a second time changes nothing
    (batch,) = CropSampler(crowds([9, 30]), crop=64, batch_size=2, seed=0).epoch(0)
    images = batch.images.double().contiguous(memory_format=torch.channels_last)
    target = hmode.density_map(batch.points[0][batch.valid[0]], (64, 64)).expand(2, 1, 64, 64)
    for each in (model, other):
        total_loss(each(images), target.double())["total"].backward()
    for found, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-8, atol=1e-10)


def test_a_copy_and_other_weights_keep_it():
    model = copy.deepcopy(lay_out(network(), CPU))
    model.load_state_dict(network().state_dict())
    assert all(map(lies_channels_last, convolutions(model)))


@pytest.mark.parametrize("width", [0.0625, 1.0])
def test_another_kind_of_device_keeps_torchs_order_and_layers(width):
    with torch.device("meta"):
        model = hmode.HMoDE(width=width)
    before = [type(each) for each in model.modules()]
    assert all(p.is_contiguous() for p in lay_out(model, torch.device("mps")).parameters())
    assert [type(each) for each in model.modules()] == before
