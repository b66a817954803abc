"""hmode finetune: a network that comes with hmode, trained on with one's own images."""

from pathlib import Path

import click

from hmode.cli.options import DEVICE, SEED, option
from hmode.data import open_dataset
from hmode.pretrained import finetune


@click.command(name="finetune")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@option("--name", default="photos", help="The network, see: hmode models.")
@click.option("--epochs", default=20, show_default=True, type=click.IntRange(min=1))
@DEVICE
@SEED
def finetune_on(folder, run_dir, name, epochs, device, seed):
    """Train a network that comes with hmode on the annotated images of FOLDER (see: hmode data),
    its encoder held fixed, into the folder RUN, for `hmode count --weights RUN`."""
    images = open_dataset("folder", folder, "all")
    finetune(name, images, run_dir, epochs=epochs, device=device, seed=seed)
    click.echo(f"{run_dir}: count with it by hmode count --weights {run_dir} IMAGE...")
