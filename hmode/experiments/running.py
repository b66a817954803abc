"""Training and testing an experiment, once.

A run lives in runs/<profile>/<data set>/<name>-seed<seed>, on a data set with folds in its
fold<k>; asking for it again loads it. Its result.json says what came out, on what, and with what.
"""

import json
import math
import os
import platform
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState

from hmode.data import (
    CropSampler,
    CrowdImage,
    Resident,
    describe,
    hold_out,
    identify,
    open_dataset,
    true_counts,
)
from hmode.data.published import FOLDS
from hmode.data.registry import Selection
from hmode.device import computing, resolve_device, resolve_precision
from hmode.errors import InputError
from hmode.evaluation import evaluate, load_run
from hmode.experiments.registry import EXPERIMENTS, Experiment, canonical
from hmode.metrics import Evaluation, mae, mse
from hmode.models import CountingNetwork, build_model, outline
from hmode.profiles import Profile, Schedule, load_profile
from hmode.runs import RunFolder, write_atomically
from hmode.step import DEFAULT, Compute
from hmode.training import Trained, fit

# Data sets with folds for cross validation and how many, with a published validation split, and
# without public test annotations.
FOLDED = {"ucf_cc_50": len(FOLDS)}
PUBLISHED_VALIDATION = ("jhu", "trancos")
UNLABELLED_TEST = ("nwpu",)
MEASURED = 60  # crops that the batch norms of an encoder without any are measured on


@dataclass(frozen=True, eq=False)
class Result:
    """A trained experiment.

    Attributes:
        name, seed: of the experiment.
        model: with its selected weights, in evaluation mode, on the CPU.
        training: history, best epoch, run folder.
        evaluation: of the selected weights on the test split.
        mean_mae, mean_mse: errors on the test split of always predicting the mean training count.
    """

    name: str
    seed: int
    model: CountingNetwork
    training: Trained
    evaluation: Evaluation
    mean_mae: float
    mean_mse: float

    @property
    def row(self) -> dict:
        """What a table says of this run; errors in people."""
        return {
            "mae": self.evaluation.mae,
            "mse": self.evaluation.mse,
            "mae_over_mean": self.relative_mae if self.mean_mae else None,
            "mean_mae": self.mean_mae,
            "epoch": self.training.best_epoch,
            "best_on_test_mae": self.training.best_on_test,
            "seconds": self.training.seconds,
            "seed": self.seed,
        }

    @property
    def relative_mae(self) -> float:
        """Test MAE as a share of the mean predictor's; NaN where that makes no error."""
        return self.evaluation.mae / self.mean_mae if self.mean_mae else math.nan


def run(
    name: str,
    dataset: str = "synthetic",
    profile: str = "quick",
    seed: int = 0,
    *,
    fold: int | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    runs: str | Path = "runs",
    fresh: bool = False,
    compute: Compute = DEFAULT,
    progress: bool | None = None,
) -> Result:
    """Train and test an experiment, or load it where that was done before.

    A tenth of the training split is held out to select the epoch on, or the published validation
    split where there is one; the test split is only watched (`Trained.best_on_test`).

    Args:
        name: a row of a table, see `rows`.
        dataset, data_root: as for `open_dataset`.
        profile: one of `hmode.profiles.PROFILES`.
        seed: of initial weights, batches, crops and flips; the held-out tenth is the same for all
            seeds.
        fold: which fold of a data set that has folds is the test split.
        device: "auto", "cpu" or "cuda".
        runs: the folder of all runs.
        fresh: train again even where the run is there.
        compute: settings of speed and memory.
        progress: show a bar; None: where somebody watches.

    Raises:
        InputError: a name is unknown, or the run folder holds another configuration or a run of
            other data.
        BusyError: of several processes' training: another process is at work on this run.
        TrainingError: as `fit`.
    """
    name = canonical(name)
    size, experiment = load_profile(profile, dataset), EXPERIMENTS[name]
    schedule, where = experiment.settings(size), resolve_device(device)
    folder = RunFolder(run_folder(runs, name, dataset, profile, seed, fold))
    parts = splits(dataset, size, data_root, fold)
    with _alone(folder, fresh):
        trained = folder.finished and not fresh
        if not (trained and folder.table("test.csv")):
            parts = _decoded(parts, (dataset, str(data_root)), where)
        train, validation, test = parts
        training = fit(
            _untrained(experiment, size, seed, train, folder if trained else None),
            train,
            validation,
            schedule,
            run_dir=folder.path,
            seed=seed,
            resume=not fresh,
            test=test,
            watch_test=experiment.watch_test and size.watch_test,
            device=device,
            compute=compute,
            progress=progress,
        )
        # Not the network that was trained: that one still lies in memory as training wants it.
        model = load_run(folder.path)
        # Targets that say what is foreground are the profile's, the same for all rows.
        measured = replace(size.schedule, precision=schedule.precision)
        evaluation = _tested(folder, model, test, measured, where)
        mean = float(true_counts(train).mean())
        errors = [error(evaluation.true, mean) for error in (mae, mse)]
        result = Result(name, seed, model, training, evaluation, *errors)
        about = {"dataset": dataset, "fold": fold, "profile": profile}
        if PartialState().is_main_process and not (folder.path / "result.json").is_file():
            _keep_record(folder, result, about, schedule.precision, device, train)
    return result


def _alone(folder: RunFolder, fresh: bool):
    """The lock on a run's folder, unless all is written; of several processes, `fit` takes it."""
    written = folder.settled and (folder.path / "result.json").is_file()
    several = os.environ.get("WORLD_SIZE", "1") != "1"  # as torchrun and accelerate say
    return nullcontext() if several or (written and not fresh) else folder.alone()


def run_folder(
    runs: str | Path, name: str, dataset: str, profile: str, seed: int, fold: int | None = None
) -> Path:
    """Where a run lives.

    Raises:
        InputError: the experiment is unknown, the seed is no whole number from 0 to 2^63 - 1, or a
            fold is missing or given for a data set without folds.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed!r}, expected a whole number from 0 to 2^63 - 1")
    folds = FOLDED.get(dataset)
    if folds and fold not in range(folds):
        raise InputError(f"fold is {fold!r}, {dataset} has folds 0 to {folds - 1}")
    if not folds and fold is not None:
        raise InputError(f"fold is {fold!r}, but {dataset} has no folds")
    path = Path(runs) / profile / dataset / f"{canonical(name).replace('/', '-')}-seed{seed}"
    return path if fold is None else path / f"fold{fold}"


def splits(
    dataset: str,
    profile: Profile,
    data_root: str | Path | None = None,
    fold: int | None = None,
) -> tuple[Sequence[CrowdImage], Sequence[CrowdImage], Sequence[CrowdImage]]:
    """(train, validation, test) of a data set under a profile.

    Validation is the published split where there is one, else held out of train; a data set whose
    test annotations are not public is tested on its published validation split, and validation
    held out.

    Raises:
        InputError: train and test are the same images (a folder without splits of its own).
    """
    chosen = {} if fold is None else {"fold": fold}

    def part(split: str, options: dict) -> Sequence[CrowdImage]:
        images = open_dataset(dataset, data_root, split, **options, **chosen)
        if profile.limit is None:
            return images
        return Selection(images, range(min(profile.limit, len(images))))

    train = part("train", profile.train)
    test = part("val" if dataset in UNLABELLED_TEST else "test", profile.test)
    if describe(train) == describe(test):
        raise InputError(
            f"data set {dataset!r}: its training and test split are the same images; put them into "
            "folders train and test"
        )
    if dataset in PUBLISHED_VALIDATION:
        return train, part("val", profile.test), test
    return (*hold_out(train), test)


def initial_model(
    experiment: Experiment, profile: Profile, seed: int, train: Sequence[CrowdImage] = ()
) -> CountingNetwork:
    """The experiment's network at a profile's width, its weights drawn from `seed`.

    Batch norms of an encoder that came without any are measured on `MEASURED` training crops.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model({**profile.model, **experiment.model}, weights=profile.weights)
    encoder = getattr(model, "encoder", None)
    if getattr(encoder, "unmeasured", False):
        crops = CropSampler(train, crop=profile.schedule.crop, batch_size=MEASURED, seed=0)
        encoder.measure(next(crops.epoch(0)).images)
    return model


def _untrained(
    experiment: Experiment, profile: Profile, seed: int, train, finished: RunFolder | None
) -> CountingNetwork:
    """The network to train; of a finished run one without numbers, which asks for no weights."""
    if finished is None:
        return initial_model(experiment, profile, seed, train)
    model = outline({**profile.model, **experiment.model})
    model.initial_weights = finished.config().get("initial_weights")
    return model


_in_memory: dict[str, tuple[Resident, ...]] = {}  # what _decoded returned last


def _decoded(parts: tuple, where: tuple, device: torch.device) -> tuple[Resident, ...]:
    """A data set's splits, decoded; those of the last call again if they are the same.

    A process that trains many rows trains them on the same images.
    """
    key = repr((where, device, *map(identify, parts)))
    if key not in _in_memory:
        _in_memory.clear()  # first, so that there is room
        _in_memory[key] = tuple(Resident(part, device) for part in parts)
    return _in_memory[key]


def _tested(
    folder: RunFolder, model: CountingNetwork, test, schedule: Schedule, device: torch.device
) -> Evaluation:
    """The test evaluation stored in a run folder, made and stored the first time."""
    rows = folder.table("test.csv")
    PartialState().wait_for_everyone()  # all have looked before one writes
    if rows:
        try:
            return Evaluation.from_table(rows)
        except InputError as error:
            raise InputError(f"{folder.path / 'test.csv'}: {error}") from None
    model.to(device)
    with computing(schedule.precision, device):
        evaluation = evaluate(model, test, sigma=schedule.sigma, window=schedule.window)
    model.cpu()
    if PartialState().is_main_process:
        folder.save_table("test.csv", evaluation.table)
    return evaluation


def _keep_record(
    folder: RunFolder, result: Result, about: dict, precision: str, device: str, train
) -> None:
    """Write a run's result.json."""
    import hmode  # whole by now; at the top of this file it is not

    densest = None  # people per pixel in the densest image: more than that was never seen
    if isinstance(train, Resident):  # else it was trained by another process, which was killed
        people = np.array([len(points) for points in train.points])
        densest = float((people / train.sizes.prod(axis=1)).max())
    timing = folder.numbers("timing.csv")
    record = {
        "experiment": result.name,
        **about,
        **result.row,
        **result.evaluation.errors,
        "epochs": len(timing),
        "seconds_per_epoch": result.training.seconds / len(timing),
        "peak_gib": max((row["peak_gib"] for row in timing if row["peak_gib"]), default=None),
        "parameters": sum(p.numel() for p in result.model.parameters()),
        "densest": densest,
        "config": folder.identity(),
        "hmode": hmode.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device_name(device),
        "precision": resolve_precision(precision, resolve_device(device)),
        "threads": torch.get_num_threads(),
    }
    text = json.dumps(record, indent=2) + "\n"
    write_atomically(folder.path / "result.json", lambda path: path.write_text(text, "utf-8"))


def device_name(device: str) -> str:
    """What result.json calls a device: "cpu", or the GPU's name.

    Raises:
        InputError: the device is unknown or not there.
    """
    chosen = resolve_device(device)
    return torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "cpu"
