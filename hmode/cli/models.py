"""hmode models: the networks that come with hmode, and how they are made."""

from pathlib import Path

import click
import numpy as np

from hmode.cli.options import DATA_ROOT, option
from hmode.data.registry import Selection
from hmode.experiments import splits
from hmode.pretrained import FOLDER, Card, names, pack
from hmode.profiles import PROFILES, load_profile
from hmode.runs import RunFolder


@click.group(invoke_without_command=True)
@click.pass_context
def models(context):
    """List the networks that come with hmode: data, size, errors, terms, hash."""
    if context.invoked_subcommand is None:
        for name in names():
            _describe(Card.read(name))


def _describe(card: Card) -> None:
    click.echo(f"{card.name}: {card.data}; {card.bytes / 1e6:.1f} MB, sha256:{card.sha256[:16]}")
    for split, errors in card.errors.items():
        click.echo(
            f"  {split}, {errors['images']} images: MAE {errors['mae']:.1f}, MSE (root) "
            f"{errors['mse']:.1f}, NAE {errors['nae']:.3f}, bias {errors['bias']:+.1f}"
        )
    click.echo(f"  terms of the data: {card.terms}")


@models.command(name="pack")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@option("--name", required=True, help="What the network is called.")
@option(
    "--profile",
    default="photos",
    type=click.Choice(PROFILES),
    help="The profile that says which images it was trained and tested on.",
)
@DATA_ROOT
@option(
    "--pixels",
    type=click.IntRange(min=1024),
    help="Bring every picture to about so many pixels before it is counted.",
)
@option(
    "--images", type=click.IntRange(min=1), help="Count only so many test images, spread evenly."
)
@click.option(
    "--folder",
    default=FOLDER,
    type=click.Path(path_type=Path),
    help="Where to write.  [default: the package]",
)
def pack_run(run_dir, name, profile, data_root, pixels, images, folder):
    """Store the network of the folder RUN in 8 bits, and what it counts in test images, so that it
    comes with hmode."""
    dataset = RunFolder(run_dir).config()["train"]["name"]
    train, _, test = splits(dataset, load_profile(profile, dataset), data_root)
    tests = {"test": _some(test, images)}
    _describe(pack(run_dir, name, train, tests, working_pixels=pixels, folder=folder))


def _some(dataset, most: int | None):
    if most is None or most >= len(dataset):
        return dataset
    return Selection(dataset, np.linspace(0, len(dataset) - 1, most).round().astype(int))
