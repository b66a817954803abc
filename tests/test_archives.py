"""Unpacking: what is honest comes out whole, what is not leaves nothing behind."""

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from hmode.data import archives
from hmode.data.archives import unpack
from hmode.errors import InputError, MissingFileError

FILES = {"set/images/1.jpg": b"\xff\xd8" * 900, "set/gt/1.txt": b"1 2\n", "set/empty.txt": b""}
TARS = {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


def zipped(path: Path, files=FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files=FILES, mode="w", members=()) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in members:
            archive.addfile(info)
    return path


def special(name, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def tree(folder: Path) -> dict:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(archive: Path, reason: str, to: Path | None = None, **options) -> str:
    """Nothing is left of the attempt; what was there is as before."""
    to = to or archive.parent / "to"
    before = tree(archive.parent)
    with pytest.raises(InputError) as error:
        unpack(archive, to, **options)
    assert "\n" not in str(error.value)
    assert reason in str(error.value)
    assert tree(archive.parent) == before
    assert not list(archive.parent.rglob(".unpacking-*"))
    return str(error.value)


class TestHonest:
    @pytest.mark.parametrize("kind", ["zip", *TARS])
    def test_everything_comes_out(self, tmp_path, kind):
        path = tmp_path / f"data.{kind}"
        zipped(path) if kind == "zip" else tarred(path, mode=TARS[kind])
        assert unpack(path, tmp_path / "to") == [tmp_path / "to" / "set"]
        assert tree(tmp_path / "to") == FILES

    def test_into_the_archives_own_folder(self, tmp_path):
        assert unpack(zipped(tmp_path / "data.zip")) == [tmp_path / "set"]
        assert tree(tmp_path / "set") == {k.removeprefix("set/"): v for k, v in FILES.items()}

    def test_the_kind_is_told_by_the_content(self, tmp_path):
        unpack(zipped(tmp_path / "a.tar"), tmp_path / "a")
        unpack(tarred(tmp_path / "b.zip", mode="w:gz"), tmp_path / "b")
        assert tree(tmp_path / "a") == tree(tmp_path / "b") == FILES

    def test_beside_what_is_there_already(self, tmp_path):
        """NWPU-Crowd comes in several archives, to be unpacked into one folder."""
        for part in ("images", "mats"):
            unpack(zipped(tmp_path / f"{part}.zip", {f"{part}/1": b"x"}), tmp_path / "nwpu")
        assert tree(tmp_path / "nwpu") == {"images/1": b"x", "mats/1": b"x"}

    def test_what_a_mac_adds_is_left_out(self, tmp_path):
        mac = {"__MACOSX/set/._1.jpg": b"m", "set/._1.jpg": b"m", "set/.DS_Store": b"m"}
        unpack(zipped(tmp_path / "a.zip", FILES | mac), tmp_path / "to")
        assert tree(tmp_path / "to") == FILES

    def test_paths_written_on_windows(self, tmp_path):
        info = zipfile.ZipInfo("set")
        info.filename = "set\\images\\1.jpg"
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(info, b"x")
        unpack(tmp_path / "a.zip", tmp_path / "to")
        assert tree(tmp_path / "to") == {"set/images/1.jpg": b"x"}

    def test_permissions_and_owners_are_not_taken_over(self, tmp_path):
        info = special("run.sh", mode=0o4777, uid=12345)
        unpack(tarred(tmp_path / "a.tar", {}, members=[info]), tmp_path / "to")
        found = (tmp_path / "to" / "run.sh").stat()
        assert found.st_uid == os.getuid()
        assert not found.st_mode & (stat.S_ISUID | stat.S_IXUSR)


class TestRefused:
    @pytest.mark.parametrize("kind", ["zip", "tar"])
    @pytest.mark.parametrize(
        "name", ["../evil", "set/../../evil", "/hmode-evil", "..\\evil", "C:\\evil", "set/a\x07b"]
    )
    def test_paths_that_leave_the_folder(self, tmp_path, kind, name):
        files = {**FILES, name: b"evil"}
        path = tmp_path / f"a.{kind}"
        zipped(path, files) if kind == "zip" else tarred(path, files)
        refused(path, "leads out of the folder")
        assert not (tmp_path / "evil").exists()
        assert not Path("/hmode-evil").exists()

    @pytest.mark.parametrize(
        "kind",
        [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE],
    )
    def test_links_and_devices_of_tar(self, tmp_path, kind):
        info = special("set/link", type=kind, linkname="set/gt/1.txt")
        refused(
            tarred(tmp_path / "a.tar", members=[info]),
            "'set/link' leads out of the folder, or is no file",
        )

    def test_links_of_zip(self, tmp_path):
        info = zipfile.ZipInfo("set/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        path = zipped(tmp_path / "a.zip")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(info, "/etc/passwd")
        refused(path, "'set/link' leads out of the folder, or is no file")

    def test_encrypted_members(self, tmp_path):
        path = zipped(tmp_path / "a.zip", {"a": b"x"})
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\1\2") + 8] |= 1
        path.write_bytes(content)
        refused(path, "encrypted")

    @pytest.mark.parametrize("kind", ["zip", "tar.gz"])
    def test_more_bytes_than_allowed(self, tmp_path, kind):
        path, files = tmp_path / f"a.{kind}", {"zeros": bytes(2**21)}
        zipped(path, files) if kind == "zip" else tarred(path, files, mode="w:gz")
        assert path.stat().st_size < 2**14  # a small bomb
        refused(path, "more bytes than allowed", max_gib=2**20 / 2**30)
        unpack(path, tmp_path / "to", max_gib=2**21 / 2**30)

    def test_more_bytes_than_the_disk_has(self, tmp_path, monkeypatch):
        usage = SimpleNamespace(free=100)
        monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage)
        refused(zipped(tmp_path / "a.zip"), "than the disk has room for")

    def test_a_header_that_declares_a_terabyte(self, tmp_path):
        path = tarred(tmp_path / "a.tar", members=[])
        info = special("big", size=2**40)
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        refused(path, "more bytes than allowed")

    def test_a_zip_that_holds_more_than_it_declares(self, tmp_path):
        path = zipped(tmp_path / "a.zip", {"a": bytes(5000)})
        content = bytearray(path.read_bytes())
        central = content.index(b"PK\1\2")
        content[central + 24 : central + 28] = (10).to_bytes(4, "little")
        path.write_bytes(content)
        refused(path, f"{path}: ")

    @pytest.mark.parametrize("kind", ["zip", *TARS])
    @pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
    def test_an_archive_that_is_cut_off(self, tmp_path, kind, share):
        path, files = tmp_path / f"a.{kind}", {f"set/{i}": os.urandom(3000) for i in range(5)}
        zipped(path, files) if kind == "zip" else tarred(path, files, mode=TARS[kind])
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        refused(path, f"{path}: ")

    def test_a_tar_cut_off_between_two_files(self, tmp_path):
        """tarfile itself takes that for the end."""
        path = tarred(tmp_path / "a.tar", {"a": bytes(512), "b": bytes(512)})
        path.write_bytes(path.read_bytes()[:1024])
        refused(path, "damaged or cut off")

    def test_a_tar_with_a_damaged_header(self, tmp_path):
        """tarfile itself takes that for the end, too."""
        path = tarred(tmp_path / "a.tar", {"a": bytes(512), "b": bytes(512)})
        content = bytearray(path.read_bytes())
        content[1024 + 150] ^= 1  # in the check sum of b
        path.write_bytes(content)
        refused(path, "damaged or cut off")

    def test_a_file_given_twice(self, tmp_path):
        path = zipped(tmp_path / "a.zip", {"set/1": b"1"})
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("set/1", b"2")
        refused(path, "'set/1' is given twice")

    @pytest.mark.parametrize("content", [b"", b"Rar!\x1a\x07\x00", b"text", bytes(99)])
    def test_what_is_no_archive(self, tmp_path, content):
        path = tmp_path / "a.rar"
        path.write_bytes(content)
        refused(path, "damaged, or no .zip, .tar")

    def test_an_archive_with_nothing_in_it(self, tmp_path):
        refused(zipped(tmp_path / "a.zip", {}), "there is nothing in it")

    def test_an_archive_that_is_not_there(self, tmp_path):
        with pytest.raises(MissingFileError, match=r"gone\.zip: no such file"):
            unpack(tmp_path / "gone.zip")


class TestNothingIsOverwritten:
    def test_what_is_there_stays(self, tmp_path):
        (tmp_path / "to" / "set").mkdir(parents=True)
        (tmp_path / "to" / "set" / "mine").write_text("mine")
        refused(zipped(tmp_path / "a.zip", {"new": b"1", "set/1": b"2"}), "set: already there")

    def test_not_even_a_broken_link(self, tmp_path):
        (tmp_path / "to").mkdir()
        (tmp_path / "to" / "set").symlink_to(tmp_path / "nowhere")
        refused(zipped(tmp_path / "a.zip"), "set: already there")

    def test_the_second_move_fails_and_the_first_is_undone(self, tmp_path, monkeypatch):
        real = Path.rename

        def rename(self, target):
            if self.name == "b" and Path(target).parent.name == "to":
                raise OSError(28, "No space left on device")
            return real(self, target)

        monkeypatch.setattr(Path, "rename", rename)
        refused(zipped(tmp_path / "a.zip", {"a": b"1", "b": b"2"}), "No space left on device")
        assert not (tmp_path / "to").exists()

    def test_folders_that_were_made_are_removed(self, tmp_path):
        refused(zipped(tmp_path / "a.zip", {"../x": b""}), "leads out", tmp_path / "deep" / "er")
        assert not (tmp_path / "deep").exists()
