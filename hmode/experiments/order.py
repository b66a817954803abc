"""Does REL put regions into the order of their counts? Trainings with and without it.

    python -m hmode.experiments.order --seeds 5

trains HMoDE and HMoDE+REL on the data set `order`, in which many people can hardly be seen beside
masks where nobody is, and keeps a row of each training in figures/<profile>/<data set>/order.csv;
rows that are there are not trained again.
"""

import csv
from itertools import islice
from pathlib import Path

import click
import numpy as np

from hmode.analysis import gradient_norms, order_errors, view
from hmode.data import CropSampler, true_counts
from hmode.density import batch_density_maps
from hmode.evaluation import predict
from hmode.experiments.registry import EXPERIMENTS, HMODE, HMODE_REL
from hmode.experiments.running import initial_model, splits
from hmode.metrics import mae, mse
from hmode.profiles import PROFILES, Schedule, load_profile
from hmode.step import TrainingStep, float32_products, make_accelerator

PROBED = 4  # batches whose gradients are looked at, the same at any time


def train_and_watch(
    name: str, dataset: str = "order", profile: str = "quick", seed: int = 0, device: str = "auto"
) -> dict:
    """Train an experiment and see how it orders regions, without a run folder.

    Returns:
        A row of
        - experiment, dataset, profile, seed.
        - mae, mse, mean_mae: on the test split, of the weights at the end (their running average);
          of always predicting the mean training count.
        - wrong, pairs, hard_wrong, hard_pairs: of the final map, see `order_errors`.
        - rel_start, rel_middle, rel_end: the length of REL's gradient as a share of the whole
          loss's, mean over batches; of a training without REL, what it would be with it.

    Raises:
        InputError: a name is unknown.
    """
    settings, experiment = load_profile(profile, dataset), EXPERIMENTS[name]
    schedule = experiment.settings(settings)
    train, _, test = splits(dataset, settings)
    accelerator = make_accelerator(device, schedule.precision)
    sampler = CropSampler(
        train,
        crop=schedule.crop,
        batch_size=schedule.batch_size,
        seed=seed,
        device=accelerator.device,
    )
    step = TrainingStep(accelerator, initial_model(experiment, settings, seed, train), schedule)
    whole = EXPERIMENTS[HMODE_REL].settings(settings)  # with REL, whether it takes part or not
    shares = {"rel_start": rel_share(step.network, sampler, whole)}
    with float32_products(schedule.precision):
        for epoch in range(schedule.epochs):
            if epoch == schedule.epochs // 2:
                shares["rel_middle"] = rel_share(step.network, sampler, whole)
            step.begin_epoch(schedule.rate(epoch), seed, epoch)
            for batch in sampler.epoch(epoch):
                step(batch)
    shares["rel_end"] = rel_share(step.network, sampler, whole)
    model = step.kept.eval()
    views = [view(each, predict(model, each), sigma=schedule.sigma) for each in test]
    (order,) = [row for row in order_errors(views) if row.pop("map") == "final"]
    true = np.array([each.count for each in views])
    found = [(each.pixels * each.maps[-1]).sum(dtype=float) for each in views]
    mean = true_counts(train).mean()
    return {
        **{"experiment": name, "dataset": dataset, "profile": profile, "seed": seed},
        **{"mae": mae(true, found), "mse": mse(true, found), "mean_mae": mae(true, mean)},
        **order,
        **shares,
    }


def rel_share(model, sampler: CropSampler, schedule: Schedule) -> float:
    """REL's gradient as a share of the whole loss's, mean over the first batches of an epoch."""
    found = []
    for batch in islice(sampler.epoch(0), PROBED):
        target = batch_density_maps(
            batch.points, batch.valid, batch.images.shape[-2:], sigma=schedule.sigma
        )
        norms = gradient_norms(model, batch.images, target, schedule.loss)
        found.append(norms["relative"] / norms["total"])
    return float(np.mean(found))


@click.command()
@click.option("--dataset", default="order", show_default=True)
@click.option("--profile", type=click.Choice(PROFILES), default="quick", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, help="The first of --seeds.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("figures"))
def main(dataset: str, profile: str, seed: int, seeds: int, device: str, output: Path) -> None:
    """Train HMoDE with and without REL and keep a row of each training."""
    path = output / profile / dataset / "order.csv"
    rows = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    done = {(row["experiment"], int(row["seed"])) for row in rows}
    for each in range(seed, seed + seeds):
        for name in (HMODE, HMODE_REL):
            if (name, each) in done:
                continue
            rows.append(train_and_watch(name, dataset, profile, each, device))
            click.echo(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[-1], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
