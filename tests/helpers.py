"""Random maps, and what is asked of every loss on them."""

import torch
from reference import repeat

# Three experts, three groups, the final map.
OFFICIAL_WEIGHTS = torch.tensor([1.0, 1, 1, 2, 2, 2, 4])


def uniform(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def value_and_gradient(loss, leaf, seen=lambda x: x):
    leaf = leaf.clone().requires_grad_()
    value = loss(seen(leaf))
    assert value.ndim == 0
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def assert_same_as_repeated(loss, pred, side, rtol=1e-5):
    """`loss` of a coarse map, value and gradient, is that of the map repeated side x side."""
    value, gradient = value_and_gradient(loss, pred)
    full_value, full_gradient = value_and_gradient(loss, pred, lambda x: repeat(x, side))
    assert gradient.abs().max() > 0
    atol = rtol * full_gradient.abs().max().item()
    torch.testing.assert_close(value, full_value, rtol=rtol, atol=0)
    torch.testing.assert_close(gradient, full_gradient, rtol=rtol, atol=atol)


def fine(*shape, seed=1, dtype=torch.float64):
    """A target that varies inside the cells of a coarse map."""
    return 2 * uniform(*shape, seed=seed, dtype=dtype) ** 2
