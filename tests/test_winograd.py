"""Winograd's algorithm gives the convolution."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hmode
from hmode.models import winograd as module
from hmode.models.layout import lay_out
from hmode.models.winograd import A_T, B_T, G, WinogradConv2d, gains, suits, winograd


def test_four_outputs_of_a_filter_of_three_in_one_dimension():
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(6, generator=generator, dtype=torch.float64)
    taps = torch.randn(3, generator=generator, dtype=torch.float64)
    a_t, g, b_t = A_T.double(), (24 * G).round().double() / 24, B_T.double()
    expected = torch.stack([signal[i : i + 3] @ taps for i in range(4)])
    torch.testing.assert_close(a_t @ ((g @ taps) * (b_t @ signal)), expected)


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    bias=st.booleans(),
    last=st.booleans(),
    at_once=st.sampled_from([1, 36 * 20, 2**23]),
    seed=st.integers(0, 2**31),
)
def test_it_is_the_convolution_whatever_the_shape(batch, channels, size, bias, last, at_once, seed):
    """Value and gradients, computed at once or in parts."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels[0], *size, generator=generator)
    weight = torch.randn(channels[1], channels[0], 3, 3, generator=generator)
    added = torch.randn(channels[1], generator=generator) if bias else None
    given = torch.randn(batch, channels[1], *size, generator=generator)
    order = torch.channels_last if last else torch.contiguous_format
    x, weight, given = (each.contiguous(memory_format=order) for each in (x, weight, given))
    leaves = [each.requires_grad_() for each in (x, weight, added) if each is not None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", at_once)
        found = winograd(x, weight, added)
        gradients = torch.autograd.grad(found, leaves, given)
    expected = F.conv2d(x, weight, added, padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * channels[0])
    assert found.stride(1) == 1  # channels last
    sizes = [channels[1], found.numel(), found.numel()]
    for one, other, terms in zip(
        gradients, torch.autograd.grad(expected, leaves, given), sizes, strict=False
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * terms**0.5)


def test_its_error_is_some_millionths_of_the_result():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 256, 24, 20, generator=generator, requires_grad=True)
    weight = torch.randn(256, 256, 3, 3, generator=generator, requires_grad=True)
    given = torch.randn(1, 256, 24, 20, generator=generator)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    found = winograd(x, weight, None)
    for one, other in zip(
        (found, *torch.autograd.grad(found, (x, weight), given)),
        (exact, *torch.autograd.grad(exact, (x, weight), given.double())),
        strict=True,
    ):
        assert (one - other).norm() < 1e-5 * other.norm()


class Counted:
    """`winograd`, counting its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        return winograd(*args)


@pytest.fixture
def counted(monkeypatch):
    counted = Counted()
    monkeypatch.setattr(module, "winograd", counted)
    return counted


def pair(channels=4):
    """A convolution, and the same as a `WinogradConv2d`."""
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    return conv, WinogradConv2d.of(conv)


def test_small_inputs_other_types_and_autocast_are_left_to_torch(counted, monkeypatch):
    monkeypatch.setattr(module, "gains", lambda c_in, c_out, positions, trained: positions >= 2048)
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


@given(st.tuples(*[st.integers(1, 3000)] * 2), st.integers(1, 2**20), st.booleans())
def test_more_channels_or_positions_never_gain_less(channels, positions, trained):
    if gains(*channels, positions, trained):
        assert gains(*channels[::-1], positions, trained)
        assert gains(2 * channels[0], channels[1], positions, trained)
        assert gains(*channels, 2 * positions, trained)
        assert gains(*channels, positions, True)


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
    assert not any(isinstance(each, WinogradConv2d) for each in model.modules())


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
