"""The errors that hmode raises on purpose; a command line turns them into one line."""


class HmodeError(Exception):
    """Base of all errors that hmode raises on purpose."""


class InputError(HmodeError, ValueError):
    """Something given to hmode is wrong: names it, what was found and what was expected."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that is needed is not there."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class OutputError(HmodeError, OSError):
    """A file cannot be written: names it and says why."""


class BusyError(HmodeError, RuntimeError):
    """Another process is at work in a run folder: says which."""


class TrainingError(HmodeError, RuntimeError):
    """Training cannot usefully go on (a loss that is not a number, a dead density map)."""
