"""Looking through a data set's files: is all there, readable, and as published?"""

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hmode.data.annotated import doubts, inside_frame
from hmode.data.catalogue import CATALOGUE
from hmode.data.formats import read_bytes
from hmode.data.source import Item, Source
from hmode.errors import InputError

# Published totals of people differ from the files' by less (ShanghaiTech A: by 0.2 %).
TOLERANCE = 0.01


@dataclass
class Report:
    """What was found in a data set.

    Attributes:
        rows: one for each split, then one for all of them: split, images, published images,
            people, published people; None for a number that is not known.
        problems: what is lacking, unreadable, doubtful or not as published, a line each.
        notes: what is worth knowing and does no harm, a line each.
    """

    rows: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Finding:
    """What was found in one image's files; `people` is None where the annotation is not known."""

    people: int | None = None
    outside: int = 0
    repeated: int = 0
    problems: list[str] = field(default_factory=list)


def check(source: Source, progress: Callable[..., Iterable] = lambda items, total: items) -> Report:
    """Read every image and every annotation of a data set, and say what is wrong with them.

    Args:
        source: from `open_source`.
        progress: wraps the findings for a progress bar: (findings, total=) → the same.
    """
    report = Report()
    with warnings.catch_warnings(record=True) as warned, ThreadPoolExecutor() as pool:
        warnings.simplefilter("always")
        listed = _list(source, report)
        findings = pool.map(lambda each: examine(source, each[1]), listed)
        findings = list(progress(findings, total=len(listed)))
    report.problems += [str(each.message) for each in warned]
    for finding in findings:
        report.problems += finding.problems
    splits = [split for split, _ in listed]
    _count(report, source, splits, findings)
    _find_twins(report, source.name, listed)
    outside, repeated = (
        sum(getattr(f, kind) for f in findings) for kind in ("outside", "repeated")
    )
    if outside:
        report.notes.append(f"{outside:,} points lie outside their image: people in no density map")
    if repeated:
        report.notes.append(
            f"{repeated:,} points repeat another of their image: people all the same"
        )
    return report


def examine(source: Source, item: Item) -> Finding:
    """One image with its annotation."""
    finding, size, found = Finding(), None, None
    try:
        size = source.read_image(item).size
    except InputError as error:
        finding.problems.append(str(error))
    try:
        found = source.read(item) if item.annotation else None
    except InputError as error:
        finding.problems.append(str(error))
    if found is None:
        return finding
    finding.people = len(found.points)
    finding.repeated = len(found.points) - len(np.unique(found.points, axis=0))
    if size is not None:
        finding.outside = int((~inside_frame(found.points, size)).sum())
        doubtful = doubts(found, size)
        if found.mask is not None and found.mask.shape[::-1] != size:
            doubtful.append(f"{item.mask.name} is of another size than the image")
        finding.problems += [f"{item.annotation}: {item.name}: {doubt}" for doubt in doubtful]
    return finding


def _list(source: Source, report: Report) -> list[tuple[str, Item]]:
    """(split, item) of all images that have their files; the report says what is lacking."""
    listed: list[tuple[str, Item]] = []
    strays: dict[Path, None] = {}
    for split in source.parts:
        try:
            listing = source.find(split)
        except InputError as error:
            report.problems.append(str(error))
            continue
        listed += [(split, item) for item in listing.items]
        strays |= dict.fromkeys(listing.strays)
        report.problems += [f"missing: {lost}" for lost in listing.missing]
    report.problems += [f"belongs to no image of a split: {path}" for path in strays]
    return listed


def _count(report: Report, source: Source, splits: list[str], findings: list[Finding]) -> None:
    """Fill the table, and compare it with what is published."""
    entry = CATALOGUE.get(source.name)
    for split in source.parts:
        found = [f.people for s, f in zip(splits, findings, strict=True) if s == split]
        people = [n for n in found if n is not None]
        published = entry and entry.images.get(split)
        report.rows.append(
            {
                "split": split,
                "images": len(found),
                "published images": published,
                "people": sum(people) if people else None,
                "published people": None,
            }
        )
        if published not in (None, len(found)):
            report.problems.append(
                f"{split} has {len(found):,} images, published are {published:,}"
            )
    total = {"split": "total", "published people": entry and entry.people}
    for column in ("images", "published images", "people"):
        total[column] = sum(row[column] or 0 for row in report.rows) or None
    report.rows.append({name: total[name] for name in report.rows[0]})
    if entry and entry.people and total["people"] not in (None, entry.people):
        text = f"the files hold {total['people']:,} people, published are {entry.people:,}"
        close = abs(total["people"] / entry.people - 1) < TOLERANCE
        (report.notes if close else report.problems).append(text)


def _find_twins(report: Report, name: str, listed: list[tuple[str, Item]]) -> None:
    """Images that are the same byte for byte; only files of equal length are compared."""
    flaws = CATALOGUE[name].flaws if name in CATALOGUE else ()
    for group in _equal(listed, lambda path: path.stat().st_size):
        for twins in _equal(group, lambda path: hashlib.sha256(read_bytes(path)).digest()):
            names = [f"{split}/{item.name}" for split, item in twins]
            text = f"the same image, byte for byte: {', '.join(names)}"
            if frozenset(names) in flaws:
                report.notes.append(f"{text} (a known flaw of the published files)")
            elif len({split for split, _ in twins}) > 1:
                report.problems.append(f"{text}: in more than one split")
            else:
                report.notes.append(text)


def _equal(listed: list[tuple[str, Item]], key: Callable[[Path], object]) -> list[list]:
    """The groups of two or more whose images have the same key; unreadable ones have none."""
    groups = defaultdict(list)
    for split, item in listed:
        try:
            groups[key(item.image)].append((split, item))
        except OSError:
            continue
    return [group for group in groups.values() if len(group) > 1]
