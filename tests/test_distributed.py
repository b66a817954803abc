"""Two processes on the CPU give what one gives."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import crowds
from safetensors.torch import load_file
from torch import nn

import hmode
from hmode.models.batchnorm import SharedBatchNorm2d, synchronise_batch_norm
from hmode.profiles import Schedule

WORLD = 2
SCHEDULE = Schedule(epochs=2, batch_size=4, crop=64, learning_rate=1e-5, halve_after=())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# Shared batch norm


def example(channels=3):
    """x [6, channels, 5, 4] far from zero, and a linear loss's coefficients."""
    generator = torch.Generator().manual_seed(0)
    shape = (6, channels, 5, 4)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 20
    x[3:] += 7  # the two halves have other means
    return x, torch.randn(shape, generator=generator, dtype=torch.float64)


def layer(kind, channels=3):
    norm = kind(channels, momentum=0.3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.0, 3.0]))
    return norm


def through(norm, x, coefficients):
    x = x.clone().requires_grad_()
    y = norm(x)
    (y * coefficients).sum().backward()
    return {
        "y": y.detach(),
        "x.grad": x.grad,
        "weight.grad": norm.weight.grad,
        "bias.grad": norm.bias.grad,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
        "num_batches_tracked": norm.num_batches_tracked,
    }


def shared_in_one_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD
    )
    x, coefficients = (value.chunk(WORLD)[rank] for value in example())
    torch.save(through(layer(SharedBatchNorm2d), x, coefficients), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


class TestSharedBatchNorm:
    def test_it_is_batch_norm_of_the_whole_batch(self, tmp_path):
        """Outputs, all gradients and running statistics, in float64."""
        mp.start_processes(
            shared_in_one_process, args=(str(tmp_path),), nprocs=WORLD, start_method="forkserver"
        )
        parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
        whole = through(layer(nn.BatchNorm2d), *example())
        for name in ("y", "x.grad"):
            together = torch.cat([part[name] for part in parts])
            torch.testing.assert_close(together, whole[name], rtol=1e-9, atol=1e-9)
        for name in ("weight.grad", "bias.grad"):
            together = sum(part[name] for part in parts)
            torch.testing.assert_close(together, whole[name], rtol=1e-9, atol=1e-9)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            for part in parts:
                torch.testing.assert_close(part[name], whole[name], rtol=1e-9, atol=1e-9)

    def test_in_one_process_it_is_batch_norm(self):
        x, coefficients = example()
        shared = through(layer(SharedBatchNorm2d), x, coefficients)
        plain = through(layer(nn.BatchNorm2d), x, coefficients)
        assert all(torch.equal(shared[name], plain[name]) for name in plain)

    def test_a_network_is_converted_without_a_change(self):
        model = hmode.Baseline(width=0.0625).eval()
        images = torch.randn(1, 3, 64, 64)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        before = model(images).density
        norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
        assert synchronise_batch_norm(model) is model
        assert sum(isinstance(m, SharedBatchNorm2d) for m in model.modules()) == norms == 13
        assert torch.equal(model.eval()(images).density, before)
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# A whole training


def train(run_dir):
    """The run that one process and two processes are compared on."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return hmode.fit(
        hmode.HMoDE(width=0.0625),
        crowds([20, 35, 5, 50, 13, 0, 28, 41]),
        crowds([30, 12, 7], seed=50),
        SCHEDULE,
        run_dir=run_dir,
        test=crowds([25, 8, 40], size=(70, 66), seed=90),
        device="cpu",
    )


WORKER = """
    import json, os, sys
    sys.path.insert(0, {tests!r})
    import torch
    import hmode
    from conftest import crowds
    from test_distributed import train

    result = train({folder!r} + "/two")
    model = hmode.load_run(result.run_dir)
    everything = crowds([25, 8, 40, 2, 60], size=(64, 70), seed=3)
    tables = {{
        "table": hmode.evaluate(model, everything).table,
        "one": hmode.evaluate(model, everything[:1]).table,
        "best_epoch": result.best_epoch,
        "world": torch.distributed.get_world_size(),
    }}
    try:
        smoke = hmode.run("baseline", "sha", "smoke", data_root={data!r},
                          runs={folder!r} + "/runs", device="cpu")
        tables["smoke"] = smoke.evaluation.table
    except Exception as error:
        tables["smoke"] = repr(error)
    rank = torch.distributed.get_rank()
    with open(f"{folder}/{{rank}}.json", "w") as file:
        json.dump(tables, file)
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny_sha):
    """The folder in which two processes, started by torchrun, left their run and tables."""
    folder = tmp_path_factory.mktemp("distributed")
    script = folder / "worker.py"
    here = os.path.dirname(os.path.abspath(__file__))
    text = textwrap.dedent(WORKER).format(tests=here, folder=str(folder), data=str(tiny_sha))
    script.write_text(text)
    path = os.pathsep.join([os.getcwd(), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(WORLD)]
        + ["--master_addr", "127.0.0.1", "--master_port", str(free_port()), str(script)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return train(tmp_path_factory.mktemp("single") / "one")


class TestTwoProcesses:
    def tables(self, two):
        return [json.loads((two / f"{rank}.json").read_text()) for rank in range(WORLD)]

    def test_the_history_is_that_of_one_process(self, two, one):
        run = hmode.runs.RunFolder(two / "two")
        history = [{k: float(v) for k, v in row.items()} for row in run.table("history.csv")]
        assert [row.keys() for row in history] == [row.keys() for row in one.history]
        for ours, theirs in zip(history, one.history, strict=True):
            for name, value in theirs.items():
                assert ours[name] == pytest.approx(value, rel=1e-4), name
        assert all(tables["best_epoch"] == one.best_epoch for tables in self.tables(two))
        assert all(tables["world"] == WORLD for tables in self.tables(two))

    def test_the_weights_are_those_of_one_process(self, two, one):
        for which in ("best", "last"):
            ours = load_file(two / "two" / f"{which}.safetensors")
            theirs = load_file(one.run_dir / f"{which}.safetensors")
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                # Four steps of Adam move a weight by 4e-5; one without a gradient moves at random.
                torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-4, msg=name)

    def test_the_folder_is_that_of_one_process(self, two, one):
        names = {path.name for path in one.run_dir.iterdir()}
        assert {path.name for path in (two / "two").iterdir()} == names
        config = "config.json"
        assert (two / "two" / config).read_bytes() == (one.run_dir / config).read_bytes()

    def test_evaluation_gives_every_process_the_whole_table(self, two):
        model = hmode.load_run(two / "two")
        everything = crowds([25, 8, 40, 2, 60], size=(64, 70), seed=3)
        for name, data in (("table", everything), ("one", everything[:1])):
            expected = hmode.evaluate(model, data).table
            for tables in self.tables(two):
                assert [row["name"] for row in tables[name]] == [row["name"] for row in expected]
                for ours, theirs in zip(tables[name], expected, strict=True):
                    numbers = [key for key in theirs if key != "name"]
                    assert [ours[key] for key in numbers] == pytest.approx(
                        [theirs[key] for key in numbers], rel=1e-5, abs=1e-5
                    )

    def test_an_experiment_runs_in_both(self, two):
        first, second = (tables["smoke"] for tables in self.tables(two))
        assert first == second
        assert isinstance(first, list), first
        assert len(first) == 3


def test_the_two_halves_would_differ_without_sharing():
    """The example is one on which unshared statistics fail."""
    x, coefficients = example()
    whole = through(layer(nn.BatchNorm2d), x, coefficients)["y"]
    half = through(layer(nn.BatchNorm2d), x[:3], coefficients[:3])["y"]
    assert np.abs((whole[:3] - half).numpy()).max() > 0.1
