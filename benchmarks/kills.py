"""Trainings that are killed go on as if nothing had happened: bit for bit, wherever it was.

    python -m benchmarks.kills             # all steps on the disk, 30 random moments: minutes
    python -m benchmarks.kills --every 5   # each fifth step only

A small training, with a running average and a checkpoint every other epoch, runs in a process of
its own and is killed: at each step on the disk below its folder, and at random moments, by SIGKILL,
SIGTERM and SIGINT in turn. Then it is started again, and must end with the same bytes as one that
was left in peace. The exit code says whether all did.
"""

import itertools
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

RESULT = ("best.safetensors", "last.safetensors", "history.csv", "config.json")
DISK = {"open", "os.rename", "os.mkdir", "os.listdir", "os.scandir", "os.chmod", "shutil.rmtree"}
REMOVALS = {"os.remove", "os.rmdir"}  # their paths may be relative to an open folder
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def die_on_disk(folder: Path, at: int) -> Callable[[], int]:
    """Kill this process when it touches the disk below `folder` for the at-th time (0: never).

    Returns:
        what says how often it did so far.
    """
    seen = 0

    def watch(event, args):
        nonlocal seen
        if event in REMOVALS or (event in DISK and str(folder) in str(args[0])):
            seen += 1
            if seen == at:
                # What is not in its place yet may not have reached the disk.
                for path in folder.rglob("*.partial"):
                    if path.is_file():
                        os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return lambda: seen


def train(run_dir: Path, kill_at: int = 0, count_to: Path | None = None) -> None:
    """The training, in this process."""
    import torch

    import hmode

    torch.set_num_threads(1)
    steps = die_on_disk(run_dir, kill_at)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = hmode.HMoDE(width=0.0625)
    images = hmode.hold_out(hmode.open_dataset("synthetic", length=8, size=128))
    test = hmode.open_dataset("synthetic", split="test", length=2, size=128)
    schedule = hmode.Schedule(
        epochs=5, batch_size=4, crop=64, learning_rate=1e-3, average=0.9, checkpoint_every=2
    )
    options = {"test": test, "device": "cpu", "progress": False}
    hmode.fit(model, *images, schedule, run_dir=run_dir, **options)
    if count_to:
        count_to.write_text(str(steps()))


def results(run_dir: Path) -> dict[str, bytes]:
    """What must be equal, and that nothing is left over."""
    found = {name: (run_dir / name).read_bytes() for name in RESULT}
    names = sorted(path.name for path in run_dir.iterdir())
    return found | {"files": "\n".join(names).encode()}


class Campaign:
    """Trainings in processes of their own, from one that has imported all they need."""

    def __init__(self, folder: Path):
        self.folder, self.numbers = folder, itertools.count()
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["hmode"])
        self.finish(self.start(folder / "whole", count_to=folder / "steps"))  # imports all, too
        started = time.monotonic()
        self.finish(self.start(folder / "again"))
        self.seconds = time.monotonic() - started
        self.steps = int((folder / "steps").read_text())
        self.expected = results(folder / "whole")
        if results(folder / "again") != self.expected:
            raise RuntimeError("two trainings that were left in peace differ")

    def start(self, run_dir: Path, **options):
        process = self.context.Process(target=train, args=(run_dir,), kwargs=options)
        process.start()
        return process

    def finish(self, process) -> None:
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"the training ended with {process.exitcode}")

    def killed(self, kill: Callable[[Path], None]) -> str | None:
        """Kill a training in a folder of its own, let it end; what differs, or None."""
        run_dir = self.folder / str(next(self.numbers))
        kill(run_dir)
        try:
            self.finish(self.start(run_dir))
            found = results(run_dir)
        except (RuntimeError, OSError) as error:
            return str(error)
        return next((name for name in found if found[name] != self.expected[name]), None)

    def at_step(self, step: int) -> str | None:
        """Killed at a step on the disk."""
        return self.killed(lambda run_dir: self.start(run_dir, kill_at=step).join())

    def at_random(self, seed: int, number: int) -> str | None:
        """Killed one to three times, each at some moment of what is left."""
        rng = random.Random(f"{seed}-{number}")

        def kill(run_dir: Path) -> None:
            for _ in range(rng.randint(1, 3)):
                process = self.start(run_dir)
                process.join(rng.uniform(0, self.seconds))
                if process.is_alive():
                    os.kill(process.pid, SIGNALS[number % len(SIGNALS)])
                process.join()

        return self.killed(kill)


@click.command()
@click.option("--every", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--random", "moments", default=30, show_default=True, type=click.IntRange(min=0))
@click.option("--seed", default=0, show_default=True)
def main(every: int, moments: int, seed: int):
    """Kill trainings at each step on the disk and at random moments; all must end the same."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder))
        click.echo(f"{campaign.steps} steps on the disk, {campaign.seconds:.1f} s a training")
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # whose threads wait for processes
            ends = {
                f"killed at step {step} on the disk": pool.submit(campaign.at_step, step)
                for step in range(1, campaign.steps + 1, every)
            }
            ends |= {
                f"killed at random, number {number}": pool.submit(campaign.at_random, seed, number)
                for number in range(moments)
            }
            found = {name: end.result() for name, end in ends.items()}
    bad = {name: what for name, what in found.items() if what}
    for name, what in bad.items():
        click.echo(f"{name}: {what} differs")
    minutes = (time.monotonic() - started) / 60
    click.echo(f"{len(found) - len(bad)} of {len(found)} ended bit for bit, {minutes:.1f} minutes")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
