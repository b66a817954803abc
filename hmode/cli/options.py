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


def option(name: str, *more: str, help: str, **settings):
    """An option that shows its default where it has one."""
    shown = settings.get("default") is not None and not settings.get("is_flag")
    return click.option(name, *more, help=help, show_default=shown, **settings)


def path_option(name: str, *more: str, help: str, **settings):
    """An option that takes a path."""
    return option(name, *more, help=help, type=click.Path(path_type=Path), **settings)


DATA_ROOT = path_option(
    "--data-root",
    envvar="HMODE_DATA",
    show_envvar=True,
    help="Folder that holds the real data sets.",
)
DATA = options(
    option(
        "--dataset",
        default="synthetic",
        help=f"Data set: {', '.join(DATASETS)}; see: hmode data list.",
    ),
    DATA_ROOT,
)
ANNOTATIONS = option(
    "--annotations", help="Of folder: the file or folder with the points, if not found."
)
RUNS = path_option("--runs", default="runs", help="Folder of all runs.")
PROFILE = option(
    "--profile",
    default="quick",
    type=click.Choice(PROFILES),
    help="smoke: seconds; small: a minute a run; quick: a laptop's CPU; paper: the paper's.",
)
DEVICE = option(
    "--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute."
)
SEED = option(
    "--seed",
    default=0,
    type=click.IntRange(0, 2**63 - 1),
    help="Seed of initial weights, batches, crops and flips.",
)
FRESH = option("--fresh", is_flag=True, help="Train again even where a trained run is there.")
SETTING = options(PROFILE, DATA, DEVICE, SEED, FRESH)
TABLE = path_option("--csv", "table", help="Write one row a run to this file.")


def seeds(default: int):
    """How many seeds to train with."""
    return option(
        "--seeds",
        default=default,
        type=click.IntRange(min=1),
        help="How many seeds to train with, counted up from --seed.",
    )


def printable(text: str) -> str:
    """A text on one line, with what a terminal would obey or cannot show as escape codes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
