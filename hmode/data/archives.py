"""Unpacking archives of data sets: all of one, or nothing."""

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path

from hmode.data.formats import one_line
from hmode.errors import HmodeError, InputError, MissingFileError

MOST_GIB = 64.0  # several times the largest of the published data sets


def unpack(
    archive: str | Path, to: str | Path | None = None, *, max_gib: float = MOST_GIB
) -> list[Path]:
    """Unpack a .zip or a .tar, .tar.gz, .tar.bz2 or .tar.xz archive.

    It is written into a hidden folder inside its destination, which is moved into place at the
    end, or removed if anything is wrong. Nothing that is there already is overwritten.

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
        to.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=to) as place:
            room = min(int(max_gib * 2**30), shutil.disk_usage(to).free)
            if zipfile.is_zipfile(archive):
                _admit(archive, room, _in_zip(archive))
                shutil.unpack_archive(archive, place, "zip")
            else:
                _admit(archive, room, _in_tar(archive))
                shutil.unpack_archive(archive, place, "tar", filter="data")
            return _move(archive, Path(place), to)
    except HmodeError:
        raise
    except tarfile.ReadError:
        raise InputError(
            f"{archive}: damaged, or no .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz archive"
        ) from None
    except Exception as error:  # a damaged archive can break the readers in many ways
        raise InputError(f"{archive}: cannot be unpacked: {one_line(error)}") from None


def _in_zip(archive: Path) -> list[tuple[str, int, bool]]:
    """(path, bytes, whether it is a link) of each member."""
    with zipfile.ZipFile(archive) as content:
        each = content.infolist()
        return [(i.filename, i.file_size, stat.S_ISLNK(i.external_attr >> 16)) for i in each]


def _in_tar(archive: Path) -> list[tuple[str, int, bool]]:
    """(path, bytes, whether it is no file or folder) of each member."""
    with tarfile.open(archive) as content:
        found = [(i.name, i.size, not (i.isfile() or i.isdir())) for i in content]
        # tarfile takes a damaged header for the end, where there must be a block of zeros.
        content.fileobj.seek(content.offset)
        if content.fileobj.read(512) != bytes(512):
            raise InputError(f"{archive}: damaged or cut off")
        while content.fileobj.read(2**20):  # to the end, where compressed files have a check sum
            pass
        return found


def _admit(archive: Path, room: int, members: list[tuple[str, int, bool]]) -> None:
    """Refuse what is dangerous, before anything is written."""
    files = [path for path, _, _ in members if not path.endswith("/")]
    for path, _, odd in members:
        odd = odd or path[:1] == "/" or ".." in path.split("/") or not path.isprintable()
        if odd or {":", "\\"} & set(path):
            raise InputError(f"{archive}: {path[:80]!r} leads out of the folder, or is no file")
    if len(set(files)) < len(files):
        raise InputError(f"{archive}: a file is given twice")
    if sum(size for _, size, _ in members) > room:
        raise InputError(
            f"{archive}: holds more bytes than allowed (--max-gib) or than the disk has room for"
        )


def _move(archive: Path, place: Path, to: Path) -> list[Path]:
    """Move what is in a folder into another, all of it or nothing."""
    shutil.rmtree(place / "__MACOSX", ignore_errors=True)
    names = sorted(os.listdir(place))
    if not names:
        raise InputError(f"{archive}: there is nothing in it")
    for name in names:
        if os.path.lexists(to / name):
            raise InputError(f"{to / name}: already there; remove it, or unpack elsewhere (--to)")
    return [(place / name).rename(to / name) for name in names]
