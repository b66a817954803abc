"""Annotation files: text, CSV and JSON in; head points, or an error that names the file, out.

Every reader gives points as float32 `[N, 2]`, (x, y) in pixels, as they stand in the file.
"""

import csv
import json
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from hmode.errors import InputError, MissingFileError

# What Python's float() takes beyond this (1_000, infinity, digits of other scripts) is no number.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "name")


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


def read_numbers(path: Path, columns: str) -> np.ndarray:
    """`[N, C]` float64 of a text file with C numbers a line, between spaces or tabs.

    Args:
        columns: the names of the C columns, for the error.

    Raises:
        InputError: the file is not text, or a line does not hold C numbers.
    """
    count = len(columns.split())
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = re.findall(r"[^ \t]+", line)
        if fields and len(fields) != count:
            raise InputError(
                f"{path}: line {number} has {len(fields)} values, expected {count} ({columns})"
            )
        if fields:
            rows.append([_number(each, f"{path}: line {number}") for each in fields])
    return np.array(rows, dtype=float).reshape(-1, count)


def read_csv_points(path: Path) -> dict[str, np.ndarray]:
    """A CSV table of points by image: columns x and y, and image where it is of several.

    The header names the columns, in any order and case, others are left aside. A row with a name
    and without x and y says that nobody is in that image.

    Returns:
        {image: points}; {"": points} without a column for the image.

    Raises:
        InputError: the file is no such table.
    """
    lines = read_lines(path)
    if lines and lines[-1]:
        warnings.warn(f"{path}: the last line has no end; was the file cut off?", stacklevel=2)
    reader = csv.reader(lines, strict=True)
    points: dict[str, list] = {}
    try:
        image, x, y, width = _columns(path, next(reader, []))
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            if not any(field.strip() for field in row):
                continue
            if len(row) != width:
                raise InputError(f"{where} has {len(row)} values, its header {width}")
            found = points.setdefault("" if image is None else row[image].strip(), [])
            pair = [row[x].strip(), row[y].strip()]
            if any(pair) or image is None:
                found.append([_number(each, where) for each in pair])
    except csv.Error as error:
        raise InputError(f"{path}: not a readable CSV file: {error}") from None
    if image is None:
        points.setdefault("", [])
    return {
        name: as_points(found, str(path)) if found else as_points(np.zeros((0, 2)), "")
        for name, found in points.items()
    }


def _columns(path: Path, header: list[str]) -> tuple[int | None, int, int, int]:
    """Where the image's name (or None), x and y are in a row, and its length."""
    names = [name.strip().lower() for name in header]
    images = [i for i, name in enumerate(names) if name in IMAGE_COLUMNS]
    if names.count("x") != 1 or names.count("y") != 1 or len(images) > 1:
        raise InputError(
            f"{path}: the header is {','.join(header)!r}, expected the columns image, x, y "
            "(or x, y in a file for one image)"
        )
    return images[0] if images else None, names.index("x"), names.index("y"), len(names)


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


def _number(text: str, where: str) -> float:
    if not NUMBER.fullmatch(text):
        raise InputError(f"{where}: {text[:40]!r} is not a number")
    return float(text)


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file; the last is empty where the file ends with a line's end."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file: {one_line(error)}") from None
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
