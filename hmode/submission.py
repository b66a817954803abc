"""The file that the benchmark of NWPU-Crowd takes: the counts of its 1500 test images.

Each line is an image's number and its count, `3610 100.0000`, as the benchmark's guideline and its
sample code have it (www.crowdbenchmark.com; Wang et al., NWPU-Crowd, TPAMI 2021).
"""

import math
from collections.abc import Sequence
from pathlib import Path

from hmode.errors import InputError
from hmode.runs import write_atomically

TEST_IDS = range(3610, 5110)


def write_submission(path: str | Path, names: Sequence[str], counts: Sequence[float]) -> None:
    """Write the benchmark's file, in the order of the images' numbers.

    Args:
        names: of the images, their numbers "3610" to "5109", each once, in any order.
        counts: people in each, finite and not negative.

    Raises:
        InputError: names or counts are not that.
    """
    by_id: dict[int, float] = {}
    for name, count in zip(map(str, names), map(float, counts), strict=True):
        if not name.isdecimal() or int(name) not in TEST_IDS:
            raise InputError(
                f"{path}: image {name!r} is none of the test images {TEST_IDS[0]} to {TEST_IDS[-1]}"
            )
        if int(name) in by_id:
            raise InputError(f"{path}: image {name} is there twice")
        if not math.isfinite(count) or count < 0:
            raise InputError(f"{path}: image {name} has a count of {count}, expected at least 0")
        by_id[int(name)] = count
    missing = [number for number in TEST_IDS if number not in by_id]
    if missing:
        raise InputError(
            f"{path}: {len(by_id)} images, expected {len(TEST_IDS)}; the first that is missing is "
            f"{missing[0]}"
        )
    text = "".join(f"{number} {by_id[number]:.4f}\n" for number in TEST_IDS)
    write_atomically(Path(path), lambda partial: partial.write_text(text, encoding="ascii"))
