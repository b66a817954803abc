"""Unpacking: what is honest comes out whole, what is not leaves nothing behind."""

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from layouts import told

from hmode.data.archives import unpack
from hmode.errors import MissingFileError

FILES = {"set/images/1.jpg": b"\xff\xd8" * 900, "set/gt/1.txt": b"1 2\n", "set/empty.txt": b""}
TARS = {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


def packed(path: Path, files=FILES, member=None) -> Path:
    """An archive of the kind that its suffixes name, of files and perhaps an odd member."""
    kind = path.name.partition(".")[2]
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
            if member is not None:
                archive.writestr(member, "x")
        return path
    with tarfile.open(path, TARS[kind]) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if member is not None:
            archive.addfile(member)
    return path


def tree(folder: Path) -> dict:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(archive: Path, reason: str, **options) -> None:
    """Nothing is left of the attempt; what was there is as before."""
    before = tree(archive.parent)
    assert reason in told(lambda: unpack(archive, archive.parent / "to", **options))
    assert tree(archive.parent) == before
    assert not list(archive.parent.rglob(".unpacking-*"))


@pytest.mark.parametrize("kind", ["zip", *TARS])
def test_everything_comes_out(tmp_path, kind):
    path = packed(tmp_path / f"data.{kind}")
    assert unpack(path, tmp_path / "to") == [tmp_path / "to" / "set"]
    assert tree(tmp_path / "to") == FILES


def test_beside_what_is_there_already(tmp_path):
    """NWPU-Crowd comes in several archives, to be unpacked into one folder."""
    for part in ("images", "mats"):
        unpack(packed(tmp_path / f"{part}.zip", {f"{part}/1": b"x"}), tmp_path / "nwpu")
    assert tree(tmp_path / "nwpu") == {"images/1": b"x", "mats/1": b"x"}


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    "name", ["../evil", "set/../../evil", "/hmode-evil", "..\\evil", "C:\\evil", "set/a\x07b"]
)
def test_paths_that_leave_the_folder(tmp_path, kind, name):
    refused(packed(tmp_path / f"a.{kind}", {**FILES, name: b"evil"}), "leads out of the folder")
    assert not (tmp_path / "evil").exists()
    assert not Path("/hmode-evil").exists()


@pytest.mark.parametrize(
    "kind", ["zip", tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices(tmp_path, kind):
    if kind == "zip":
        member = zipfile.ZipInfo("set/link")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
    else:
        member = tarfile.TarInfo("set/link")
        member.type, member.linkname = kind, "set/gt/1.txt"
    path = packed(tmp_path / ("a.zip" if kind == "zip" else "a.tar"), FILES, member)
    refused(path, "'set/link' leads out of the folder, or is no file")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_more_bytes_than_allowed(tmp_path, kind):
    path = packed(tmp_path / f"a.{kind}", {"zeros": bytes(2**21)})
    assert path.stat().st_size < 2**14  # a small bomb
    refused(path, "more bytes than allowed", max_gib=2**20 / 2**30)
    unpack(path, tmp_path / "to", max_gib=2**21 / 2**30)


@pytest.mark.parametrize("kind", ["zip", *TARS])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_an_archive_that_is_cut_off(tmp_path, kind, share):
    path = packed(tmp_path / f"a.{kind}", {f"set/{i}": os.urandom(3000) for i in range(5)})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, f"{path}: ")


def test_damage_that_the_libraries_do_not_see(tmp_path):
    """tarfile takes a damaged header for the end; of two files of one name, the last would stay."""
    path = packed(tmp_path / "a.tar", {"a": bytes(512), "b": bytes(512)})
    content = bytearray(path.read_bytes())
    content[1024 + 150] ^= 1  # in the check sum of b
    path.write_bytes(content)
    refused(path, "damaged or cut off")
    with pytest.warns(UserWarning, match="Duplicate"):
        packed(tmp_path / "a.zip", {"set/1": b"1"}, "set/1")
    refused(tmp_path / "a.zip", "a file is given twice")


@pytest.mark.parametrize("content", [b"", b"Rar!\x1a\x07\x00", b"text", bytes(99)])
def test_what_is_no_archive(tmp_path, content):
    path = tmp_path / "a.rar"
    path.write_bytes(content)
    refused(path, f"{path}: ")
    with pytest.raises(MissingFileError, match=r"gone\.zip: no such file"):
        unpack(tmp_path / "gone.zip")


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "to" / "set").mkdir(parents=True)
    (tmp_path / "to" / "set" / "mine").write_text("mine")
    refused(packed(tmp_path / "a.zip", {"new": b"1", "set/1": b"2"}), "set: already there")
