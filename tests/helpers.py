"""Refusals; random maps and what is asked of every loss on them; every network, narrow; stored
networks, and finished runs made up by hand."""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from reference import repeat
from torch import nn

from hmode.cli import main
from hmode.errors import InputError
from hmode.experiments import EXPERIMENTS
from hmode.models import build_model
from hmode.runs import RunFolder, write_csv


@contextmanager
def refusal(*words, kind=InputError):
    """What is done inside is refused in these words."""
    with pytest.raises(kind) as error:
        yield
    assert [each for each in words if each not in str(error.value)] == []


def call(*arguments):
    """What comes of a command."""
    return CliRunner().invoke(main, [str(each) for each in arguments])


def one_line(*arguments):
    """The line with which a command is refused."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = result.output.strip().splitlines()
    assert line.startswith("Error: ")
    return line


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


NARROW = 0.0625
# The network of every row of the tables, by its row, and some that are in none.
ROWS = {repr(row.model): (name, row.model) for name, row in reversed(EXPERIMENTS.items())}
BASELINES = {f"Baseline of {k}": {"model": "Baseline", "experts": k} for k in (2, 3, 4, 5)}
GATINGS = ("image", "hard", "channel")
NETWORKS = dict(ROWS.values()) | BASELINES | {
    "MoE of five": {"depth": 1, "experts": 5},
    "two pairs of four": {"experts": 4, "groups": [[3, 0], [1, 2]]},
    "a three of five": {"experts": 5, "group_size": 3, "groups": [[0, 2, 4]]},
    "K=5, N=4": {"experts": 5, "group_size": 4},
    "K=4, D=3": {"experts": 4, "depth": 3},
    **{f"{kind}, MoE": {"gating": kind, "depth": 1} for kind in GATINGS},
    **{f"{kind}, D=3": {"gating": kind, "depth": 3} for kind in GATINGS},
    "channel, ((E1, E3), E2)": {"gating": "channel", "groups": [[0, 2]]},
    "K=2 on EB1, finer than the maps": {"experts": 2, "depth": 1, "gate1_input": "EB1"},
    "K=4 on DB1, coarser than the maps": {"experts": 4, "gate1_input": "DB1"},
    "wide encoder": {"encoder_width": 0.125},
}  # fmt: skip
MIXTURES = {name: v for name, v in NETWORKS.items() if v.get("model", "HMoDE") == "HMoDE"}


def each(networks):
    """A test's argument `settings`, of each network of a table."""
    return pytest.mark.parametrize("settings", networks.values(), ids=list(networks))


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def narrow(settings=None, *, seed=0, uneven=True):
    """A narrow network; the nearly even gates that a new one starts with would hide errors."""
    torch.manual_seed(seed)
    network = build_model({"model": "HMoDE", "width": NARROW} | (settings or {})).eval()
    for name, module in network.named_modules():
        if uneven and name.startswith(("inner_gates", "gate2")) and isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network


def stored(path, model="HMoDE", state=None, **config):
    """A run folder with a random network's configuration and weights, as a training leaves it."""
    torch.manual_seed(0)
    network = build_model({"model": model, "width": 0.0625})
    run = RunFolder(path)
    run.claim({"model": network.config, **config}, resume=True)
    run.save_weights("best", network.state_dict() if state is None else state)
    return path


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


# At their size the photographs of 00 and 10 take as long as all the trainings of the series.
SMALL_PHOTOGRAPHS = """
def start():
    from dataclasses import replace
    from hmode.pretrained import Card

    read = Card.read

    def smaller(name, *folder):
        card = read(name, *folder)
        return replace(card, working_pixels=card.working_pixels and card.working_pixels // 16)

    Card.read = smaller

start()
del start
"""


def ipython_folder(folder: Path, *scripts: str) -> str:
    """A folder for IPYTHONDIR, by which a kernel runs these first, and counts photographs at a
    sixteenth of their pixels."""
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True)
    for i, script in enumerate((SMALL_PHOTOGRAPHS, *scripts)):
        (startup / f"{i}.py").write_text(script)
    return str(folder)
