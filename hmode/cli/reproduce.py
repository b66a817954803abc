"""hmode reproduce: the notebooks, in order, or one of their figures; hmode figures: which there
are."""

import shutil
import sys
import time

import click

from hmode.cli.options import SETTING, option, path_option
from hmode.errors import InputError

NOTEBOOKS = path_option(
    "--notebooks", help="Folder of the numbered notebooks  [default: the project's]"
)


@click.command()
@SETTING
@option("--fold", type=click.IntRange(min=0), help="Fold of ucf_cc_50, 0 to 4.  [default: 0]")
@path_option("--output", help="Folder for figures/ and runs/  [default: the project]")
@NOTEBOOKS
@option(
    "--only",
    multiple=True,
    metavar="NN",
    help="Run only the notebooks whose names start so; may be repeated.",
)
@option(
    "--figure",
    metavar="NAME",
    help="Make this figure or table only, such as 06-weights or table4; see: hmode figures.",
)
@option(
    "-p",
    "--parameter",
    multiple=True,
    nargs=2,
    metavar="NAME VALUE",
    help="Any other notebook parameter; may be repeated.",
)
@option(
    "--in-place", is_flag=True, help="Store the outputs in the notebooks themselves afterwards."
)
def reproduce(profile, dataset, output, parameter, only, figure, **options):
    """Run the numbered notebooks in order, or what one figure needs.

    Figures, tables and executed copies go to figures/PROFILE/DATASET/. Trained runs are reused
    unless --fresh. A notebook that fails does not stop the others. Ends with a table of what was
    measured beside the paper's numbers, and with the notebooks that failed, with exit code 2.
    """
    series, bar = _series(), _Bar()
    try:
        reports = series.reproduce(
            profile=profile,
            dataset=dataset,
            output=output,
            parameters=dict(parameter),
            only=list(only),
            figure=figure,
            say=bar.say,
            show=bar.show,
            **options,
        )
    except series.NotebookError:
        click.echo(series.summary(profile, dataset, output))
        raise
    if figure is None:
        click.echo(series.summary(profile, dataset, output))
    for report in reports if figure else ():
        click.echo("\n".join(map(str, [*report.figures, report.executed])))


@click.command()
@NOTEBOOKS
def figures(notebooks):
    """List every figure and table of the notebooks, and what of the paper it answers.

    Each is made by: hmode reproduce --figure NAME
    """
    lines = [("name", "notebook", "of the paper", "where")]
    for each in _series().figures(notebooks):
        lines.append((each.name, each.notebook.stem, each.paper or "–", each.heading))
    widths = [max(map(len, column)) for column in list(zip(*lines, strict=True))[:3]]
    for line in lines:
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=False)]
        click.echo("  ".join([*cells, line[3]]).rstrip())


def _series():
    try:
        from hmode import notebooks
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed; running notebooks needs pip install 'hmode[notebooks]'"
        ) from None
    return notebooks


class _Bar:
    """A line that is drawn anew every second on a terminal; elsewhere a line every ten seconds."""

    def __init__(self):
        self.live, self.drawn, self.last = sys.stdout.isatty(), False, time.monotonic()

    def show(self, text: str) -> None:
        """Draw the line."""
        if self.live:
            click.echo(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", nl=False)
            self.drawn = True
        elif time.monotonic() - self.last >= 9.5:
            self.last = time.monotonic()
            click.echo(f"  {text}")

    def say(self, text: str) -> None:
        """A line that stays."""
        click.echo(f"\r\x1b[K{text}" if self.drawn else text)
        self.drawn, self.last = False, time.monotonic()
