"""The command line: hmode reproduce, experiments, train, evaluate, …"""

import errno
import signal
import sys
import warnings
from contextlib import contextmanager

import click

from hmode import __version__, start
from hmode.cli.count import count_pictures
from hmode.cli.data import data
from hmode.cli.demo import demo
from hmode.cli.evaluate import evaluate_run
from hmode.cli.export import export_network
from hmode.cli.finetune import finetune_on
from hmode.cli.models import models
from hmode.cli.options import printable
from hmode.cli.reproduce import figures, reproduce
from hmode.cli.sweep import sweep
from hmode.cli.tables import tables
from hmode.cli.train import experiments, train
from hmode.errors import HmodeError


class _Commands(click.Group):
    """Turns hmode's own errors, and the system's about files, into one line and exit code 2, and
    warnings into one line each."""

    def invoke(self, context):
        start.imported()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a name that the encoding lacks is no reason to end
                stream.reconfigure(errors="backslashreplace")
        try:
            with warnings.catch_warnings(), _terminable():
                warnings.showwarning = _one_line
                return super().invoke(context)
        except HmodeError as error:
            message = str(error)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read has gone, which click knows
                raise
            place = "" if error.filename is None else f"{error.filename}: "
            message = f"{place}{error.strerror or error}"
        failure = click.ClickException(printable(message))
        failure.exit_code = 2
        raise failure from None


def _one_line(message, category, *_):
    click.echo(f"Warning: {printable(str(message))}", err=True)


@contextmanager
def _terminable():
    """Inside, SIGTERM ends the program as an exit does, so that what it began is cleaned up."""

    def leave(number, frame):
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # only the main thread may
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main():
    """Crowd counting with a hierarchical mixture of density experts (HMoDE) and the relative local
    counting loss (REL)."""


COMMANDS = [reproduce, experiments, train, finetune_on, sweep, evaluate_run, count_pictures]
COMMANDS += [export_network, demo, models, tables, figures, data]
for command in COMMANDS:
    main.add_command(command)
