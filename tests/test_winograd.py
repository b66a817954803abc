"""Winograd's algorithm gives the convolution."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hmode.models import winograd as module
from hmode.models.winograd import A_T, B_T, G, gains, winograd


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


@given(st.tuples(*[st.integers(1, 3000)] * 2), st.integers(1, 2**20), st.booleans())
def test_more_channels_or_positions_never_gain_less(channels, positions, trained):
    if gains(*channels, positions, trained):
        assert gains(*channels[::-1], positions, trained)
        assert gains(2 * channels[0], channels[1], positions, trained)
        assert gains(*channels, 2 * positions, trained)
        assert gains(*channels, positions, True)
