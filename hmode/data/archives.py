"""Unpacking archives of data sets, with suspicion: all of one, or nothing."""

import bz2
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from hmode.data.formats import one_line
from hmode.errors import HmodeError, InputError, MissingFileError

MOST_FILES = 200_000
MOST_GIB = 64.0  # several times the largest of the published data sets
CHUNK = 2**20
# What a tar archive keeps for itself (long names, extended headers) is read in one piece.
MOST_AT_ONCE = 2**24
COMPRESSION = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


@dataclass(frozen=True)
class Member:
    """What lies in an archive: its path, its declared size in bytes, and how to open it; `open` is
    None for a folder."""

    path: str
    size: int
    open: Callable[[], BinaryIO] | None


def unpack(
    archive: str | Path, to: str | Path | None = None, *, max_gib: float = MOST_GIB
) -> list[Path]:
    """Unpack a .zip or a .tar, .tar.gz, .tar.bz2 or .tar.xz archive.

    It is written into a hidden folder inside its destination, which is moved into place at the
    end, or removed if anything is wrong. Nothing that is there already is overwritten. Owners and
    permissions, and what a Mac adds (`__MACOSX`, `._*`, `.DS_Store`), are left out.

    Args:
        archive: the file.
        to: the folder to unpack into, made if need be; None: the archive's own.
        max_gib: refuse archives that hold more, in GiB.

    Returns:
        What now lies in that folder.

    Raises:
        MissingFileError: the archive is not there.
        InputError: it is no such archive, or damaged; a path leaves the folder; a member is a
            link, a device or encrypted; there are more than 200,000 members, or more bytes than
            allowed, than declared, or than the disk has room for; something is already there.
    """
    archive = Path(archive)
    if not archive.is_file():
        raise MissingFileError(f"{archive}: no such file")
    to = archive.parent if to is None else Path(to)
    try:
        with _folder(to), tempfile.TemporaryDirectory(prefix=".unpacking-", dir=to) as place:
            room = min(int(max_gib * 2**30), shutil.disk_usage(to).free)
            _write(archive, Path(place), room)
            return _move(archive, Path(place), to)
    except HmodeError:
        raise
    except Exception as error:  # a damaged archive can break the readers in many ways
        raise InputError(f"{archive}: cannot be unpacked: {one_line(error)}") from None


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """The folder exists; where it did not, and something fails, it does not afterwards."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in made:
            with suppress(OSError):
                each.rmdir()
        raise


def _write(archive: Path, place: Path, room: int) -> None:
    """Write an archive's members into a folder, `room` bytes of them at most."""
    for number, member in enumerate(_members(archive), start=1):
        parts = _parts(archive, member.path)
        room -= member.size
        if number > MOST_FILES or room < 0:
            raise InputError(
                f"{archive}: holds more than {MOST_FILES:,} files, or more bytes than allowed "
                "(see --max-gib) or than the disk has room for"
            )
        if not parts or parts[0] == "__MACOSX" or parts[-1].startswith("._"):
            continue
        target = place.joinpath(*parts)
        if member.open is None:
            target.mkdir(parents=True, exist_ok=True)
        elif parts[-1] != ".DS_Store":
            target.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, target.open("xb") as sink:
                _copy(source, sink, member.size, f"{archive}: {member.path}")


def _copy(source: BinaryIO, sink: BinaryIO, size: int, where: str) -> None:
    left = size
    while chunk := source.read(CHUNK):
        left -= len(chunk)
        if left < 0:
            break
        sink.write(chunk)
    if left:
        raise InputError(f"{where}: holds more or less than the {size:,} bytes it declares")


def _move(archive: Path, place: Path, to: Path) -> list[Path]:
    """Move what is in a folder into another, all of it or nothing."""
    names = sorted(os.listdir(place))
    if not names:
        raise InputError(f"{archive}: there is nothing in it")
    for name in names:
        if os.path.lexists(to / name):
            raise InputError(f"{to / name}: already there; remove it, or unpack elsewhere (--to)")
    moved: list[str] = []
    try:
        for name in names:
            (place / name).rename(to / name)
            moved.append(name)
    except BaseException:
        for name in moved:
            (to / name).rename(place / name)
        raise
    return [to / name for name in names]


def _parts(archive: Path, path: str) -> tuple[str, ...]:
    """A member's path in parts; \\ separates too, as archives made on Windows may have it."""
    parts = tuple(part for part in PurePosixPath(path.replace("\\", "/")).parts if part != ".")
    if parts and (
        parts[0].startswith("/")
        or ".." in parts
        or re.match("[A-Za-z]:", parts[0])
        or not path.isprintable()
    ):
        raise InputError(f"{archive}: {path[:80]!r} leads out of the folder, or is no file name")
    return parts


def _members(archive: Path) -> Iterator[Member]:
    with archive.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"PK"):
        return _zip_members(archive)
    for magic, opener in COMPRESSION.items():
        if start.startswith(magic):
            return _tar_members(archive, opener)
    return _tar_members(archive, open)


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as content:
        for info in content.infolist():
            if stat.S_ISLNK(info.external_attr >> 16):
                raise InputError(f"{archive}: {info.filename!r} is a link")
            if info.flag_bits & 1:
                raise InputError(f"{archive}: {info.filename!r} is encrypted")
            opener = None if info.is_dir() else lambda info=info: content.open(info)
            yield Member(info.filename, info.file_size, opener)


def _tar_members(archive: Path, opener: Callable) -> Iterator[Member]:
    with opener(archive, "rb") as file, _open_tar(archive, _Guarded(file)) as content:
        for info in content:
            if not (info.isreg() or info.isdir()):
                raise InputError(f"{archive}: {info.name!r} is a link, a device or the like")
            read = None if info.isdir() else lambda info=info: content.extractfile(info)
            yield Member(info.name, info.size if info.isreg() else 0, read)
        # tarfile takes a damaged header for the end, where there must be a block of zeros.
        content.fileobj.seek(content.offset)
        if content.fileobj.read(512) != bytes(512):
            raise InputError(f"{archive}: damaged or cut off")
        for _ in range(64):  # to the end, where compressed files have their check sum
            if not content.fileobj.read(CHUNK):
                return
        raise InputError(f"{archive}: goes on after its end")


def _open_tar(archive: Path, file: "_Guarded") -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except tarfile.TarError as error:
        raise InputError(
            f"{archive}: not a readable .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz archive: "
            f"{one_line(error)}"
        ) from None


class _Guarded:
    """A file for tarfile that refuses to read much at once: a header that declares a name of a
    gigabyte would take as much memory."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_AT_ONCE:
            raise InputError("a header of the archive is absurdly large")
        return self.file.read(size)
