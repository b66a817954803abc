"""The order of weights and features in memory changes no result."""

import copy

import pytest
import torch
from conftest import crowds

import hmode
from hmode.data import CropSampler
from hmode.losses import total_loss
from hmode.models import layout
from hmode.models.layout import lay_out

CPU = torch.device("cpu")


def network():
    torch.manual_seed(0)
    return hmode.HMoDE(width=0.0625)


@pytest.fixture
def small(monkeypatch):
    """So that gating net 2's largest convolutions count as large: 64 → 128 → 64 channels."""
    monkeypatch.setattr(layout, "LARGE", 9 * 64 * 128)


def large(model):
    return [model.gate2.layers[2], model.gate2.layers[4]]


def test_all_lie_channels_last_but_the_largest(small):
    model = lay_out(network(), CPU)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and min(module.weight.shape) > 1:
            last = module.weight.is_contiguous(memory_format=torch.channels_last)
            assert last is (module not in large(model))


def test_only_full_width_has_such():
    assert not [p for p in hmode.HMoDE(width=0.5).parameters() if p.numel() >= layout.LARGE]
    with torch.device("meta"):
        found = [p for p in hmode.HMoDE().parameters() if p.numel() >= layout.LARGE]
    assert [tuple(p.shape[:2]) for p in found] == [(2048, 1024), (1024, 2048)]


def test_losses_and_gradients_stay(small):
    model, other = network().double(), network().double()
    lay_out(lay_out(model, CPU), CPU)  # a second time changes nothing
    assert all(len(conv._forward_pre_hooks) == 1 for conv in large(model))
    (batch,) = CropSampler(crowds([9, 30]), crop=64, batch_size=2, seed=0).epoch(0)
    images = batch.images.double().contiguous(memory_format=torch.channels_last)
    target = hmode.density_map(batch.points[0][batch.valid[0]], (64, 64)).expand(2, 1, 64, 64)
    for each in (model, other):
        total_loss(each(images), target.double())["total"].backward()
    for found, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-8, atol=1e-10)


def test_a_copy_and_other_weights_keep_it(small):
    model = copy.deepcopy(lay_out(network(), CPU))
    model.load_state_dict(network().state_dict())
    for conv in large(model):
        assert conv.weight.is_contiguous()
        x = torch.randn(1, conv.in_channels, 4, 4).contiguous(memory_format=torch.channels_last)
        assert conv(x).is_contiguous()


def test_another_kind_of_device_keeps_torchs_order():
    assert all(p.is_contiguous() for p in lay_out(network(), torch.device("mps")).parameters())
