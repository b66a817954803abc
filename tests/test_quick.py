"""Convolutions that choose by what they are computed give the same in each way."""

import copy

import pytest
import torch
from torch import nn

import hmode
from hmode.models import unfolded, winograd
from hmode.models.layout import lay_out
from hmode.models.quick import QuickConv2d, suits


class Counted:
    """A function, counting its calls."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


@pytest.fixture
def counted(monkeypatch):
    """`winograd`, counted."""
    counted = Counted(winograd.winograd)
    monkeypatch.setattr(winograd, "winograd", counted)
    return counted


@pytest.fixture
def products(monkeypatch):
    """`unfolded`, counted, and used from 4 channels on."""
    counted = Counted(unfolded.unfolded)
    monkeypatch.setattr(unfolded, "unfolded", counted)
    monkeypatch.setattr(unfolded, "CHANNELS", 4)
    monkeypatch.setattr(winograd, "gains", lambda *_: True)
    return counted


def pair(channels=4):
    """A convolution, and the same as a `QuickConv2d`."""
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    return conv, QuickConv2d.of(conv)


def test_small_inputs_other_types_and_autocast_are_left_to_torch(counted, monkeypatch):
    monkeypatch.setattr(winograd, "gains", lambda c_in, c_out, positions, _: positions >= 2048)
    conv, fast = pair()
    few, many = torch.randn(1, 4, 8, 8), torch.randn(2, 4, 32, 32)
    assert torch.equal(fast(few), conv(few))
    double, fast_double = (copy.deepcopy(each).double() for each in (conv, fast))
    assert torch.equal(fast_double(many.double()), double(many.double()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(many), conv(many))
    assert counted.calls == 0
    torch.testing.assert_close(fast(many), conv(many), rtol=1e-4, atol=1e-5)
    assert counted.calls == 1


def test_weights_are_shared_and_keep_their_names():
    conv, fast = pair()
    assert fast.weight is conv.weight
    assert fast.bias is conv.bias
    assert fast.state_dict().keys() == conv.state_dict().keys()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"bias": False}, True),
        ({"in_channels": 32}, False),
        ({"out_channels": 3}, False),
        ({"kernel_size": 1, "padding": 0}, False),
        ({"stride": 2}, False),
        ({"padding": 0}, False),
        ({"padding": 2, "dilation": 2}, False),
        ({"groups": 2}, False),
        ({"padding_mode": "reflect"}, False),
    ],
)
def test_what_suits(changes, expected):
    usual = {"in_channels": 256, "out_channels": 128, "kernel_size": 3, "padding": 1}
    with torch.device("meta"):
        assert suits(nn.Conv2d(**usual | changes)) is expected
        assert not suits(nn.Linear(256, 256))


def test_a_network_made_ready_to_count_uses_it_and_counts_the_same(counted):
    torch.manual_seed(0)
    model = hmode.HMoDE(width=0.5).eval()
    images = torch.randn(1, 3, 384, 384)
    with torch.inference_mode():
        found, expected = hmode.for_inference(model)(images), model(images)
    assert counted.calls >= 2
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.count, expected.count, rtol=1e-5, atol=0)
    assert not any(isinstance(each, QuickConv2d) for each in model.modules())


def test_a_network_laid_out_for_training_uses_it_and_has_the_same_gradients(counted):
    """A single ReLU that rounding opens or shuts moves them by some thousandths."""
    torch.manual_seed(0)
    model = hmode.HMoDE(width=0.5)
    other = copy.deepcopy(model)
    model = lay_out(model, torch.device("cpu"))
    assert list(model.state_dict()) == list(other.state_dict())
    images = torch.randn(2, 3, 128, 128)
    for each in (model, other):
        each(images).maps.square().mean().backward()
    assert counted.calls >= 5
    for (name, found), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        assert found.grad.stride() == found.stride()
        if found.ndim > 1:  # a bias before a batch norm has no gradient but rounding
            difference = (found.grad - expected.grad).norm()
            assert difference <= 0.02 * expected.grad.norm(), name


def step_under_autocast(model, enabled=True):
    """Maps, and the gradients of their mean square by parameter."""
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        maps = model(images).maps
    maps.square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.ndim > 1}
    return maps.detach(), gradients


def test_a_network_trained_under_autocast_uses_products_and_is_as_exact(products):
    """Beside the network as it is under autocast, and in float32."""
    torch.manual_seed(0)
    model = hmode.HMoDE(width=0.0625)
    plain, exact = copy.deepcopy(model), copy.deepcopy(model)
    maps, gradients = step_under_autocast(lay_out(model, torch.device("cpu")))
    assert products.calls >= 10
    plain_maps, plain_gradients = step_under_autocast(plain)
    true_maps, true_gradients = step_under_autocast(exact, enabled=False)
    assert gradients.keys() == true_gradients.keys()

    def error(found, true):
        return ((found - true).norm() / true.norm()).item()

    assert error(maps, true_maps) <= 2 * error(plain_maps, true_maps)
    for name, true in true_gradients.items():
        assert error(gradients[name], true) <= 2 * error(plain_gradients[name], true) + 0.01, name


def test_products_are_for_training_under_autocast_on_small_grids(products):
    conv, fast = pair()
    small, large = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 2 * unfolded.WIDEST)
    for x in (small, large.requires_grad_()):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fast(x), conv(x))
    assert products.calls == 0
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (each(small.requires_grad_()) for each in (fast, conv))
    assert products.calls == 1
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)
