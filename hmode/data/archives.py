"""Unpacking archives of data sets: all of one, or nothing."""

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from hmode.data.formats import one_line
from hmode.errors import HmodeError, InputError, MissingFileError

MOST_GIB = 64.0  # several times the largest of the published data sets
CHUNK = 2**20


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
            link, a device or encrypted; there are more bytes than allowed or than the disk has
            room for; something is already there.
    """
    archive = Path(archive)
    if not archive.is_file():
        raise MissingFileError(f"{archive}: no such file")
    to = archive.parent if to is None else Path(to)
    try:
        with _folder(to), tempfile.TemporaryDirectory(prefix=".unpacking-", dir=to) as place:
            room = min(int(max_gib * 2**30), shutil.disk_usage(to).free)
            extract = _unzip if zipfile.is_zipfile(archive) else _untar
            extract(archive, place, room)
            return _move(archive, Path(place), to)
    except HmodeError:
        raise
    except tarfile.ReadError:
        raise InputError(
            f"{archive}: damaged, or no .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz archive"
        ) from None
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


def _admit(archive: Path, place: str, path: str, size: int, room: int, odd: bool) -> bool:
    """Whether a member is to be unpacked.

    Raises:
        InputError: it is dangerous, too large for the room, or given twice.
    """
    parts = PurePosixPath(path).parts
    if odd or ".." in parts or path.startswith("/") or ":" in path or not path.isprintable():
        raise InputError(f"{archive}: {path[:80]!r} leads out of the folder, or is no file")
    if size > room:
        raise InputError(
            f"{archive}: holds more bytes than allowed (--max-gib) or than the disk has room for"
        )
    if os.path.isfile(os.path.join(place, path)):
        raise InputError(f"{archive}: {path!r} is given twice")
    return not any(part in ("__MACOSX", ".DS_Store") or part.startswith("._") for part in parts)


def _unzip(archive: Path, place: str, room: int) -> None:
    with zipfile.ZipFile(archive) as content:
        for info in content.infolist():
            info.filename = info.filename.replace("\\", "/")  # as made on Windows
            odd = stat.S_ISLNK(info.external_attr >> 16)
            if _admit(archive, place, info.filename, info.file_size, room, odd):
                content.extract(info, place)
            room -= info.file_size


def _untar(archive: Path, place: str, room: int) -> None:
    with tarfile.open(archive) as content:
        for info in content:
            info.name, info.mode = info.name.replace("\\", "/"), None
            odd = not (info.isfile() or info.isdir())
            if _admit(archive, place, info.name, info.size, room, odd):
                content.extract(info, place, set_attrs=False, filter="data")
            room -= info.size
        # tarfile takes a damaged header for the end, where there must be a block of zeros.
        content.fileobj.seek(content.offset)
        if content.fileobj.read(512) != bytes(512):
            raise InputError(f"{archive}: damaged or cut off")
        while content.fileobj.read(CHUNK):  # to the end, where compressed files have a check sum
            pass


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
