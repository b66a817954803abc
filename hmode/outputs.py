"""Files that a command writes where its user says: what is there is replaced only by its like."""

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

from hmode.data.formats import one_line
from hmode.errors import InputError

# The first columns of all our tables.
TABLE = re.compile(rb"(image|name|fold|experiment|run|table|time),")
# How a format says which program made a file. The others do not, so nothing in them is replaced.
MAKERS = {"png": "Software", "pdf": "Creator", "svg": "Creator", "ps": "Creator", "eps": "Creator"}

FORMULA = tuple("=+-@")  # with which a cell begins that spreadsheets run


def harmless(name: str) -> str:
    """A name as a cell of a table, with an apostrophe where a spreadsheet would run it."""
    return f"'{name}" if name.startswith(FORMULA) else name


def maker(path: Path) -> dict[str, str] | None:
    """matplotlib's `metadata` that marks a picture as ours, by the file's ending."""
    key = MAKERS.get(path.suffix[1:].lower())
    return key and {key: "hmode"}


def prepare(path: Path | None, kind: str) -> None:
    """Make the folder of a file to be written, and see that it can be, before the work is done.

    Args:
        path: the file; None: nothing to do.
        kind: one of `KINDS`; a file that is there and is not of this kind is kept.

    Raises:
        InputError: it cannot be written, or holds something else.
    """
    if path is None:
        return
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected a file to write")
        path.resolve().parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with TemporaryFile(dir=path.resolve().parent):
                pass
        elif path.is_file():  # else a pipe or a device, which holds nothing
            with path.open("r+b") as file:
                content = file.read()
            if content and not KINDS[kind](content):
                raise InputError(
                    f"{path}: is there and is no {kind} of ours, so it is not replaced; choose "
                    "another name, or remove it"
                )
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {one_line(error)}") from None


KINDS: dict[str, Callable[[bytes], object]] = {
    "table": lambda content: TABLE.match(content) or content[:4] == b"PAR1",
    "picture": lambda content: b"hmode" in content,
    "film": lambda content: b"hmode" in content,
    "network": lambda content: b"hmode" in content,
    "array": lambda content: content[:6] == b"\x93NUMPY" and b"'<f4'" in content[:128],
    "submission": lambda content: re.match(rb"[0-9]{4} [0-9]+\.[0-9]{4}\n", content),
}
