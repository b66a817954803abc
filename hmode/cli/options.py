"""Options that several commands share."""

from pathlib import Path

import click

from hmode.data import DATASETS
from hmode.profiles import PROFILES


def options(*chosen):
    """Several options as one decorator."""

    def add(command):
        for option in reversed(chosen):
            command = option(command)
        return command

    return add


DATA_ROOT = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    envvar="HMODE_DATA",
    show_envvar=True,
    help="Folder that holds the real data sets.",
)
DATA = options(
    click.option(
        "--dataset",
        default="synthetic",
        show_default=True,
        help=f"Data set: {', '.join(DATASETS)}; see: hmode data list.",
    ),
    DATA_ROOT,
)
RUNS = click.option(
    "--runs",
    default="runs",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of all runs.",
)
PROFILE = click.option(
    "--profile",
    default="quick",
    show_default=True,
    type=click.Choice(PROFILES),
    help="smoke: seconds; small: a minute a run; quick: a laptop's CPU; paper: the paper's.",
)
DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where to compute.",
)
SEED = click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**63 - 1),
    help="Seed of initial weights, batches, crops and flips.",
)
SETTING = options(
    PROFILE,
    DATA,
    DEVICE,
    SEED,
    click.option("--fresh", is_flag=True, help="Train again even where a trained run is there."),
)


def printable(text: str) -> str:
    """A text on one line, with what a terminal would obey or cannot show as escape codes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
