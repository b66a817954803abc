"""Ctrl-C while a command still imports torch, which takes seconds: one line and exit code 130.

Imported before all else; a program that uses hmode as a library keeps its own handling.
"""

import multiprocessing
import os
import signal
import sys


def _leave(number: int, _frame) -> None:
    os.write(2, b"Aborted!\n")
    os._exit(128 + number)  # nothing was begun; and libraries swallow exceptions in their imports


def imported() -> None:
    """Ctrl-C is an exception again: there is something to clean up from now on."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_command = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0] == "hmode"
_module = sys.argv[:1] == ["-m"] and "hmode" in sys.orig_argv  # python -m hmode
if (_command or _module) and multiprocessing.parent_process() is None:
    signal.signal(signal.SIGINT, _leave)
