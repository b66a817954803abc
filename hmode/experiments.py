"""The experiments by name: each is the default with fields replaced.

A run lives in runs/<profile>/<data set>/<name>-seed<seed>; asking for it again loads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState

from hmode.data import CrowdImage, hold_out, open_dataset, true_counts
from hmode.data.registry import Selection
from hmode.errors import InputError
from hmode.evaluation import evaluate, load_run, resolve_device
from hmode.metrics import Evaluation, mae, mse
from hmode.models import CountingNetwork, build_model
from hmode.profiles import Profile, Schedule, load_profile
from hmode.runs import RunFolder
from hmode.training import Training, fit


@dataclass(frozen=True)
class Experiment:
    """One row of a table: a network and what differs from the default losses.

    Attributes:
        title: as the paper prints it.
        model: arguments of `build_model`.
        loss: fields of `LossSettings` to replace.
        schedule: fields of `Schedule` to replace.
        effort: share of the profile's epochs to train for.
        watch_test: whether the test MAE is followed during training.
    """

    title: str
    model: dict
    loss: dict = field(default_factory=dict)
    schedule: dict = field(default_factory=dict)
    effort: float = 1.0
    watch_test: bool = True

    def settings(self, profile: Profile) -> Schedule:
        """The schedule of this experiment under a profile."""
        usual = profile.schedule
        epochs = max(1, round(self.effort * usual.epochs))
        share = epochs / usual.epochs
        frozen = usual.freeze_norm_after
        shortened = {
            "epochs": epochs,
            "halve_after": tuple(round(after * share) for after in usual.halve_after),
            "freeze_norm_after": None if frozen is None else round(frozen * share),
        }
        loss = replace(usual.loss, **self.loss)
        return replace(usual, **(shortened | {"loss": loss} | self.schedule))


NO_REL = {"relative_weight": 0.0}

# Where the paper is silent: the baseline's loss is on its average and on each of its maps, like
# every other network's.
EXPERIMENTS = {
    "baseline": Experiment("Baseline", {"model": "Baseline"}, NO_REL),
    "hmode": Experiment("HMoDE", {"model": "HMoDE"}, NO_REL),
    "hmode+rel": Experiment("HMoDE+REL", {"model": "HMoDE"}),
}


def _trap(title: str, scale: float, density: str, relative: str) -> Experiment:
    """Short trainings of HMoDE+REL that differ in the scale of L_Des and REL only."""
    loss = {"density_reduction": density, "relative_reduction": relative}
    return Experiment(
        title,
        {"model": "HMoDE", "density_scale": scale},
        loss | {"attention_reduction": density},
        {"validate_every": 2},
        effort=0.25,
        watch_test=False,
    )


EXPERIMENTS |= {
    "trap/printed-1": _trap("as printed, scale 1", 1.0, "mean", "sum"),
    "trap/printed-100": _trap("as printed, scale 100", 100.0, "mean", "sum"),
    "trap/sums-100": _trap("both sums, scale 100", 100.0, "sum", "sum"),
    "trap/means-100": _trap("both means, scale 100", 100.0, "mean", "mean"),
}


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
    training: Training
    evaluation: Evaluation
    mean_mae: float
    mean_mse: float

    @property
    def row(self) -> dict:
        """What a table says of this run; errors in people."""
        return {
            "mae": self.evaluation.mae,
            "mse": self.evaluation.mse,
            "mae_over_mean": self.relative_mae,
            "mean_mae": self.mean_mae,
            "epoch": self.training.best_epoch,
            "best_on_test_mae": self.training.best_on_test,
            "seconds": self.training.seconds,
            "seed": self.seed,
        }

    @property
    def relative_mae(self) -> float:
        """Test MAE as a share of the mean predictor's."""
        return self.evaluation.mae / self.mean_mae


def run(
    name: str,
    dataset: str = "synthetic",
    profile: str = "quick",
    seed: int = 0,
    *,
    data_root: str | Path | None = None,
    device: str = "auto",
    runs: str | Path = "runs",
    fresh: bool = False,
    progress: bool | None = None,
) -> Result:
    """Train and test an experiment, or load it where that was done before.

    A tenth of the training split is held out to select the epoch on; the test split is only
    watched (`Training.best_on_test`).

    Args:
        name: one of `EXPERIMENTS`.
        dataset, data_root: as for `open_dataset`.
        profile: "smoke", "quick" or "paper".
        seed: of initial weights, batches, crops and flips; the held-out tenth is the same for all
            seeds.
        device: "auto", "cpu" or "cuda".
        runs: the folder of all runs.
        fresh: train again even where the run is there.
        progress: show a bar; None: where somebody watches.

    Raises:
        InputError: a name is unknown, or the run folder holds another configuration.
        TrainingError: as `fit`.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"experiment is {name!r}, expected one of {sorted(EXPERIMENTS)}")
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed is {seed!r}, expected a whole number of at least 0")
    settings = load_profile(profile, dataset)
    experiment = EXPERIMENTS[name]
    schedule = experiment.settings(settings)
    train, validation, test = splits(dataset, settings, data_root)
    model = initial_model(experiment, settings, seed)
    run_dir = Path(runs) / profile / dataset / f"{name.replace('/', '-')}-seed{seed}"
    training = fit(
        model,
        train,
        validation,
        schedule,
        run_dir=run_dir,
        seed=seed,
        resume=not fresh,
        test=test if experiment.watch_test else None,
        device=device,
        progress=progress,
    )
    model = load_run(run_dir)
    evaluation = _cached_evaluation(run_dir, model, test, device)
    mean = float(true_counts(train).mean())
    return Result(
        name,
        seed,
        model,
        training,
        evaluation,
        mae(evaluation.true, mean),
        mse(evaluation.true, mean),
    )


def splits(
    dataset: str,
    profile: Profile,
    data_root: str | Path | None = None,
) -> tuple[Sequence[CrowdImage], Sequence[CrowdImage], Sequence[CrowdImage]]:
    """(train, validation, test) of a data set under a profile; validation is held out of train."""
    limited = partial(_first, limit=profile.limit)
    train, validation = hold_out(
        limited(open_dataset(dataset, data_root, "train", **profile.train))
    )
    return train, validation, limited(open_dataset(dataset, data_root, "test", **profile.test))


def initial_model(experiment: Experiment, profile: Profile, seed: int) -> CountingNetwork:
    """The experiment's network at a profile's width, its weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model({**experiment.model, "width": profile.width}, weights=profile.weights)


def _first(dataset: Sequence[CrowdImage], limit: int | None) -> Sequence[CrowdImage]:
    return dataset if limit is None else Selection(dataset, range(min(limit, len(dataset))))


def _cached_evaluation(run_dir: Path, model, test, device: str) -> Evaluation:
    """The test evaluation stored in a run folder, made and stored the first time."""
    run = RunFolder(run_dir)
    rows = run.table("test.csv")
    PartialState().wait_for_everyone()  # all have looked before one writes
    if not rows:
        rows = evaluate(model.to(resolve_device(device)), test).table
        model.cpu()
        if PartialState().is_main_process:
            run.save_table("test.csv", rows)
    return Evaluation.from_table(rows)
