"""hmode train and hmode experiments: the rows of the tables by name."""

import click
import numpy as np

from hmode.cli.options import RUNS, SETTING, TABLE, option, seeds
from hmode.device import process
from hmode.experiments import EXPERIMENTS, TABLES, canonical, rows, run, select
from hmode.outputs import prepare
from hmode.runs import write_csv
from hmode.step import Compute


@click.command()
@click.argument("experiments", nargs=-1, required=True, metavar="EXPERIMENT…")
@SETTING
@seeds(1)
@option("--fold", type=click.IntRange(min=0), help="Fold of ucf_cc_50, 0 to 4.")
@RUNS
@option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile the networks first: a minute or more, which long trainings win back.",
)
@option(
    "--graphs/--no-graphs",
    default=True,
    help="On a GPU, capture the training step as a CUDA graph.",
)
@TABLE
def train(experiments, seed, seeds, compiled, graphs, table, **where):
    """Train and test one or more EXPERIMENTs (see: hmode experiments), each a row or a whole
    table, going on where an interrupted training stopped."""
    experiments = select(experiments)
    prepare(table, "table")
    compute = Compute(graphs=graphs, compile=compiled)
    about = {key: where[key] for key in ("dataset", "profile")}
    rows = []
    for name in experiments:
        errors = []
        for each in range(seed, seed + seeds):
            result = run(name, seed=each, compute=compute, **where)
            errors.append(result.evaluation.mae)
            rows.append({"experiment": name, **about, **result.row})
            _say(
                f"{name}, seed {each}: MAE {errors[-1]:.2f}, MSE (root) "
                f"{result.evaluation.mse:.2f}; always the mean count: MAE {result.mean_mae:.2f}"
            )
        if seeds > 1:
            _say(
                f"{name}: MAE {np.mean(errors):.2f} ± {np.std(errors, ddof=1):.2f} (mean and "
                f"standard deviation over {seeds} seeds)"
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
