"""The command line: hmode reproduce, experiments, train, evaluate, …"""

import warnings

import click

from hmode import __version__
from hmode.cli.count import count_pictures
from hmode.cli.data import data
from hmode.cli.evaluate import evaluate_run
from hmode.cli.export import export_network
from hmode.cli.reproduce import reproduce
from hmode.cli.sweep import sweep
from hmode.cli.tables import tables
from hmode.cli.train import experiments, train
from hmode.errors import HmodeError


class _Commands(click.Group):
    """Turns hmode's own errors into one line and exit code 2, and warnings into one line each."""

    def invoke(self, context):
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _one_line
                return super().invoke(context)
        except HmodeError as error:
            failure = click.ClickException(str(error))
            failure.exit_code = 2
            raise failure from None


def _one_line(message, category, *_):
    click.echo(f"Warning: {message}", err=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main():
    """Crowd counting with a hierarchical mixture of density experts (HMoDE) and the relative local
    counting loss (REL)."""


COMMANDS = (reproduce, experiments, train, sweep, evaluate_run, count_pictures, tables, data)
for command in (*COMMANDS, export_network):
    main.add_command(command)
