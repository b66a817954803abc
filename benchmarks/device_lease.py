"""Real trainings on a GPU that is there for minutes, in three commands:

    python -m benchmarks.device_lease first --keep FOLDER --output OUT   # does everything run?
    python -m benchmarks.device_lease tries --keep FOLDER --output OUT   # schedules, on held-out
    python -m benchmarks.device_lease train --keep FOLDER --output OUT   # the tables

Each takes along what lies in `data/lease` (a part of `ShanghaiTech`, `weights.safetensors`), so
that they can come in several shipments; all keep what they have in FOLDER and write archives to OUT
as they go, which hold all but weights: those of full width are too large to be sent back. `--tiny`
is the same at a toy size on drawn crowds, on the CPU too. Killed and started again, each goes on.
"""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import save_file

import hmode
from benchmarks import gpu
from hmode.analysis import gate_use
from hmode.cli.options import options
from hmode.evaluation import predict
from hmode.experiments import EXPERIMENTS, rows, splits
from hmode.experiments.running import initial_model
from hmode.models import for_inference
from hmode.profiles import load_profile
from hmode.runs import read_csv, write_csv
from hmode.step import computing
from hmode.sweep import Job, Plan, sweep

LOOKED_AT = 60  # test images whose gates are measured
MAPPED = (0, 23, 46, 69, 92, 115, 138, 161)  # test images whose maps are kept
DECISIVE = [
    "gates/means", "table4/moe", "table4/no-importance", "table4/no-attention", "gates/importance2",
    "gates/rate-3", "gates/long", "table4/phw", "table4/iw", "official/all",
]  # fmt: skip
# (profile, data set, experiments, first seed, seeds), in order of value.
TABLE_1 = ["baseline", "hmode", "hmode+rel"]
PLANS = [
    ("full", "sha", TABLE_1, 0, 3),
    ("photos", "sha", ["hmode+rel"], 0, 1),
    ("paper", "sha", ["baseline", "hmode+rel", "hmode"], 0, 1),
    ("full", "sha", DECISIVE, 0, 1),
    ("full", "sha", DECISIVE, 1, 2),
    ("paper", "sha", ["baseline", "hmode+rel", "hmode"], 1, 2),
    *(("full", "sha", ["table4", "gates", "table9", "official"], seed, 1) for seed in range(3)),
]
TABLES = ("table4", "gates", "table9", "official")  # what stands for all of its rows
TINY_PLANS = [("smoke", "synthetic", TABLE_1, 0, 1), ("smoke", "scales", ["hmode"], 0, 1)]
# Profile, epochs, learning rate, crop.
TRIES = [
    ("full", 40, 1e-4, 128),
    ("full", 40, 2e-4, 128),
    ("full", 80, 5e-5, 128),
    ("full", 80, 1e-4, 128),
    ("full", 80, 2e-4, 128),
    ("photos", 100, 1e-4, 128),
    ("photos", 100, 2e-4, 128),
    ("photos", 100, 2e-4, 256),
    ("photos", 200, 1e-4, 256),
    ("photos", 200, 2e-4, 256),
]
TINY_TRIES = [("smoke", 1, 1e-3, 64), ("smoke", 2, 1e-3, 64)]
SPAWN = multiprocessing.get_context("spawn")


# What each of several processes does


class Kept(Plan):
    """A plan that keeps of each run what is small: how its gates gate, maps of a few images."""

    def run(self, job: Job) -> float:
        error = super().run(job)
        keep(self, job)
        return error


def keep(plan: Plan, job: Job) -> None:
    """Measure a finished run's gates and maps, and drop its weights of full width."""
    folder = plan.folder(job)
    profile = load_profile(plan.profile, plan.dataset)
    *_, test = splits(plan.dataset, profile, plan.data_root)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = for_inference(hmode.load_run(folder)).to(device)
    chosen = np.linspace(0, len(test) - 1, min(LOOKED_AT, len(test))).astype(int)
    gates, maps = [], {}
    with computing(profile.schedule.precision, device):
        for index in chosen:
            prediction = predict(model, test[index])
            if prediction.gate1 is None:
                break
            gates.append(gate_use(test[index], prediction, sigma=profile.schedule.sigma))
        if job.seed == 0 and job.experiment in TABLE_1:
            for sample in (test[i] for i in MAPPED if i < len(test)):
                found = maps_of(predict(model, sample))
                maps |= {f"{sample.name}/{part}": value for part, value in found.items()}
    if maps:
        np.savez_compressed(folder / "maps.npz", **maps)
    if gates:
        write_csv(folder / "gates.csv", gates)
    if profile.width == 1.0 or plan.profile != "photos":
        for weights in folder.glob("*.safetensors"):
            weights.unlink()


def maps_of(prediction) -> dict[str, np.ndarray]:
    """Maps in people per pixel and weights, half precision, gates on their own coarse grid."""
    found = {"maps": prediction.maps[0] / prediction.scale}
    if prediction.gate1 is not None:
        found["gate1"] = prediction.gate1[0].flatten(0, 1)[:, ::4, ::4]
    if prediction.gate2 is not None:
        found["gate2"] = prediction.gate2[0][:, ::4, ::4]
    return {name: value.cpu().numpy().astype(np.float16) for name, value in found.items()}


def plans(keep_in: Path, tiny: bool, rank: int, of: int, ends: float) -> None:
    """Do the plans' runs, past those that another process is at."""
    for profile, dataset, names, first_seed, seeds in TINY_PLANS if tiny else PLANS:
        chosen = [row for name in names for row in (rows(name) if name in TABLES else [name])]
        plan = Kept(chosen, seeds, first_seed, dataset, profile, None, "auto", keep_in / "runs")
        if time.time() < ends:
            failures = sweep(plan, workers=0, until=ends - time.time(), say=click.echo)
            click.echo(f"failures: {failures}")


def some_tries(keep_in: Path, tiny: bool, rank: int, of: int, ends: float) -> None:
    """This process's share of the tries."""
    dataset, device = ("synthetic", "cpu") if tiny else ("sha", "cuda")
    share = [(seed, *each) for seed in range(2) for each in (TINY_TRIES if tiny else TRIES)]
    table, decoded = [], None
    for seed, name, epochs, rate, crop in share[rank::of]:
        if time.time() > ends:
            return
        profile = load_profile(name, dataset)
        if decoded is None:
            parts = splits(dataset, profile)[:2]
            decoded = [hmode.data.Resident(part, device) for part in parts]
        halved = tuple(round(epochs * share) for share in (0.6, 0.75, 0.9))
        changes = {"epochs": epochs, "learning_rate": rate, "crop": crop, "halve_after": halved}
        schedule = replace(profile.schedule, **changes, checkpoint_every=1000)
        profile = replace(profile, schedule=schedule)
        folder = keep_in / "tries" / f"{name}-{epochs}-{rate}-{crop}-{seed}"
        model = initial_model(EXPERIMENTS["hmode+rel"], profile, seed, decoded[0])
        training = hmode.fit(model, *decoded, schedule, run_dir=folder, seed=seed)
        errors = [row["val_mae"] for row in training.history if row["val_mae"] is not None]
        row = {"profile": name, "epochs": epochs, "rate": rate, "crop": crop, "seed": seed}
        row |= {"best": min(errors), "last": errors[-1], "seconds": round(training.seconds, 1)}
        table.append(row)
        write_csv(keep_in / "runs" / f"try-{rank}.csv", table)
        shutil.rmtree(folder)


def steps(tiny: bool) -> float:
    """How many captured steps a second this process makes, in three seconds."""
    sizes = gpu.TINY if tiny else gpu.FULL
    batch = gpu.on_device(gpu.random_batch(*reversed(sizes.small)), sizes)
    with gpu.made(sizes, "no" if tiny else "bf16") as step:
        fast = gpu.captured(step)
        for _ in range(6):
            fast(batch)
        started, made = time.time(), 0
        while time.time() - started < (0.2 if tiny else 3):
            losses, _ = fast(batch)
            losses["total"].item()
            made += 1
    return made / (time.time() - started)


# Several processes at once


def prepare(keep_in: Path, output: Path) -> None:
    """Make the folders, bring what was sent along to where all of it is kept, and say where."""
    output.mkdir(parents=True, exist_ok=True)
    (keep_in / "runs").mkdir(parents=True, exist_ok=True)
    if Path("data/lease").is_dir():
        shutil.copytree("data/lease", keep_in, dirs_exist_ok=True)
    weights, cores = keep_in / "weights.safetensors", os.cpu_count() or 2
    os.environ["HMODE_DATA"] = str(keep_in)
    os.environ["HMODE_WEIGHTS"] = str(weights) if weights.is_file() else "none"
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores // settings(keep_in)["processes"]))


def settings(keep_in: Path) -> dict:
    """How many processes were best, and whether with NVIDIA's MPS."""
    path = keep_in / "settings.json"
    return json.loads(path.read_text()) if path.is_file() else {"processes": 1, "mps": False}


def at_once(work: Callable, keep_in: Path, output: Path, until: float, tiny: bool) -> None:
    """Share a piece of work among processes side by side; archives as they go."""
    prepare(keep_in, output)
    ends, of = time.time() + until, settings(keep_in)["processes"]
    if settings(keep_in)["mps"]:
        mps(True)
    logs = [keep_in / "runs" / f"{work.__name__}-{rank}.log" for rank in range(of)]
    started = [
        SPAWN.Process(target=logged, args=(log, work, keep_in, tiny, rank, of, ends))
        for rank, log in enumerate(logs)
    ]
    for process in started:
        process.start()
    archived = time.time()
    while any(process.is_alive() for process in started):
        time.sleep(1)
        if time.time() > ends:
            for process in started:
                process.terminate()
        if time.time() > archived + 20:
            archive(keep_in, output)
            archived = time.time()
    archive(keep_in, output)
    for log in logs:
        click.echo(f"== {log.name}\n" + log.read_text()[-2500:])


def logged(log: Path, work: Callable, *arguments) -> None:
    """Do some work, and let a file have what it says."""
    with open(log, "a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        guarded(work.__name__, lambda: work(*arguments))


def guarded(name: str, part: Callable[[], object]) -> None:
    """A part of which the others do not hang: that it failed is said."""
    click.echo(f"— {name}, at {time.strftime('%X')}")
    try:
        part()
    except Exception:
        click.echo(f"FAILED {name}: {traceback.format_exc(limit=-6)}")


def archive(keep_in: Path, output: Path) -> None:
    """All that is kept and small, in one file, put in its place when it is whole."""
    partial = output / "runs.partial"
    with tarfile.open(partial, "w:gz", compresslevel=6) as tar:
        for path in sorted((keep_in / "runs").rglob("*")):
            small = path.suffix in (".csv", ".json", ".npz", ".log")
            if path.is_file() and small and "checkpoint-" not in str(path):
                tar.add(path, path.relative_to(keep_in))
    os.replace(partial, output / "runs.tar.gz")


def mps(on: bool) -> bool:
    """Start or stop NVIDIA's MPS; whether that could be done."""
    program = shutil.which("nvidia-cuda-mps-control")
    if program is None:
        return False
    if on:
        return subprocess.run([program, "-d"], check=False).returncode == 0
    return subprocess.run([program], input="quit\n", text=True, check=False).returncode == 0


# Whether everything runs


def smoke(keep_in: Path, device: str) -> None:
    """A run and its loading; rows whose regions are random."""
    for name in ("hmode+rel", "hmode+rel", "baseline", "table9/random", "table9/matryoshka"):
        result = hmode.run(name, profile="smoke", device=device, runs=keep_in / "try")
        click.echo(f"smoke {name}: MAE {result.evaluation.mae:.2f}")


def interrupted(keep_in: Path, device: str) -> None:
    """Killed at its first checkpoint and gone on with, or in one go: the same in the end."""
    profile, ends = "smoke" if device == "cpu" else "small", []
    for name in ("whole", "parts"):
        runs = keep_in / "try" / name
        call = [sys.executable, "-m", "hmode", "train", "hmode", "--profile", profile]
        call += ["--runs", str(runs), "--device", device]
        process = subprocess.Popen(call, stdout=subprocess.DEVNULL)
        while name == "parts" and process.poll() is None:
            if list(runs.rglob("checkpoint-*.safetensors")):
                process.kill()
            time.sleep(0.05)
        process.wait()
        subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
        (table,) = runs.rglob("history.csv")
        ends.append(table.read_text().splitlines()[-1])
    click.echo("interrupted, then in one go:\n" + "\n".join(ends))


def side_by_side(keep_in: Path, tiny: bool) -> None:
    """How many processes give most steps a second together, with NVIDIA's MPS or without."""
    rates: dict[tuple[int, bool], float] = {}
    most = 2 if tiny else 4
    for processes, shared in ((1, False), (most, False), (most, True)):
        if shared and not mps(True):
            break
        with ProcessPoolExecutor(processes, SPAWN) as pool:
            rates[processes, shared] = sum(pool.map(steps, [tiny] * processes))
        click.echo(f"{processes} processes, MPS {shared}: {rates[processes, shared]:.1f} steps/s")
    best = max(rates, key=rates.get)
    if not best[1]:
        mps(False)
    (keep_in / "settings.json").write_text(json.dumps({"processes": best[0], "mps": best[1]}))


def measured(keep_in: Path, output: Path, tiny: bool) -> None:
    """Parts of `benchmarks.gpu`."""
    sizes, found = gpu.TINY, gpu.Found()
    if not tiny:
        sizes = replace(gpu.FULL, steps=((128, 8),), large=(128, 8), repetitions=10)
    name = "cpu" if tiny else torch.cuda.get_device_name()
    for part in (gpu.agreement, gpu.limits, gpu.steps, gpu.counting):
        guarded(part.__name__, lambda part=part: part(sizes, found))
        about = {"device": name, "torch": torch.__version__}
        write_csv(output / "gpu.csv", [about | row for row in found.rows])


# The commands


@click.group()
def main() -> None:
    """Real trainings on a GPU that is there for minutes."""


PATH = click.Path(path_type=Path)
COMMON = options(
    click.option("--keep", "keep_in", type=PATH, required=True),
    click.option("--output", type=PATH, required=True),
    click.option("--tiny", is_flag=True),
)
UNTIL = {"type": float, "show_default": True, "help": "Seconds."}


@main.command()
@COMMON
def first(keep_in: Path, output: Path, tiny: bool) -> None:
    """Run everything once: a training, its resumption, captured steps, counting; rates."""
    prepare(keep_in, output)
    device = "cpu" if tiny else "cuda"
    guarded("smoke", lambda: smoke(keep_in, device))
    guarded("side by side", lambda: side_by_side(keep_in, tiny))
    guarded("interrupted", lambda: interrupted(keep_in, device))
    measured(keep_in, output, tiny)
    click.echo(json.dumps(settings(keep_in)))


@main.command()
@COMMON
@click.option("--until", default=150, **UNTIL)
def tries(keep_in: Path, output: Path, tiny: bool, until: float) -> None:
    """Schedules, judged on held-out training images, over two seeds."""
    at_once(some_tries, keep_in, output, until, tiny)
    table = [row for path in sorted((keep_in / "runs").glob("try-*.csv")) for row in read_csv(path)]
    if table:
        write_csv(output / "tries.csv", table)
        click.echo("\n".join(" ".join(row.values()) for row in table))


@main.command()
@COMMON
@click.option("--until", default=540, **UNTIL)
def train(keep_in: Path, output: Path, tiny: bool, until: float) -> None:
    """The plans, one after the other, by several processes; what is small goes to OUT."""
    at_once(plans, keep_in, output, until, tiny)
    for folder in (keep_in / "runs" / "photos" / "sha").glob("hmode+rel-seed0"):
        parts, size = [{}], 0
        for name, value in hmode.load_run(folder).state_dict().items():
            value = value.half() if value.is_floating_point() else value
            if size + value.nbytes > 15e6:
                parts, size = [*parts, {}], 0
            parts[-1][name] = value.contiguous()
            size += value.nbytes
        for number, part in enumerate(parts):
            save_file(part, output / f"photos-{number}.safetensors")


if __name__ == "__main__":
    main()
