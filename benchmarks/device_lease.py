"""Real trainings on a GPU that is there for minutes, in three commands:

    python -m benchmarks.device_lease first --keep FOLDER --output OUT   # does everything run?
    python -m benchmarks.device_lease tries --keep FOLDER --output OUT   # schedules, on held-out
    python -m benchmarks.device_lease train --keep FOLDER --output OUT   # the tables

Each takes along what lies in `data/lease` (a part of `ShanghaiTech`, `weights.safetensors`), so
that they can come in several shipments; all keep what they have in FOLDER and write archives to OUT
as they go, which hold all but weights: those of full width are too large to be sent back. `--tiny`
is the same at a toy size on drawn crowds, on the CPU too. Killed and started again, each goes on.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import save_file

import hmode
from benchmarks import gpu
from hmode.analysis import gate_use
from hmode.evaluation import predict
from hmode.experiments import EXPERIMENTS, rows, splits
from hmode.experiments.running import initial_model
from hmode.models import for_inference
from hmode.profiles import load_profile
from hmode.runs import write_csv
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
TINY_PLANS = [("smoke", "synthetic", TABLE_1, 0, 1), ("smoke", "scales", ["hmode"], 0, 1)]
# Of profile, epochs, learning rate, crop, width of all but the encoder.
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
    sigma, table = profile.schedule.sigma, []
    chosen = np.linspace(0, len(test) - 1, min(LOOKED_AT, len(test))).astype(int)
    with computing(profile.schedule.precision, device):
        for index in chosen:
            prediction = predict(model, test[index])
            if prediction.gate1 is None:
                break
            table.append(gate_use(test[index], prediction, sigma=sigma))
        if job.seed == 0 and job.experiment in TABLE_1:
            maps = [maps_of(predict(model, test[i])) for i in MAPPED if i < len(test)]
            names = [test[i].name for i in MAPPED if i < len(test)]
            np.savez_compressed(
                folder / "maps.npz",
                **{f"{name}/{part}": each[part] for name, each in zip(names, maps, strict=True)
                   for part in each},
            )  # fmt: skip
    if table:
        write_csv(folder / "gates.csv", table)
    if profile.width == 1.0 or plan.profile != "photos":
        for weights in folder.glob("*.safetensors"):
            weights.unlink()


def maps_of(prediction) -> dict[str, np.ndarray]:
    """Maps in people per pixel and weights, half precision, gates on their own coarse grid."""
    coarse = (slice(None), slice(None, None, 4), slice(None, None, 4))
    found = {"maps": (prediction.maps[0] / prediction.scale).cpu().numpy().astype(np.float16)}
    if prediction.gate1 is not None:
        found["gate1"] = prediction.gate1[0].flatten(0, 1).cpu().numpy()[coarse].astype(np.float16)
    if prediction.gate2 is not None:
        found["gate2"] = prediction.gate2[0].cpu().numpy()[coarse].astype(np.float16)
    return found


def unpack_shipment(keep_in: Path) -> None:
    """Bring what was sent along to where all of it is kept."""
    source = Path("data/lease")
    if source.is_dir():
        shutil.copytree(source, keep_in, dirs_exist_ok=True)


def environment(keep_in: Path) -> dict[str, str]:
    weights = keep_in / "weights.safetensors"
    threads = max(1, (os.cpu_count() or 2) // settings(keep_in)["processes"])
    return {
        **os.environ,
        "HMODE_DATA": str(keep_in),
        "HMODE_WEIGHTS": str(weights) if weights.is_file() else "none",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }


def settings(keep_in: Path) -> dict:
    path = keep_in / "settings.json"
    return json.loads(path.read_text()) if path.is_file() else {"processes": 1}


def archive(keep_in: Path, output: Path) -> None:
    """All that is kept and small, in one file, put in its place when it is whole."""
    partial = output / "runs.partial"
    with tarfile.open(partial, "w:gz", compresslevel=6) as tar:
        for path in sorted((keep_in / "runs").rglob("*")):
            small = path.suffix in (".csv", ".json", ".npz", ".log")
            if path.is_file() and small and "checkpoint-" not in str(path):
                tar.add(path, path.relative_to(keep_in))
    os.replace(partial, output / "runs.tar.gz")


def at_once(command: str, keep_in: Path, output: Path, until: float, tiny: bool) -> None:
    """Several processes of a command of this module side by side; archives as they go."""
    (keep_in / "runs").mkdir(parents=True, exist_ok=True)
    ends = time.time() + until
    of = settings(keep_in)["processes"]
    if settings(keep_in).get("mps"):
        start_mps()
    started = []
    for rank in range(of):
        call = [sys.executable, "-m", "benchmarks.device_lease", command, "--keep", str(keep_in)]
        call += ["--rank", str(rank), "--of", str(of), "--ends", str(ends)]
        call += ["--tiny"] if tiny else []
        with open(keep_in / "runs" / f"{command}-{rank}.log", "a") as log:
            started.append(subprocess.Popen(call, env=environment(keep_in), stdout=log, stderr=log))
    while any(process.poll() is None for process in started):
        time.sleep(2)
        if time.time() > ends:
            for process in started:
                process.terminate()
        if int(time.time()) % 20 < 2:
            archive(keep_in, output)
    archive(keep_in, output)
    for log in sorted((keep_in / "runs").glob(f"{command}-*.log")):
        click.echo(f"== {log.name}\n" + log.read_text()[-2500:])


@click.group()
def main() -> None:
    """Real trainings on a GPU that is there for minutes."""


KEEP = click.option("--keep", "keep_in", type=click.Path(path_type=Path), required=True)
OUTPUT = click.option("--output", type=click.Path(path_type=Path), required=True)
TINY = click.option("--tiny", is_flag=True)
WORKER = [
    click.option("--rank", type=int, required=True),
    click.option("--of", type=int, required=True),
    click.option("--ends", type=float, required=True),
]


def worker(command):
    for option in (KEEP, TINY, *WORKER):
        command = option(command)
    return command


@main.command()
@KEEP
@OUTPUT
@TINY
def first(keep_in: Path, output: Path, tiny: bool) -> None:
    """Run everything once: a training, its resumption, captured steps, counting; rates."""
    keep_in.mkdir(parents=True, exist_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    unpack_shipment(keep_in)
    started = time.time()
    device = "cpu" if tiny else "cuda"
    guarded("smoke", lambda: smoke(keep_in, device), started)
    guarded("side by side", lambda: side_by_side(keep_in, tiny), started)
    for part in (interrupted, random_regions):
        guarded(part.__name__, lambda part=part: part(keep_in, device), started)
    found, sizes = gpu.Found(), gpu.TINY
    if not tiny:
        sizes = replace(gpu.FULL, steps=((128, 8),), large=(128, 8), repetitions=10)
    for part in (gpu.agreement, gpu.limits, gpu.steps, gpu.counting):
        guarded(part.__name__, lambda part=part: part(sizes, found), started)
        name = torch.cuda.get_device_name() if not tiny else "cpu"
        about = {"device": name, "torch": torch.__version__}
        write_csv(output / "gpu.csv", [about | row for row in found.rows])
    click.echo(json.dumps(settings(keep_in)))


def guarded(name: str, part, started: float) -> None:
    import traceback

    click.echo(f"— {name}, after {time.time() - started:.0f} s")
    try:
        part()
    except Exception:
        click.echo(f"FAILED {name}: {traceback.format_exc(limit=-6)}")


def smoke(keep_in: Path, device: str) -> None:
    """A run and its loading."""
    for name in ("hmode+rel", "baseline"):
        for _ in range(2):
            result = hmode.run(name, profile="smoke", device=device, runs=keep_in / "try")
        click.echo(f"smoke {name}: MAE {result.evaluation.mae:.2f} on {result.model.stride}")


def interrupted(keep_in: Path, device: str) -> None:
    """Killed at its first checkpoint and gone on with, or in one go: the same in the end."""
    profile, ends = "smoke" if device == "cpu" else "small", []
    for name in ("whole", "parts"):
        runs = keep_in / "try" / name
        call = [sys.executable, "-m", "hmode", "train", "hmode", "--profile", profile]
        call += ["--runs", str(runs), "--device", device]
        process = subprocess.Popen(call, stdout=subprocess.DEVNULL)
        while name == "parts" and process.poll() is None:
            if list(runs.rglob("checkpoint-????")):
                process.kill()
            time.sleep(0.05)
        process.wait()
        subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
        (table,) = runs.rglob("history.csv")
        ends.append(table.read_text().splitlines()[-1])
    click.echo("interrupted, then in one go:\n" + "\n".join(ends))


def random_regions(keep_in: Path, device: str) -> None:
    """Rows whose regions are random."""
    for name in ("table9/random", "table9/matryoshka"):
        result = hmode.run(name, profile="smoke", device=device, runs=keep_in / "try")
        click.echo(f"{name}: MAE {result.evaluation.mae:.2f}")


def side_by_side(keep_in: Path, tiny: bool) -> None:
    """How many processes give most steps a second together, with NVIDIA's MPS or without."""
    rates: dict[tuple[int, bool], float] = {}
    for mps in (False, True):
        if mps and not start_mps():
            break
        for processes in (1, 2) if tiny else (1, 4) if not mps else (4,):
            call = [sys.executable, "-m", "benchmarks.device_lease", "steps"]
            call += ["--tiny"] if tiny else []
            started = [
                subprocess.Popen(call, stdout=subprocess.PIPE, text=True) for _ in range(processes)
            ]
            said = [process.communicate()[0].split() for process in started]
            if all(said) and not any(process.returncode for process in started):
                rates[processes, mps] = sum(float(each[-1]) for each in said)
                click.echo(f"{processes} processes, MPS {mps}: {rates[processes, mps]:.1f} steps/s")
    best = max(rates, key=rates.get)
    if not best[1]:
        stop_mps()
    (keep_in / "settings.json").write_text(json.dumps({"processes": best[0], "mps": best[1]}))


def start_mps() -> bool:
    if shutil.which("nvidia-cuda-mps-control") is None:
        return False
    return subprocess.run(["nvidia-cuda-mps-control", "-d"], check=False).returncode == 0


def stop_mps() -> None:
    if shutil.which("nvidia-cuda-mps-control"):
        subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, check=False)


@main.command()
@TINY
def steps(tiny: bool) -> None:
    """Print how many captured steps a second this process makes, for three seconds."""
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
    click.echo(f"{made / (time.time() - started):.2f}")


@main.command()
@KEEP
@OUTPUT
@TINY
@click.option("--until", type=float, default=150, show_default=True)
def tries(keep_in: Path, output: Path, tiny: bool, until: float) -> None:
    """Schedules, judged on held-out training images, over two seeds."""
    output.mkdir(parents=True, exist_ok=True)
    unpack_shipment(keep_in)
    at_once("try-some", keep_in, output, until, tiny)
    table = []
    for path in sorted((keep_in / "runs").glob("try-*.csv")):
        with open(path) as file:
            table += list(csv.DictReader(file))
    if table:
        write_csv(output / "tries.csv", table)
        click.echo("\n".join(" ".join(row.values()) for row in table))


@main.command()
@worker
def try_some(keep_in: Path, tiny: bool, rank: int, of: int, ends: float) -> None:
    """This process's share of the tries."""
    chosen = [("smoke", 1, 1e-3, 64), ("smoke", 2, 1e-3, 64)] if tiny else TRIES
    dataset = "synthetic" if tiny else "sha"
    table, decoded = [], None
    for seed in range(2):
        for number, (name, epochs, rate, crop) in enumerate(chosen):
            if (number + seed * len(chosen)) % of != rank or time.time() > ends:
                continue
            profile = load_profile(name, dataset)
            if decoded is None:
                device = "cuda" if torch.cuda.is_available() else "cpu"
                parts = splits(dataset, profile)[:2]
                decoded = [hmode.data.Resident(part, device) for part in parts]
            schedule = replace(
                profile.schedule,
                epochs=epochs,
                learning_rate=rate,
                crop=crop,
                halve_after=tuple(round(epochs * share) for share in (0.6, 0.75, 0.9)),
                checkpoint_every=1000,
            )
            profile = replace(profile, schedule=schedule)
            folder = keep_in / "tries" / f"{name}-{epochs}-{rate}-{crop}-{seed}"
            model = initial_model(EXPERIMENTS["hmode+rel"], profile, seed, decoded[0])
            training = hmode.fit(model, *decoded, schedule, run_dir=folder, seed=seed)
            errors = [row["val_mae"] for row in training.history if row["val_mae"] is not None]
            table.append({
                "profile": name, "epochs": epochs, "rate": rate, "crop": crop, "seed": seed,
                "best": min(errors), "last": errors[-1], "seconds": round(training.seconds, 1),
            })  # fmt: skip
            write_csv(keep_in / "runs" / f"try-{rank}.csv", table)
            shutil.rmtree(folder)


@main.command()
@KEEP
@OUTPUT
@TINY
@click.option("--until", type=float, default=540, show_default=True)
def train(keep_in: Path, output: Path, tiny: bool, until: float) -> None:
    """The plans, one after the other, by several processes; what is small goes to OUT."""
    output.mkdir(parents=True, exist_ok=True)
    unpack_shipment(keep_in)
    at_once("work", keep_in, output, until, tiny)
    for folder in (keep_in / "runs" / "photos" / "sha").glob("hmode+rel-seed0"):
        weights = hmode.load_run(folder).state_dict()
        halves = {name: value.half().contiguous() if value.is_floating_point() else value
                  for name, value in weights.items()}  # fmt: skip
        names, parts, size = list(halves), [{}], 0
        for name in names:
            size += halves[name].nbytes
            if size > 15e6:
                parts.append({})
                size = halves[name].nbytes
            parts[-1][name] = halves[name]
        for number, part in enumerate(parts):
            save_file(part, output / f"photos-{number}.safetensors")


@main.command()
@worker
def work(keep_in: Path, tiny: bool, rank: int, of: int, ends: float) -> None:
    """Do the plans' runs, past those that another process is at."""
    for profile, dataset, names, first_seed, seeds in TINY_PLANS if tiny else PLANS:
        chosen = [row for name in names for row in (rows(name) if name in ("table4", "gates",
                  "table9", "official") else [name])]  # fmt: skip
        plan = Kept(chosen, seeds, first_seed, dataset, profile, None, "auto", keep_in / "runs")
        left = ends - time.time()
        if left > 0:
            failures = sweep(plan, workers=0, until=left, say=click.echo)
            click.echo(f"failures: {failures}")


if __name__ == "__main__":
    main()
