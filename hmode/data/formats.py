"""What annotation files are made of: numbers, names, text and JSON, or an error that names the
file."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np

from hmode.errors import InputError, MissingFileError

# What Python's float() takes beyond this (1_000, infinity, digits of other scripts) is no number.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def as_points(values, where: str) -> np.ndarray:
    """Real numbers of shape `[N, 2]`, or nothing at all, as points.

    Args:
        values: an array, or nested lists.
        where: file and field, for the error.

    Raises:
        InputError: another shape or type, or a coordinate that is not finite.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        raise InputError(f"{where} is no array of numbers")
    if values.size == 0:
        return np.zeros((0, 2), dtype=np.float32)
    if values.ndim != 2 or values.shape[1] != 2:
        raise InputError(f"{where} has shape {list(values.shape)}, expected [N, 2]")
    with np.errstate(over="ignore"):
        points = values.astype(np.float32)
    if not np.isfinite(points).all():
        bad = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise InputError(
            f"{where}: point {bad + 1} is {values[bad].tolist()}, a coordinate that is not finite"
        )
    return points


def read_numbers(path: Path, *columns: str, signs: str = "") -> np.ndarray:
    """`[N, C]` float64 of a text file with C numbers a line.

    Args:
        columns: the names of the C columns; of several, those as many as the first line's numbers.
        signs: what may be between numbers, beside spaces and tabs: one of these in all lines.

    Raises:
        InputError: the file is not text, or a line does not hold C numbers.
    """
    lines = [line.strip(" \t") for line in read_lines(path)]
    first = next(filter(None, lines), "")
    between = next((sign for sign in signs if sign in first), "[ \t]+")
    found = len(re.split(between, first))
    names = next((each for each in columns if len(each.split()) == found), columns[0])
    rows = []
    for number, line in enumerate(lines, start=1):
        fields = re.split(between, line) if line else []
        if line and len(fields) != len(names.split()):
            raise InputError(
                f"{path}: line {number} has {len(fields)} values, expected {len(names.split())} "
                f"({names})"
            )
        if line:
            rows.append([to_number(each.strip(), f"{path}: line {number}") for each in fields])
    return np.array(rows, dtype=float).reshape(-1, len(names.split()))


def read_names(path: Path) -> list[str]:
    """The first word of every line: names of images, without their suffix.

    Raises:
        MissingFileError: the list is not there.
        InputError: it is not text, gives a name twice, or gives no plain file name.
    """
    words = [line.split()[0] for line in read_lines(path) if line.strip()]
    names = [re.sub(r"\.(jpe?g|png)$", "", word, flags=re.IGNORECASE) for word in words]
    for name, times in Counter(names).items():
        if times > 1 or not re.fullmatch(r"[\w.-]+", name):
            what = "given twice" if times > 1 else "no name of an image"
            raise InputError(f"{path}: {name[:60]!r} is {what}")
    return names


def read_json(path: Path):
    """The content of a JSON file.

    Raises:
        InputError: it is not JSON, or gives a key twice.
    """

    def once(pairs):
        content = dict(pairs)
        if len(content) < len(pairs):
            raise ValueError("a key is given twice")
        return content

    try:
        return json.loads("\n".join(read_lines(path)), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file: {one_line(error)}") from None


def json_points(values, where: str) -> np.ndarray:
    """A JSON list of [x, y] as points."""
    if not isinstance(values, list):
        raise InputError(f"{where} is {type(values).__name__}, expected a list of [x, y]")
    for i, pair in enumerate(values):
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))):
            raise InputError(f"{where}: entry {i + 1} is {str(pair)[:60]}, expected [x, y]")
    try:
        return as_points(np.array(values, dtype=float), where)
    except OverflowError:
        raise InputError(f"{where}: a coordinate is not finite") from None


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def to_number(text: str, where: str) -> float:
    if not NUMBER.fullmatch(text):
        raise InputError(f"{where}: {text[:40]!r} is not a number")
    return float(text)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, UTF-8 or marked as UTF-16; the last is empty where the file ends
    with a line's end."""
    content = read_bytes(path)
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8: {one_line(error)}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_bytes(path: Path) -> bytes:
    """A file's content.

    Raises:
        MissingFileError: it is not there.
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """An error's message on one line, short."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(message.split())[:200] or type(error).__name__
