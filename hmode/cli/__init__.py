"""The command line: hmode reproduce, experiments, train, evaluate, …"""

import click

from hmode import __version__
from hmode.cli.data import data
from hmode.cli.evaluate import evaluate_run
from hmode.cli.reproduce import reproduce
from hmode.cli.tables import tables
from hmode.cli.train import experiments, train
from hmode.errors import HmodeError


class _Commands(click.Group):
    """Turns hmode's own errors into one line and exit code 2."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except HmodeError as error:
            failure = click.ClickException(str(error))
            failure.exit_code = 2
            raise failure from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main():
    """Crowd counting with a hierarchical mixture of density experts (HMoDE) and the relative local
    counting loss (REL)."""


for command in (reproduce, experiments, train, evaluate_run, tables, data):
    main.add_command(command)
