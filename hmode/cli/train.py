"""hmode train and hmode experiments: the rows of the tables by name."""

from pathlib import Path

import click
import numpy as np

from hmode.cli.options import RUNS, SETTING
from hmode.evaluation import process
from hmode.experiments import EXPERIMENTS, TABLES, canonical, rows, run, select
from hmode.outputs import prepare
from hmode.runs import write_csv
from hmode.step import Compute


@click.command()
@click.argument("experiments", nargs=-1, required=True, metavar="EXPERIMENT…")
@SETTING
@click.option(
    "--seeds",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many seeds to train with, counted up from --seed.",
)
@click.option("--fold", type=click.IntRange(min=0), help="Fold of ucf_cc_50, 0 to 4.")
@RUNS
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile the networks first: a minute or more, which long trainings win back.",
)
@click.option(
    "--graphs/--no-graphs",
    default=True,
    show_default=True,
    help="On a GPU, capture the training step as a CUDA graph.",
)
@click.option(
    "--csv",
    "table",
    type=click.Path(path_type=Path),
    help="Write one row a run to this file.",
)
def train(
    experiments,
    profile,
    dataset,
    data_root,
    device,
    seed,
    fresh,
    seeds,
    fold,
    runs,
    compiled,
    graphs,
    table,
):
    """Train and test one or more EXPERIMENTs (see: hmode experiments), each a row or a whole
    table, going on where an interrupted training stopped."""
    experiments = select(experiments)
    prepare(table, "table")
    rows = []
    for name in experiments:
        for each in range(seed, seed + seeds):
            result = run(
                name,
                dataset,
                profile,
                each,
                fold=fold,
                data_root=data_root,
                device=device,
                runs=runs,
                fresh=fresh,
                compute=Compute(graphs=graphs, compile=compiled),
            )
            rows.append({"experiment": name, "dataset": dataset, "profile": profile, **result.row})
            _say(
                f"{name}, seed {each}: MAE {result.evaluation.mae:.2f}, MSE (root) "
                f"{result.evaluation.mse:.2f}; always the mean count: MAE {result.mean_mae:.2f}"
            )
        errors = np.array([row["mae"] for row in rows if row["experiment"] == name])
        if seeds > 1:
            _say(
                f"{name}: MAE {errors.mean():.2f} ± {errors.std(ddof=1):.2f} (mean and standard "
                f"deviation over {seeds} seeds)"
            )
    if table and process()[0] == 0:
        write_csv(table, rows)


def _say(text: str) -> None:
    """Of several processes that train together, one speaks."""
    if process()[0] == 0:
        click.echo(text)


@click.command()
@click.argument("tables", nargs=-1, metavar="[TABLE…]")
def experiments(tables):
    """Print every row of every table, and which run it is where it has another name."""
    for table in tables or TABLES:
        for row in rows(table):
            name = canonical(row)
            same = "" if name == row else f"  = {name}"
            click.echo(f"{row:26s} {EXPERIMENTS[name].title}{same}")
