"""The file that the benchmark of NWPU-Crowd takes: the counts of its 1500 test images.

Each line is an image's number and its count, `3610 100.0000`, as the benchmark's guideline and its
sample code have it (www.crowdbenchmark.com; Wang et al., NWPU-Crowd, TPAMI 2021).
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from hmode.errors import InputError, MissingFileError
from hmode.runs import write_atomically

TEST_IDS = range(3610, 5110)
LINE = re.compile(r"([0-9]+) ([0-9]+(?:\.[0-9]*)?)")


def write_submission(path: str | Path, names: Sequence[str], counts: Sequence[float]) -> None:
    """Write the benchmark's file, in the order of the images' numbers.

    Args:
        names: of the images, their numbers "3610" to "5109", each once, in any order.
        counts: people in each, finite and not negative.

    Raises:
        InputError: names or counts are not that.
    """
    path = Path(path)
    by_id: dict[int, float] = {}
    for name, count in zip(names, counts, strict=True):
        if not str(name).isdecimal():
            raise InputError(f"{path}: image {name!r}, expected a number as 3610")
        _add(by_id, int(name), float(count), str(path))
    _require_all(by_id, path)
    text = "".join(f"{number} {by_id[number]:.4f}\n" for number in TEST_IDS)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="ascii"))


def check_submission(path: str | Path) -> dict[int, float]:
    """The counts in a file for the benchmark, by image number.

    Raises:
        MissingFileError: it is not there.
        InputError: it is not 1500 lines of an image's number and a finite count of at least 0,
            with each of 3610 to 5109 once; names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not plain text: {error}") from None
    by_id: dict[int, float] = {}
    for number, line in enumerate(lines, 1):
        fields = LINE.fullmatch(line)
        if not fields:
            raise InputError(
                f"{path}, line {number}: {line[:40]!r}, expected an image's number and its count, "
                "at least 0, as '3610 100.0000'"
            )
        _add(by_id, int(fields[1]), float(fields[2]), f"{path}, line {number}")
    _require_all(by_id, path)
    return by_id


def _add(by_id: dict[int, float], number: int, count: float, where: str) -> None:
    if number not in TEST_IDS:
        raise InputError(
            f"{where}: image {number} is none of the test images {TEST_IDS[0]} to {TEST_IDS[-1]}"
        )
    if number in by_id:
        raise InputError(f"{where}: image {number} is there twice")
    if not math.isfinite(count) or count < 0:
        raise InputError(f"{where}: image {number} has a count of {count}, expected at least 0")
    by_id[number] = count


def _require_all(by_id: dict[int, float], path: Path) -> None:
    missing = [number for number in TEST_IDS if number not in by_id]
    if missing:
        raise InputError(
            f"{path}: {len(by_id)} images, expected {len(TEST_IDS)}; the first that is missing is "
            f"{missing[0]}"
        )
