"""Training, on Hugging Face accelerate.

`fit` knows no random state: batches are a function of (seed, epoch), so an interrupted run only
needs its weights and the optimiser's moments to go on as if nothing had happened.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from hmode import checkpoint
from hmode.data import CropSampler, CrowdImage, Resident, identify
from hmode.device import (
    equal_sizes,
    float32_products,
    make_accelerator,
    progress_bar,
    resolve_precision,
)
from hmode.errors import InputError, TrainingError
from hmode.evaluation import evaluate
from hmode.fast.graphs import CapturedStep, can_be_captured
from hmode.fast.memory import kept_memory
from hmode.method.training import require_finite, run_epoch
from hmode.models import CountingNetwork
from hmode.profiles import Schedule
from hmode.runs import RunFolder, read_checkpoint
from hmode.step import DEFAULT, Compute, TrainingStep


@dataclass(frozen=True, eq=False)
class Trained:
    """What `fit` returns.

    Attributes:
        run_dir: the run's folder.
        history: one row an epoch: epoch (from 1), learning_rate, the loss terms, val_mae, val_mse
            and, if a test set was given, test_mae, test_mse; None where an epoch has no value.
        best_epoch: the epoch of least val_mae, whose weights are kept.
        seconds: spent training, validation not included.
    """

    run_dir: Path
    history: list[dict]
    best_epoch: int
    seconds: float

    @property
    def best_on_test(self) -> float | None:
        """The least test MAE of any epoch: selection ON THE TEST SET, as some codes report."""
        values = [row["test_mae"] for row in self.history if row.get("test_mae") is not None]
        return min(values, default=None)


PATIENCE = 300  # seconds of training after which a checkpoint is due, whatever the schedule says


def fit(
    model: CountingNetwork,
    train: Sequence[CrowdImage],
    validation: Sequence[CrowdImage],
    schedule: Schedule,
    *,
    run_dir: str | Path,
    seed: int = 0,
    resume: bool = True,
    test: Sequence[CrowdImage] | None = None,
    watch_test: bool = True,
    device: str = "auto",
    compute: Compute = DEFAULT,
    progress: bool | None = None,
) -> Trained:
    """Train a network; go on where an earlier call with the same arguments was interrupted.

    The weights kept as the best are those with the least MAE on `validation`; `test` is at most
    watched. One at a time trains in a folder, others wait. Under `torchrun` or `accelerate launch`
    with several processes, each takes its share of every batch, batch norm statistics are shared,
    and the result is that of one process.

    Args:
        model: is trained in place and left with the best weights, on the CPU. To read a finished
            run it may be on the meta device, and stays as it is.
        train, validation, test: data sets; the first two are decoded once and kept on the device,
            as far as they fit.
        schedule: how to train.
        run_dir: folder of configuration, history and weights.
        seed: of batches, crops and flips.
        resume: False starts over.
        watch_test: measure the errors on `test` at every validation.
        device: "auto", "cpu" or "cuda".
        compute: settings of speed and memory.
        progress: show a bar; None: where somebody watches.

    Raises:
        InputError: run_dir holds a run of another configuration or of other data, or a damaged
            one; a data set is empty.
        BusyError: of several processes' training: another process trains in run_dir.
        TrainingError: the loss is not a number, or a density map is dead.
    """
    run = RunFolder(run_dir)
    accelerator = make_accelerator(device, schedule.precision)
    with _alone(accelerator, run, resume):
        if accelerator.is_main_process:
            configuration = _configuration(model, schedule, seed, train, validation, test)
            run.claim(configuration, resume=resume)
        accelerator.wait_for_everyone()
        if not run.finished:
            sampler = CropSampler(
                train,
                crop=schedule.crop,
                batch_size=schedule.batch_size,
                seed=seed,
                device=accelerator.device,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                memory=compute.memory,
            )
            validation = Resident(validation, accelerator.device, memory=compute.memory)
            precision = resolve_precision(schedule.precision, accelerator.device)
            with float32_products(precision), kept_memory():
                loop = _Loop(accelerator, run, model, sampler, schedule, seed, compute)
                loop.train(validation, test if watch_test else None, progress)
            accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        accelerator.wait_for_everyone()
    if not any(each.is_meta for each in model.parameters()):
        model.cpu().load_state_dict(run.weights("best"))
    history, timing = _rows(run, "history.csv", "val_mae"), _rows(run, "timing.csv", "seconds")
    seconds = sum(row["seconds"] for row in timing)
    return Trained(run.path, history, _best(history)["epoch"], seconds)


def _alone(accelerator: Accelerator, run: RunFolder, resume: bool):
    """The lock on a folder in which something is to be written, for the process that writes."""
    if not accelerator.is_main_process or (resume and run.settled):
        return nullcontext()
    return run.alone(wait=accelerator.num_processes == 1)  # the other processes cannot wait


def _configuration(model, schedule, seed, train, validation, test) -> dict:
    """All that decides what a training gives."""
    more = {name: getattr(model, name, None) for name in ("frozen", "working_pixels")}
    return {
        "model": model.config,
        **{name: value for name, value in more.items() if value is not None},
        "initial_weights": getattr(model, "initial_weights", None),
        "schedule": asdict(schedule),
        "seed": seed,
        "train": identify(train),
        "validation": identify(validation),
        "test": None if test is None else identify(test),
    }


class _Loop:
    """The state of one training: its step, its batches, its run folder."""

    def __init__(self, accelerator, run, model, sampler, schedule, seed, compute):
        self.accelerator, self.run, self.sampler = accelerator, run, sampler
        self.schedule, self.seed, self.compute = schedule, seed, compute
        self.step = TrainingStep(accelerator, model, schedule, compile=compute.compile)
        self.take_step = self.step  # or its captured form
        self.best: dict[str, Tensor] = {}  # the best weights until they are written
        self.saved = time.monotonic()

    def train(self, validation, test, progress) -> None:
        schedule = self.schedule
        done, path = self.run.checkpoint()
        if path is not None:
            try:
                checkpoint.restore(self.step, *read_checkpoint(path))
            except InputError as error:
                raise InputError(f"{path}: {error}; start over with --fresh") from None
        if self.compute.graphs and can_be_captured(self.accelerator, schedule):
            self.take_step = CapturedStep(self.step)
        if torch.cuda.is_available():  # earlier trainings of this process are not this one's
            torch.cuda.reset_peak_memory_stats()
        history = _rows(self.run, "history.csv", "val_mae")[:done]
        timing = _rows(self.run, "timing.csv", "seconds")[:done]
        _require_whole(self.run, history, timing, done)
        steps = schedule.epochs * self.sampler.steps
        with progress_bar(steps, progress, self.run.path.name) as bar:
            bar.update(done * self.sampler.steps)
            for epoch in range(done, schedule.epochs):
                started = time.perf_counter()
                row = self.run_epoch(epoch, bar)
                seconds = time.perf_counter() - started
                last = epoch + 1 == schedule.epochs
                due = last or (epoch + 1) % schedule.validate_every == 0
                row |= self.validate("val", validation, due)
                if test is not None:
                    row |= self.validate("test", test, due)
                with _naming(self.run):
                    require_finite(row)
                history.append(row)
                timing.append({"epoch": epoch + 1, "seconds": round(seconds, 3), **_peak_memory()})
                bar.set_postfix(loss=f"{row['total']:.3g}", val_mae=_best(history)["val_mae"])
                self.commit(epoch + 1, history, timing)

    def run_epoch(self, epoch: int, bar) -> dict:
        """One pass over the training set; returns its history row."""
        with equal_sizes(), _naming(self.run):
            return run_epoch(
                self.step,
                self.sampler,
                epoch,
                seed=self.seed,
                take=self.take_step,
                done=bar.update,
            )

    def validate(self, name: str, dataset, due: bool) -> dict:
        """MAE and MSE on a data set, or empty columns when none is due."""
        if due:
            with self.accelerator.autocast():
                result = evaluate(self.step.kept, dataset, regions=False)
        else:
            result = None
        return {f"{name}_mae": result and result.mae, f"{name}_mse": result and result.mse}

    def commit(self, done: int, history: list[dict], timing: list[dict]) -> None:
        """Write what this epoch added; its checkpoint, or the end of the run, comes last."""
        run, main = self.run, self.accelerator.is_main_process
        last = done == self.schedule.epochs
        long = time.monotonic() - self.saved > PATIENCE
        due = last or long or done % self.schedule.checkpoint_every == 0
        if due:
            self.saved = time.monotonic()
        if main:
            run.save_table("history.csv", history)
            run.save_table("timing.csv", timing)
            if _best(history)["epoch"] == done:
                state = self.step.kept.state_dict()
                self.best = {name: value.clone() for name, value in state.items()}
            if due and self.best:  # what is better than the last checkpoint's, found since
                run.save_weights("best", self.best, epochs=done)
                self.best = {}
            if last:
                run.save_weights("last", self.step.kept.state_dict())
                run.drop_checkpoints()
            elif due:
                run.save_checkpoint(done, *checkpoint.state(self.step))
        self.accelerator.wait_for_everyone()


def _require_whole(run: RunFolder, history: list, timing: list, done: int) -> None:
    """See that a run has all that its checkpoint came after: else another epoch would be chosen."""
    lost = [
        name
        for name, rows in (("history.csv", history), ("timing.csv", timing))
        if len(rows) != done
    ]
    if _best(history)["epoch"] and not (run.path / "best.safetensors").is_file():
        lost.append("best.safetensors")
    if lost:
        raise InputError(
            f"{run.path / lost[0]}: damaged or not there, yet {done} epochs are done; start over "
            "with --fresh"
        )


@contextmanager
def _naming(run: RunFolder) -> Iterator[None]:
    """Puts the run's folder in front of what went wrong."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{run.path}: {error}") from None


def _peak_memory() -> dict:
    """GiB that tensors have taken at most on the CUDA device, None without one."""
    if not torch.cuda.is_available():
        return {"peak_gib": None}
    return {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3)}


def _best(history: list[dict]) -> dict:
    """The row of least validation MAE, the earliest of equals; an empty one before the first."""
    rows = [row for row in history if row["val_mae"] is not None]
    return min(rows, key=lambda row: row["val_mae"], default={"epoch": None, "val_mae": None})


def _rows(run: RunFolder, name: str, column: str) -> list[dict]:
    """The rows of a run's table, one an epoch."""
    rows = run.numbers(name)
    for epoch, row in enumerate(rows, 1):
        if row.get("epoch") != epoch or column not in row:
            raise InputError(
                f"{run.path / name}, row {epoch + 1}: damaged, expected epoch {epoch} and a column "
                f"{column}"
            )
    return [row | {"epoch": int(row["epoch"])} for row in rows]
