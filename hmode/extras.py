"""Libraries that only some uses need: imported when they are, or named with their extra."""

from importlib import import_module
from types import ModuleType

from hmode.errors import InputError


def need(module: str, extra: str, use: str) -> ModuleType:
    """A module of one of pyproject.toml's optional dependencies.

    Args:
        module: its name.
        extra: what it is installed with, `pip install 'hmode[extra]'`.
        use: what needs it, for the error.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise InputError(f"{use} needs {missing}: pip install 'hmode[{extra}]'") from None
