"""Random maps and what is asked of every loss on them; finished runs made up by hand."""

import json

import numpy as np
import torch
from reference import repeat

from hmode.runs import write_csv

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


IMAGES = 40


def pretend(runs, experiment, seed, errors, **more):
    """A finished run whose absolute errors on the test images are those."""
    folder = runs / "small" / "synthetic" / f"{experiment.replace('/', '-')}-seed{seed}"
    folder.mkdir(parents=True)
    images = [
        {"name": f"image-{i}", "true": 100, "inside": 100, "predicted": 100 + e, "map0": 100 + e}
        for i, e in enumerate(errors)
    ]
    write_csv(folder / "test.csv", images)
    record = {
        "experiment": experiment,
        "dataset": "synthetic",
        "fold": None,
        "profile": "small",
        "seed": seed,
        "mae": float(np.mean(errors)),
        "mse": float(np.sqrt(np.mean(np.square(errors)))),
        "config": f"config of {experiment}",
        "device": "cpu",
    }
    (folder / "result.json").write_text(json.dumps(record | more))
