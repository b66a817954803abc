"""Does REL put regions into the order of their counts, and how hard does each loss term pull?

    python -m hmode.experiments.order --seeds 5
    python -m hmode.experiments.order --dataset sha --seeds 1

trains HMoDE and HMoDE+REL, by default on the data set `order`, in which many people can hardly be
seen beside masks where nobody is. A row of each training goes to
figures/<profile>/<data set>/order.csv, the gradients of its loss terms at its start, middle and end
to gradients.csv beside it; trainings that are there are not run again.
"""

import csv
from itertools import islice
from pathlib import Path

import click
import numpy as np

from hmode.analysis import gradient_norms, order_errors, view
from hmode.data import CropSampler, true_counts
from hmode.density import batch_density_maps
from hmode.device import float32_products, make_accelerator
from hmode.evaluation import predict
from hmode.experiments.registry import EXPERIMENTS, HMODE, HMODE_REL
from hmode.experiments.running import initial_model, splits
from hmode.losses import SETTINGS
from hmode.metrics import mae, mse
from hmode.profiles import PROFILES, load_profile
from hmode.step import TrainingStep

PROBED = 4  # batches whose gradients are looked at, the same at any time


def train_and_watch(
    name: str,
    dataset: str = "order",
    profile: str = "quick",
    seed: int = 0,
    device: str = "auto",
    data_root: Path | None = None,
) -> tuple[dict, list[dict]]:
    """Train an experiment and see how it orders regions, without a run folder.

    Returns:
        A row of
        - experiment, dataset, profile, seed.
        - mae, mse, mean_mae: on the test split, of the weights at the end (their running average);
          of always predicting the mean training count.
        - wrong, pairs, hard_wrong, hard_pairs: of the final map, see `order_errors`.

        And the rows of `pulls` at the start, in the middle and at the end.

    Raises:
        InputError: a name is unknown.
    """
    settings, experiment = load_profile(profile, dataset), EXPERIMENTS[name]
    schedule = experiment.settings(settings)
    train, _, test = splits(dataset, settings, data_root)
    accelerator = make_accelerator(device, schedule.precision)
    sampler = CropSampler(
        train,
        crop=schedule.crop,
        batch_size=schedule.batch_size,
        seed=seed,
        device=accelerator.device,
    )
    step = TrainingStep(accelerator, initial_model(experiment, settings, seed, train), schedule)
    identity = {"experiment": name, "dataset": dataset, "profile": profile, "seed": seed}
    found = []

    def look(moment: str) -> None:
        rows = pulls(step.network, sampler, schedule.sigma)
        found.extend(identity | {"moment": moment} | row for row in rows)

    look("start")
    with float32_products(schedule.precision):
        for epoch in range(schedule.epochs):
            if epoch == schedule.epochs // 2:
                look("middle")
            step.begin_epoch(schedule.rate(epoch), seed, epoch)
            for batch in sampler.epoch(epoch):
                step(batch)
    look("end")
    scores = score(step.kept.eval(), test, schedule)
    return identity | scores | {"mean_mae": _mean_error(train, test)}, found


def score(model, test, schedule) -> dict:
    """MAE, MSE and the order of regions on annotated images."""
    views = [view(each, predict(model, each), sigma=schedule.sigma) for each in test]
    cells = schedule.loss.cells
    side = schedule.crop // (model.stride * cells)  # the regions that REL sees in training
    rows = order_errors(views, side=side, cells=cells, regions=schedule.loss.regions)
    (order,) = [row for row in rows if row.pop("map") == "final"]
    true = np.array([each.count for each in views])
    found = [(each.pixels * each.maps[-1]).sum(dtype=float) for each in views]
    return {"mae": mae(true, found), "mse": mse(true, found), **order}


def _mean_error(train, test) -> float:
    return mae(true_counts(test), true_counts(train).mean())


def pulls(model, sampler: CropSampler, sigma: float) -> list[dict]:
    """How hard each loss term pulls, REL among them, with the default's sums over pixels and with
    means: rows of settings, term, and norm and gate_norm, the length of its gradient over all
    weights and over those of gating net 1, means over the first batches of an epoch."""
    batches = list(islice(sampler.epoch(0), PROBED))
    rows = []
    for name in ("paper", "means"):
        looks = {
            column: [
                gradient_norms(model, each.images, _target(each, sigma), SETTINGS[name], within)
                for each in batches
            ]
            for column, within in (("norm", ""), ("gate_norm", "inner_gates"))
        }
        for term in looks["norm"][0]:
            means = {key: float(np.mean([e[term] for e in found])) for key, found in looks.items()}
            rows.append({"settings": name, "term": term} | means)
    return rows


def _target(batch, sigma: float):
    size = batch.images.shape[-2:]
    return batch_density_maps(batch.points, batch.valid, size, sigma=sigma)


@click.command()
@click.option("--dataset", default="order", show_default=True)
@click.option("--data-root", type=click.Path(path_type=Path), envvar="HMODE_DATA")
@click.option("--profile", type=click.Choice(PROFILES), default="quick", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, help="The first of --seeds.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("figures"))
def main(dataset, data_root, profile, seed, seeds, device, output) -> None:
    """Train HMoDE with and without REL and keep what came of each training."""
    folder = output / profile / dataset
    for each in range(seed, seed + seeds):
        for name in (HMODE, HMODE_REL):
            done = {(row["experiment"], int(row["seed"])) for row in _read(folder / "order.csv")}
            if (name, each) in done:
                continue
            row, gradients = train_and_watch(name, dataset, profile, each, device, data_root)
            click.echo(", ".join(f"{key} {value}" for key, value in row.items()))
            _append(folder / "gradients.csv", gradients)
            _append(folder / "order.csv", [row])


def _read(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open(newline=""))) if path.exists() else []


def _append(path: Path, rows: list[dict]) -> None:
    """Write rows besides those that are there of other trainings."""
    new = {(row["experiment"], row["seed"]) for row in rows}
    kept = [row for row in _read(path) if (row["experiment"], int(row["seed"])) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[-1], lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept + rows)


if __name__ == "__main__":
    main()
