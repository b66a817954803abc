"""The command line: hmode reproduce, hmode train, hmode evaluate."""

from pathlib import Path

import click
import numpy as np

from hmode import __version__
from hmode.data import open_dataset
from hmode.errors import HmodeError, InputError
from hmode.evaluation import evaluate, load_run, resolve_device
from hmode.experiments import EXPERIMENTS, run
from hmode.profiles import PROFILES
from hmode.runs import write_csv


class _Commands(click.Group):
    """Turns hmode's own errors into one line and exit code 2."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except HmodeError as error:
            failure = click.ClickException(str(error))
            failure.exit_code = 2
            raise failure from None


def _options(*options):
    def add(command):
        for option in reversed(options):
            command = option(command)
        return command

    return add


DATA = _options(
    click.option(
        "--dataset", default="synthetic", show_default=True, help="Data set: synthetic, sha or shb."
    ),
    click.option(
        "--data-root",
        type=click.Path(path_type=Path),
        envvar="HMODE_DATA",
        show_envvar=True,
        help="Folder that holds the real data sets.",
    ),
)
SETTING = _options(
    click.option(
        "--profile",
        default="quick",
        show_default=True,
        type=click.Choice(PROFILES),
        help="smoke: seconds; quick: a laptop's CPU; paper: the paper's setting.",
    ),
    DATA,
    click.option(
        "--device",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "cpu", "cuda"]),
        help="Where to compute.",
    ),
    click.option(
        "--seed",
        default=0,
        show_default=True,
        type=click.IntRange(min=0),
        help="Seed of initial weights, batches, crops and flips.",
    ),
    click.option("--fresh", is_flag=True, help="Train again even where a trained run is there."),
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main():
    """Crowd counting with a hierarchical mixture of density experts (HMoDE) and the relative local
    counting loss (REL)."""


@main.command()
@SETTING
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for figures/ and runs/  [default: the project]",
)
@click.option(
    "--notebooks",
    type=click.Path(path_type=Path),
    help="Folder of the numbered notebooks  [default: the project's]",
)
@click.option(
    "--only",
    multiple=True,
    metavar="NN",
    help="Run only the notebooks whose names start so; may be repeated.",
)
@click.option(
    "-p",
    "--parameter",
    multiple=True,
    nargs=2,
    metavar="NAME VALUE",
    help="Any other notebook parameter; may be repeated.",
)
@click.option(
    "--in-place", is_flag=True, help="Store the outputs in the notebooks themselves afterwards."
)
def reproduce(
    profile, dataset, data_root, device, seed, fresh, output, notebooks, only, parameter, in_place
):
    """Run the numbered notebooks in order.

    Figures, tables and executed copies go to figures/PROFILE/DATASET/. Trained runs are reused
    unless --fresh. Ends with a table of what was measured beside the paper's numbers.
    """
    try:
        from hmode import notebooks as series
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed; running notebooks needs pip install 'hmode[notebooks]'"
        ) from None
    series.reproduce(
        profile=profile,
        dataset=dataset,
        data_root=data_root,
        device=device,
        seed=seed,
        output=output,
        notebooks=notebooks,
        parameters=dict(parameter),
        only=list(only),
        fresh=fresh,
        in_place=in_place,
        say=click.echo,
    )
    click.echo(series.summary(profile, dataset, output))


@main.command()
@click.argument("experiments", nargs=-1, required=True, type=click.Choice(sorted(EXPERIMENTS)))
@SETTING
@click.option(
    "--seeds",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many seeds to train with, counted up from --seed.",
)
@click.option(
    "--runs",
    default="runs",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of all runs.",
)
@click.option(
    "--csv",
    "table",
    type=click.Path(path_type=Path),
    help="Write one row a run to this file.",
)
def train(experiments, profile, dataset, data_root, device, seed, fresh, seeds, runs, table):
    """Train and test one or more EXPERIMENTS, going on where an interrupted training stopped."""
    _prepare(table)
    rows = []
    for name in experiments:
        for each in range(seed, seed + seeds):
            result = run(
                name,
                dataset,
                profile,
                each,
                data_root=data_root,
                device=device,
                runs=runs,
                fresh=fresh,
            )
            rows.append({"experiment": name, "dataset": dataset, "profile": profile, **result.row})
            click.echo(
                f"{name}, seed {each}: MAE {result.evaluation.mae:.2f}, MSE (root) "
                f"{result.evaluation.mse:.2f}; always the mean count: MAE {result.mean_mae:.2f}"
            )
        errors = np.array([row["mae"] for row in rows if row["experiment"] == name])
        if seeds > 1:
            click.echo(
                f"{name}: MAE {errors.mean():.2f} ± {errors.std(ddof=1):.2f} (mean and standard "
                f"deviation over {seeds} seeds)"
            )
    if table:
        write_csv(table, rows)


@main.command(name="evaluate")
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
    _prepare(table)
    result = evaluate(model, images, progress=None)
    if table:
        write_csv(table, result.table)
    _print_errors(result)


def _prepare(table: Path | None) -> None:
    """Make the folder of a file to be written before the work is done."""
    if table is not None:
        try:
            table.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{table}: cannot make its folder: {error}") from None


def _print_errors(result):
    click.echo(
        f"{len(result.names)} images, {result.true.sum():.0f} people: MAE {result.mae:.2f}, "
        f"MSE (root) {result.mse:.2f}"
    )


if __name__ == "__main__":
    main()
