"""hmode evaluate: a trained network on a data set."""

from pathlib import Path

import click

from hmode.cli.options import DATA, prepare
from hmode.data import open_dataset
from hmode.evaluation import evaluate, load_run, resolve_device
from hmode.runs import write_csv


@click.command(name="evaluate")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@DATA
@click.option(
    "--split",
    default="test",
    show_default=True,
    help="Split of the data set.",
)
@click.option(
    "--which",
    default="best",
    show_default=True,
    type=click.Choice(["best", "last"]),
    help="Which weights of the run.",
)
@click.option(
    "--max-side",
    type=click.IntRange(min=32),
    help="Scale images of real data sets down to at most this side, in pixels.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where to compute.",
)
@click.option(
    "--csv", "table", type=click.Path(path_type=Path), help="Write one row an image to this file."
)
def evaluate_run(run_dir, dataset, data_root, split, which, max_side, device, table):
    """Count the images of a data set with the trained network in the folder RUN."""
    model = load_run(run_dir, which).to(resolve_device(device))
    options = {} if max_side is None else {"max_side": max_side}
    images = open_dataset(dataset, data_root, split, **options)
    prepare(table)
    result = evaluate(model, images, progress=None)
    if table:
        write_csv(table, result.table)
    _print_errors(result)


def _print_errors(result):
    click.echo(
        f"{len(result.names)} images, {result.true.sum():.0f} people: MAE {result.mae:.2f}, "
        f"MSE (root) {result.mse:.2f}"
    )
