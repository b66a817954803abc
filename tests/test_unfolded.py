"""A convolution as a matrix product is the convolution, to the rounding of bfloat16."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hmode.models.unfolded import unfolded

ROUNDING = 2**-8  # the most that one costs


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    bias=st.booleans(),
    order=st.sampled_from([torch.channels_last, torch.contiguous_format]),
    low=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_value_and_gradients_as_under_autocast(batch, channels, size, bias, order, low, seed):
    """Each number is off by four roundings of its terms at most: two factors, sum, their sum."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    c_in, c_out = channels
    x, weight = (
        each.contiguous(memory_format=order).requires_grad_()
        for each in (random(batch, c_in, *size), random(c_out, c_in, 3, 3))
    )
    added = random(c_out).requires_grad_() if bias else None
    leaves = [each for each in (x, weight, added) if each is not None]
    given = random(batch, c_out, *size)
    found = unfolded(x.bfloat16() if low else x, weight, added)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    gradients = torch.autograd.grad(found, leaves, given.bfloat16())

    def exact(transform):
        inputs = [transform(each.detach().double()).requires_grad_() for each in leaves]
        value = F.conv2d(*inputs, padding=1)
        return value, *torch.autograd.grad(value, inputs, transform(given.double()))

    for one, true, terms in zip(
        (found, *gradients), exact(lambda each: each), exact(torch.abs), strict=True
    ):
        assert ((one - true).abs() <= 4 * ROUNDING * terms + 1e-6).all()
    assert all(each.dtype == torch.float32 for each in gradients)
    assert gradients[1].stride() == weight.stride()
