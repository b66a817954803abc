"""Training, on Hugging Face accelerate.

`fit` knows no random state: batches are a function of (seed, epoch), so an interrupted run only
needs its weights and the optimiser's moments to go on as if nothing had happened.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hmode.data import CropSampler, CrowdImage, describe
from hmode.density import batch_density_maps
from hmode.errors import TrainingError
from hmode.evaluation import evaluate, progress_bar, resolve_device
from hmode.losses import total_loss
from hmode.models import CountingNetwork
from hmode.models.batchnorm import synchronise_batch_norm
from hmode.profiles import Schedule
from hmode.runs import RunFolder


@dataclass(frozen=True, eq=False)
class Training:
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
    device: str = "auto",
    progress: bool | None = None,
) -> Training:
    """Train a network; go on where an earlier call with the same arguments was interrupted.

    The weights kept as the best are those with the least MAE on `validation`; `test` is only
    watched. Under `torchrun` or `accelerate launch` with several processes, each takes its share
    of every batch, batch norm statistics are shared, and the result is that of one process.

    Args:
        model: is trained in place and left with the best weights, on the CPU.
        train, validation, test: data sets; train is decoded once and kept on the device.
        schedule: how to train.
        run_dir: folder of configuration, history and weights.
        seed: of batches, crops and flips.
        resume: False starts over.
        device: "auto", "cpu" or "cuda".
        progress: show a bar; None: where somebody watches.

    Raises:
        InputError: run_dir holds a run of another configuration; a data set is empty.
        TrainingError: the loss is not a number, or a density map is dead.
    """
    run = RunFolder(run_dir)
    accelerator = make_accelerator(device, schedule.precision)
    settings = {
        "model": model.config,
        "initial_weights": model.initial_weights,
        "schedule": asdict(schedule),
        "seed": seed,
        "train": describe(train),
        "validation": describe(validation),
        "test": None if test is None else describe(test),
    }
    if accelerator.is_main_process:
        run.claim(settings, resume=resume)
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
        )
        _Loop(accelerator, run, model, sampler, schedule, seed).train(validation, test, progress)
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    elif accelerator.is_main_process:
        run.drop_checkpoints()  # killed between its last weights and this
    accelerator.wait_for_everyone()
    model.cpu().load_state_dict(run.weights("best"))
    history = [_numbers(row) for row in run.table("history.csv")]
    seconds = sum(float(row["seconds"]) for row in run.table("timing.csv"))
    return Training(run.path, history, _best(history)["epoch"], seconds)


class _Loop:
    """The state of one training: network, optimiser, history."""

    def __init__(self, accelerator, run, model, sampler, schedule, seed):
        self.accelerator, self.run, self.sampler = accelerator, run, sampler
        self.schedule = schedule
        self.network = synchronise_batch_norm(model) if accelerator.num_processes > 1 else model
        if accelerator.device.type in ("cpu", "cuda"):
            self.network = self.network.to(memory_format=torch.channels_last)
        optimiser = torch.optim.Adam(
            self.network.parameters(),
            lr=schedule.learning_rate,
            fused=accelerator.device.type == "cuda",
        )
        self.average = None
        if schedule.average:
            follow = get_ema_multi_avg_fn(schedule.average)
            self.average = AveragedModel(self.network, multi_avg_fn=follow, use_buffers=True)
            accelerator.register_for_checkpointing(self.average)
        self.model, self.optimiser = accelerator.prepare(self.network, optimiser)
        self.generator = torch.Generator(accelerator.device)
        self.seed = seed

    @property
    def kept(self) -> CountingNetwork:
        """The network that is validated and saved: the average of the weights, or the weights."""
        return self.network if self.average is None else self.average.module

    def train(self, validation, test, progress) -> None:
        schedule = self.schedule
        done, checkpoint = self.run.checkpoint()
        if checkpoint is not None:
            self.accelerator.load_state(str(checkpoint))
        if torch.cuda.is_available():  # earlier trainings of this process are not this one's
            torch.cuda.reset_peak_memory_stats()
        history = [_numbers(row) for row in self.run.table("history.csv")][:done]
        timing = self.run.table("timing.csv")[:done]
        with progress_bar(schedule.epochs * self.sampler.steps, progress) as bar:
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
                _require_finite(row, self.run.path)
                history.append(row)
                timing.append({"epoch": epoch + 1, "seconds": round(seconds, 3), **_peak_memory()})
                bar.set_postfix(loss=f"{row['total']:.3g}", val_mae=_best(history)["val_mae"])
                self.commit(epoch + 1, history, timing)

    def run_epoch(self, epoch: int, bar) -> dict:
        """One pass over the training set; returns its history row."""
        schedule, device = self.schedule, self.accelerator.device
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = schedule.rate(epoch)
        stream = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)
        self.generator.manual_seed(int(stream[0]) >> 1)
        sums: dict[str, Tensor] = {}
        highest = torch.zeros((), device=device)
        for batch in self.sampler.epoch(epoch):
            images = batch.images.contiguous(memory_format=torch.channels_last)
            target = batch_density_maps(
                batch.points,
                batch.valid,
                images.shape[-2:],
                sigma=schedule.sigma,
                window=schedule.window,
            )
            prediction = self.model(images)
            if batch.mask is not None:
                prediction, target = prediction.masked(batch.mask), target * batch.mask
            losses = total_loss(
                prediction,
                target,
                schedule.loss,
                points=batch.points,
                valid=batch.valid,
                generator=self.generator,
            )
            self.optimiser.zero_grad()
            self.accelerator.backward(losses["total"])
            self.optimiser.step()
            if self.average is not None:
                self.average.update_parameters(self.network)
            # Watched on the device: reading a value back would make it wait, step by step.
            sums = {name: sums.get(name, 0) + loss.detach() for name, loss in losses.items()}
            highest = torch.maximum(highest, prediction.maps.detach().amax(dim=(0, 2, 3)))
            bar.update()
        means = self.accelerator.reduce(torch.stack([*sums.values()]), "mean") / self.sampler.steps
        highest = self.accelerator.gather(highest[None]).amax(dim=0)
        row = {
            "epoch": epoch + 1,
            "learning_rate": schedule.rate(epoch),
            **dict(zip(sums, means.tolist(), strict=True)),
        }
        weights = sum(p.detach().sum() for p in self.network.parameters()).item()
        _require_finite(row | {"weights": weights}, self.run.path)
        _require_alive(row, highest.tolist(), self.run.path)
        return row

    def validate(self, name: str, dataset, due: bool) -> dict:
        """MAE and MSE on a data set, or empty columns when none is due."""
        result = evaluate(self.kept, dataset, regions=False) if due else None
        return {f"{name}_mae": result and result.mae, f"{name}_mse": result and result.mse}

    def commit(self, done: int, history: list[dict], timing: list[dict]) -> None:
        """Write what this epoch added; its checkpoint, or the end of the run, comes last."""
        run, main = self.run, self.accelerator.is_main_process
        last = done == self.schedule.epochs
        due = last or done % self.schedule.checkpoint_every == 0
        if main:
            run.save_table("history.csv", history)
            run.save_table("timing.csv", timing)
            if _best(history)["epoch"] == done:
                run.save_weights("best", self.kept.state_dict())
            if last:
                run.save_weights("last", self.kept.state_dict())
                run.drop_checkpoints()
            elif due:
                run.save_checkpoint(done, lambda path: self.accelerator.save_state(str(path)))
        self.accelerator.wait_for_everyone()


def make_accelerator(device: str, precision: str) -> Accelerator:
    """accelerate's handle on devices, processes and precision.

    Raises:
        InputError: the device is unknown or not there.
    """
    resolve_device(device)
    # It is a process-wide singleton; each training decides its precision and device anew.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(cpu=device == "cpu", mixed_precision=precision)


def _require_finite(row: dict, run_dir: Path) -> None:
    bad = [name for name, value in row.items() if value is not None and not math.isfinite(value)]
    if bad:
        raise TrainingError(
            f"{run_dir}: {', '.join(bad)} not finite in epoch {row['epoch']}; lower the learning "
            f"rate ({row['learning_rate']:g}) or use precision='no'. The last good checkpoint is "
            "kept"
        )


def _require_alive(row: dict, highest: list[float], run_dir: Path) -> None:
    dead = [c for c, value in enumerate(highest) if value <= 0]
    if dead:
        raise TrainingError(
            f"{run_dir}: density maps {dead} of {len(highest)} (experts, groups, final) were zero "
            f"everywhere in all of epoch {row['epoch']}. A map that ends in a ReLU cannot recover "
            "from that. Check the scale of the losses, or lower the learning rate"
        )


def _peak_memory() -> dict:
    """GiB that tensors have taken at most on the CUDA device, None without one."""
    if not torch.cuda.is_available():
        return {"peak_gib": None}
    return {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3)}


def _best(history: list[dict]) -> dict:
    """The row of least validation MAE, the earliest of equals; an empty one before the first."""
    rows = [row for row in history if row["val_mae"] is not None]
    return min(rows, key=lambda row: row["val_mae"], default={"epoch": None, "val_mae": None})


def _numbers(row: dict[str, str]) -> dict:
    values = {name: None if text == "" else float(text) for name, text in row.items()}
    return values | {"epoch": int(values["epoch"])}
