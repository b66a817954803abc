"""Real trainings on a GPU that is there for minutes:

    python -m benchmarks.device_lease --keep FOLDER --output OUT

It takes along what lies in `data/lease` (a part of `ShanghaiTech`, `weights.safetensors`), so that
it can come in several shipments, keeps what it has in FOLDER and writes an archive to OUT as it
goes, which holds all but weights: those of full width are too large to be sent back. `--tiny` is
the same at a toy size on drawn crowds, on the CPU too. Killed and started again, it goes on.
"""

import multiprocessing
import os
import shutil
import tarfile
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import click
import numpy as np
import torch

import hmode
from hmode.analysis import gate_use
from hmode.device import computing
from hmode.evaluation import predict
from hmode.experiments import rows, splits
from hmode.models import for_inference
from hmode.profiles import load_profile
from hmode.runs import write_csv
from hmode.sweep import Job, Plan, sweep

LOOKED_AT = 60  # test images whose gates are measured
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
    ("full", "sha", DECISIVE, 0, 3),
    ("paper", "sha", ["baseline", "hmode+rel", "hmode"], 1, 2),
    *(("full", "sha", ["table4", "gates", "table9", "official"], seed, 1) for seed in range(3)),
]
TABLES = ("table4", "gates", "table9", "official")  # what stands for all of its rows
TINY_PLANS = [("smoke", "synthetic", TABLE_1, 0, 1), ("smoke", "scales", ["hmode"], 0, 1)]
SPAWN = multiprocessing.get_context("spawn")


class Kept(Plan):
    """A plan that keeps of each run what is small, and how its gates gate."""

    def run(self, job: Job) -> float:
        error = super().run(job)
        keep(self, job)
        return error


def keep(plan: Plan, job: Job) -> None:
    """Measure a finished run's gates, and drop its weights of full width."""
    folder = plan.folder(job)
    profile = load_profile(plan.profile, plan.dataset)
    *_, test = splits(plan.dataset, profile, plan.data_root)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = for_inference(hmode.load_run(folder)).to(device)
    chosen = np.linspace(0, len(test) - 1, min(LOOKED_AT, len(test))).astype(int)
    gates = []
    with computing(profile.schedule.precision, device):
        for index in chosen:
            prediction = predict(model, test[index])
            if prediction.gate1 is None:
                break
            gates.append(gate_use(test[index], prediction, sigma=profile.schedule.sigma))
    if gates:
        write_csv(folder / "gates.csv", gates)
    for weights in folder.glob("*.safetensors") if plan.profile != "photos" else ():
        weights.unlink()


def plans(keep_in: Path, tiny: bool, ends: float) -> None:
    """Do the plans' runs, past those that another process is at."""
    for profile, dataset, names, first_seed, seeds in TINY_PLANS if tiny else PLANS:
        chosen = [row for name in names for row in (rows(name) if name in TABLES else [name])]
        plan = Kept(chosen, seeds, first_seed, dataset, profile, None, "auto", keep_in / "runs")
        if time.time() < ends:
            failures = sweep(plan, workers=0, until=ends - time.time(), say=click.echo)
            click.echo(f"failures: {failures}")


# Several processes at once


def at_once(keep_in: Path, output: Path, until: float, tiny: bool, processes: int) -> None:
    """Let processes side by side do the plans, where all is kept; archives as they go."""
    output.mkdir(parents=True, exist_ok=True)
    (keep_in / "runs").mkdir(parents=True, exist_ok=True)
    if Path("data/lease").is_dir():
        shutil.copytree("data/lease", keep_in, dirs_exist_ok=True)
    weights, cores = keep_in / "weights.safetensors", os.cpu_count() or 2
    os.environ["HMODE_DATA"] = str(keep_in)
    os.environ["HMODE_WEIGHTS"] = str(weights) if weights.is_file() else "none"
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores // processes))
    ends = time.time() + until
    logs = [keep_in / "runs" / f"plans-{rank}.log" for rank in range(processes)]
    started = [SPAWN.Process(target=logged, args=(log, keep_in, tiny, ends)) for log in logs]
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


def logged(log: Path, *arguments) -> None:
    """Do the plans, and let a file have what they say."""
    with open(log, "a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        try:
            plans(*arguments)
        except Exception:
            click.echo(f"FAILED: {traceback.format_exc(limit=-6)}")


def archive(keep_in: Path, output: Path) -> None:
    """All that is kept and small, in one file, put in its place when it is whole."""
    partial = output / "runs.partial"
    with tarfile.open(partial, "w:gz", compresslevel=6) as tar:
        for path in sorted((keep_in / "runs").rglob("*")):
            small = path.suffix in (".csv", ".json", ".log")
            if path.is_file() and small and "checkpoint-" not in str(path):
                tar.add(path, path.relative_to(keep_in))
    os.replace(partial, output / "runs.tar.gz")


PATH = click.Path(path_type=Path)


@click.command()
@click.option("--keep", "keep_in", type=PATH, required=True)
@click.option("--output", type=PATH, required=True)
@click.option("--tiny", is_flag=True)
@click.option("--until", default=540.0, show_default=True, help="Seconds.")
@click.option("--processes", default=4, show_default=True, help="Side by side.")
def main(keep_in: Path, output: Path, tiny: bool, until: float, processes: int) -> None:
    """The plans, one after the other, by several processes; what is small goes to OUT."""
    at_once(keep_in, output, until, tiny, processes)


if __name__ == "__main__":
    main()
