"""hmode reproduce: the notebooks, in order."""

from pathlib import Path

import click

from hmode.cli.options import SETTING
from hmode.errors import InputError


@click.command()
@SETTING
@click.option("--fold", type=click.IntRange(min=0), help="Fold of ucf_cc_50, 0 to 4.  [default: 0]")
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
    profile,
    dataset,
    data_root,
    device,
    seed,
    fresh,
    fold,
    output,
    notebooks,
    only,
    parameter,
    in_place,
):
    """Run the numbered notebooks in order.

    Figures, tables and executed copies go to figures/PROFILE/DATASET/. Trained runs are reused
    unless --fresh. A notebook that fails does not stop the others. Ends with a table of what was
    measured beside the paper's numbers, and with the notebooks that failed, with exit code 2.
    """
    try:
        from hmode import notebooks as series
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed; running notebooks needs pip install 'hmode[notebooks]'"
        ) from None
    try:
        series.reproduce(
            profile=profile,
            dataset=dataset,
            data_root=data_root,
            device=device,
            seed=seed,
            fold=fold,
            output=output,
            notebooks=notebooks,
            parameters=dict(parameter),
            only=list(only),
            fresh=fresh,
            in_place=in_place,
            say=click.echo,
        )
    except series.NotebookError:
        click.echo(series.summary(profile, dataset, output))
        raise
    click.echo(series.summary(profile, dataset, output))
