"""Two processes on the CPU give what one gives, whoever starts them."""

import importlib
import json
import os
import runpy
import socket
import sys
from pathlib import Path

import accelerate
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import crowds, run_process
from safetensors.torch import load_file
from torch import nn

import hmode
from hmode.density import batch_density_maps
from hmode.experiments import EXPERIMENTS
from hmode.experiments.running import initial_model
from hmode.fast.batchnorm import SharedBatchNorm2d, synchronise_batch_norm
from hmode.lab import Lab
from hmode.losses import total_loss
from hmode.profiles import Schedule, load_profile

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

    def test_in_one_process_it_is_batch_norm_and_its_halves_are_not(self):
        x, coefficients = example()
        shared, plain = (
            through(layer(k), x, coefficients) for k in (SharedBatchNorm2d, nn.BatchNorm2d)
        )
        assert all(torch.equal(shared[name], plain[name]) for name in plain)
        half = through(layer(nn.BatchNorm2d), x[:3], coefficients[:3])["y"]
        assert (plain["y"][:3] - half).abs().max() > 0.1

    @pytest.mark.parametrize(
        ("device", "kind"), [("cpu", SharedBatchNorm2d), ("cuda", nn.SyncBatchNorm)]
    )
    def test_a_network_is_converted_without_a_change(self, device, kind):
        model, images = hmode.Baseline(width=0.0625), torch.randn(2, 3, 64, 64)
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.eps, norm.momentum = 1e-2, 0.3
        model(images)  # the statistics are no longer those of a new layer
        state = {name: value.clone() for name, value in model.state_dict().items()}
        before = model.eval()(images).density
        assert synchronise_batch_norm(model, torch.device(device)) is model
        converted = [module for module in model.modules() if type(module) is kind]
        assert [(each.eps, each.momentum) for each in converted] == [(1e-2, 0.3)] * 13
        assert torch.equal(model.eval()(images).density, before)
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# A whole training


def initial_network():
    torch.manual_seed(0)
    return hmode.HMoDE(width=0.0625)


def train(run_dir):
    """The run that one process and two processes are compared on."""
    torch.set_num_threads(1)
    return hmode.fit(
        initial_network(),
        crowds([20, 35, 5, 50, 13, 0, 28, 41]),
        crowds([30, 12, 7], seed=50),
        SCHEDULE,
        run_dir=run_dir,
        test=crowds([25, 8, 40], size=(70, 66), seed=90),
        device="cpu" if torch.cuda.is_available() else "auto",
    )


EVERYTHING = crowds([25, 8, 40, 2, 60], size=(64, 70), seed=3)


def work(folder, data):
    """What each process does: it trains, with data also evaluates and runs an experiment, and
    writes what it saw."""
    result = train(Path(folder) / "two")
    found = {"best_epoch": result.best_epoch, "world": dist.get_world_size()}
    if data:
        model = hmode.load_run(result.run_dir)
        options = {"data_root": data, "runs": f"{folder}/runs", "device": "cpu"}
        found |= {
            "table": hmode.evaluate(model, EVERYTHING).table,
            "one": hmode.evaluate(model, EVERYTHING[:1]).table,
            "smoke": hmode.run("baseline", "sha", "smoke", **options).evaluation.table,
        }
    Path(folder, f"{dist.get_rank()}.json").write_text(json.dumps(found))


WORKER = """
from test_distributed import work

def task():
    work({folder!r}, {data!r})

if __name__ == "__main__":
    task()
"""
LAUNCHERS = ("torchrun", "accelerate launch", "notebook_launcher")


def launch(launcher: str, folder: Path, environment: dict) -> None:
    """Run worker.py in two processes on this machine, as from a shell in that folder."""
    os.environ |= environment
    os.chdir(folder)
    port = str(free_port())
    if launcher == "notebook_launcher":
        sys.path.insert(0, str(folder))
        task = importlib.import_module("worker").task
        accelerate.notebook_launcher(task, num_processes=WORLD, use_port=port)
        return
    if launcher == "torchrun":
        module, how = "torch.distributed.run", f"--nproc_per_node {WORLD} --master_addr 127.0.0.1"
        how += f" --master_port {port}"
    else:  # --multi_gpu alone starts several, with or without GPUs
        module, how = "accelerate.commands.launch", "--multi_gpu --num_machines 1"
        how += f" --num_processes {WORLD} --mixed_precision no --dynamo_backend no"
        how += f" --main_process_port {port}"
    sys.argv = [module, *how.split(), "worker.py"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@pytest.fixture(scope="module", params=LAUNCHERS)
def two(request, tmp_path_factory, tiny_sha, fresh_interpreter_environment):
    """The folder in which two processes left their run and tables."""
    folder = tmp_path_factory.mktemp("distributed")
    data = str(tiny_sha) if request.param == "torchrun" else ""  # where one sees enough
    text = WORKER.format(folder=str(folder), data=data)
    (folder / "worker.py").write_text(text)
    done = run_process(launch, request.param, folder, fresh_interpreter_environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return train(tmp_path_factory.mktemp("single") / "one")


class TestTwoProcesses:
    def tables(self, two):
        return [json.loads((two / f"{rank}.json").read_text()) for rank in range(WORLD)]

    def test_folder_and_history_are_those_of_one_process(self, two, one):
        names = {path.name for path in one.run_dir.iterdir()}
        assert {path.name for path in (two / "two").iterdir()} == names
        config = "config.json"
        assert (two / "two" / config).read_bytes() == (one.run_dir / config).read_bytes()
        history = hmode.runs.RunFolder(two / "two").numbers("history.csv")
        assert [row.keys() for row in history] == [row.keys() for row in one.history]
        for ours, theirs in zip(history, one.history, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
        for tables in self.tables(two):
            assert (tables["best_epoch"], tables["world"]) == (one.best_epoch, WORLD)

    def test_the_weights_are_those_of_one_process(self, two, one):
        """As far as rounding goes: apart by a few per cent of the way that training moved them.

        Adam's steps are of one size however small a gradient is, so where it is all rounding (a
        bias before a batch norm has none) so is the step. Without shared statistics it is 66 %.
        """
        start = initial_network()
        learnt = [name for name, _ in start.named_parameters()]
        before = start.state_dict()
        for which in ("best", "last"):
            ours = load_file(two / "two" / f"{which}.safetensors")
            theirs = load_file(one.run_dir / f"{which}.safetensors")
            assert ours.keys() == theirs.keys()
            apart = torch.cat([(ours[name] - theirs[name]).flatten() for name in learnt]).norm()
            moved = torch.cat([(theirs[name] - before[name]).flatten() for name in learnt]).norm()
            assert apart < 0.05 * moved, which
            for name in theirs.keys() - learnt:
                torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-4, msg=name)

    @pytest.mark.parametrize("two", ["torchrun"], indirect=True)
    def test_evaluation_and_an_experiment_give_every_process_the_whole_table(self, two):
        model = hmode.load_run(two / "two")
        for name, data in (("table", EVERYTHING), ("one", EVERYTHING[:1])):
            expected = hmode.evaluate(model, data).table
            for tables in self.tables(two):
                for ours, theirs in zip(tables[name], expected, strict=True):
                    assert ours.pop("name") == theirs["name"]
                    numbers = {key: value for key, value in theirs.items() if key != "name"}
                    assert ours == pytest.approx(numbers, rel=1e-5, abs=1e-5)
        first, second = (tables["smoke"] for tables in self.tables(two))
        assert first == second
        assert len(first) == 3


# Losses of which each process's share says all. In these rows (docs/clusters.md names them) a loss
# looks from one crop to another, or draws random regions, so the shares matter.
ACROSS = {
    "table9/grl",
    "table9/random",
    "table9/matryoshka",
    "official/batch-importance",
    "official/all",
    "official/all-no-rel",
}


def test_in_all_other_rows_the_loss_of_a_batch_is_the_mean_of_its_shares():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 64, 64, generator=generator, dtype=torch.float64)
    points = torch.rand(4, 20, 2, generator=generator) * 64
    people = torch.tensor([[4], [18], [0], [14]])
    valid = torch.arange(20) < people
    profile = load_profile("smoke", "synthetic")
    for name in EXPERIMENTS.keys() - ACROSS:
        network = initial_model(EXPERIMENTS[name], profile, 0).double().eval()
        schedule = EXPERIMENTS[name].settings(profile)

        def losses(share, network=network, schedule=schedule):
            target = batch_density_maps(points[share], valid[share], (64, 64), sigma=schedule.sigma)
            with torch.no_grad():
                prediction = network(images[share])
            return total_loss(
                prediction,
                target.double(),
                schedule.loss,
                points=points[share],
                valid=valid[share],
                generator=torch.Generator(),
            )

        whole, first, second = map(losses, (slice(None), slice(0, None, 2), slice(1, None, 2)))
        for term, value in whole.items():
            mean = (first[term] + second[term]) / 2
            torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-9, msg=f"{name}: {term}")


def test_rows_named_for_clusters_are_rows():
    text = Path(__file__).parents[1].joinpath("docs", "clusters.md").read_text(encoding="utf-8")
    assert EXPERIMENTS.keys() >= ACROSS
    assert all(f"`{name}`" in text for name in ACROSS)


# A notebook


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_what_a_notebook_does_before_leaves_cuda_to_its_processes(tmp_path):
    """A process that has asked CUDA for anything cannot be forked into ones that use it."""
    assert run_process(look_and_fork, tmp_path).stdout == "untouched\n"


def look_and_fork(output):
    lab = Lab("smoke", output=output)
    assert [part[0].image.shape for part in (lab.train, lab.validation, lab.test)]
    child = os.fork()
    if child == 0:
        os._exit(int(torch.cuda._is_in_bad_fork()))
    _, status = os.waitpid(child, 0)
    print("touched" if status else "untouched")
