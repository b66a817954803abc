"""What a GPU would meet, checked without one: devices by fake tensors, a bare machine by blocking
what is no requirement. `benchmarks.gpu` checks the rest on the device itself."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import CONTEXT
from torch._subclasses.fake_tensor import FakeTensorMode

from hmode.cli import main
from hmode.density import batch_density_maps
from hmode.experiments import EXPERIMENTS
from hmode.losses import total_loss
from hmode.models import build_model
from hmode.profiles import load_profile
from hmode.step import TrainingStep

ROOT = Path(__file__).parents[1]
SMOKE = load_profile("smoke", "synthetic")


MODELS = {repr(row.model): row.model for row in EXPERIMENTS.values()}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_targets_forward_and_losses_of_every_row_stay_on_the_device(model):
    """A fake tensor on a GPU refuses to meet one on the CPU, and has no value to be read."""
    rows = [row for row in EXPERIMENTS.values() if row.model == model]
    losses = {repr(row.settings(SMOKE).loss): row.settings(SMOKE).loss for row in rows}
    with FakeTensorMode():
        with torch.device("cuda"):
            network = build_model({**SMOKE.model, **model})
        for module in network.modules():  # the members of groups are made on the CPU
            for name, buffer in module._buffers.items():
                module._buffers[name] = buffer.to("cuda")
        images = torch.empty(2, 3, 64, 64, device="cuda")
        points = torch.empty(2, 5, 2, device="cuda")
        valid = torch.empty(2, 5, dtype=torch.bool, device="cuda")
        target = batch_density_maps(points, valid, (64, 64), sigma=4.0)
        prediction = network(images)
        for settings in losses.values():
            if settings.relative_mining != "hard":  # there is no fake generator: without that term
                settings = replace(settings, relative_weight=0.0)
            found = total_loss(prediction, target, settings, points=points, valid=valid)
            assert {each.device.type for each in (target, *found.values())} == {"cuda"}


def test_network_average_and_optimiser_share_the_device_that_prepare_moves_to(monkeypatch):
    monkeypatch.setattr(torch, "Generator", lambda device: None)  # the meta device has none
    device = torch.device("meta")
    registered = []
    accelerator = SimpleNamespace(
        device=device,
        num_processes=1,
        register_for_checkpointing=registered.append,
        prepare=lambda network, optimiser: (network.to(device), optimiser),
        scaler=None,
    )
    schedule = load_profile("small", "synthetic").schedule
    assert schedule.average > 0
    step = TrainingStep(accelerator, build_model({"model": "HMoDE", "width": 1 / 16}), schedule)
    average = [*step.average.parameters(), *step.average.buffers()]
    assert {each.device for each in average} == {device}
    assert {each.device for each in step.network.parameters()} == {device}
    held = [each for group in step.optimiser.param_groups for each in group["params"]]
    assert {each.device for each in held} == {device}


BARE = """
import importlib.metadata, sys
for name in ("dask", "distributed", "papermill", "jupyterlab", "ipywidgets", "IPython",
             "matplotlib", "seaborn", "nbformat"):
    sys.modules[name] = None
real = importlib.metadata.version
def version(name):
    if name == "hmode":
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
from hmode.cli import main
main(sys.argv[1:])
"""


def command_line(arguments):
    main(arguments)


def test_a_bare_machine_sweeps_and_a_killed_sweep_goes_on(tmp_path, fresh_interpreter_environment):
    """Without Dask, notebooks, plots, and with the package not installed."""
    runs = tmp_path / "runs"
    call = ["sweep", "hmode", "baseline", "--seeds", "1", "--profile", "smoke", "--workers", "0"]
    call += ["--runs", str(runs)]
    first = CONTEXT.Process(target=command_line, args=(call,))
    first.start()
    done = runs / "smoke" / "synthetic" / "hmode-seed0" / "result.json"
    while first.is_alive() and not done.is_file():
        time.sleep(0.05)
    first.kill()
    first.join()
    before = done.read_bytes()
    bare = [sys.executable, "-c", BARE, *call]
    environment = fresh_interpreter_environment | {"PYTHONPATH": str(ROOT)}
    again = subprocess.run(bare, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert done.read_bytes() == before
    other = json.loads((runs / "smoke/synthetic/baseline-seed0/result.json").read_text())
    assert other["precision"] == "no"
    assert other["hmode"]


@pytest.mark.slow
def test_a_lease_that_is_cut_off_goes_on(tmp_path):
    """Killed when its first run is there, and begun again: the archive holds all runs."""
    keep, output = tmp_path / "keep", tmp_path / "out"
    call = [sys.executable, "-m", "benchmarks.device_lease", "--tiny", "--until", "3000"]
    call += ["--keep", str(keep), "--output", str(output), "--processes", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(call, cwd=ROOT, env=environment, start_new_session=True)
    while first.poll() is None and not list(keep.glob("runs/*/*/*/result.json")):
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    subprocess.run(call, cwd=ROOT, env=environment, check=True)
    with tarfile.open(output / "runs.tar.gz") as archive:
        names = {Path(name).parts[1:] for name in archive.getnames()}
    for dataset, run in (
        ("synthetic", "baseline"),
        ("synthetic", "hmode+rel"),
        ("scales", "hmode"),
    ):
        folder = ("smoke", dataset, f"{run}-seed0")
        assert {(*folder, name) for name in ("config.json", "test.csv", "result.json")} <= names
    assert ("smoke", "scales", "hmode-seed0", "gates.csv") in names
