"""Damaged files by the thousand: each is read, or refused by an error of ours that names it.

What is still read after the damage must be what a plain parse of the same bytes gives: nobody is
lost or invented on the way. The damage is the same at every run.
"""

import csv
import io
import json
import re
import shutil
import signal
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import noise, write_annotation
from layouts import (
    LAYOUTS,
    coco,
    cvat,
    heads,
    label_studio,
    labelme,
    via,
    via_csv,
    yolo,
)
from PIL import Image
from scipy.io import savemat

from hmode.data import open_dataset
from hmode.data.archives import unpack
from hmode.data.formats import (
    json_points,
    read_json,
    read_names,
    read_numbers,
)
from hmode.data.labels import read_csv, read_heads
from hmode.data.mat import read_mat_points
from hmode.data.pictures import read_image
from hmode.errors import InputError

SECONDS = 30  # after which a file is taken to hang its reader
pytestmark = pytest.mark.filterwarnings("ignore")


@contextmanager
def guarded():
    """A reader that hangs is stopped; how long it takes is not tested."""

    def stop(number, frame):
        raise AssertionError(f"still reading after {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Between one and four mutations, each at a random place."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at, other = sorted(rng.integers(0, len(data) + 1, 2))
        length = int(rng.integers(1, 9))
        kind = rng.choice(["flip", "write", "cut", "insert", "delete", "repeat", "special"])
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << rng.integers(8)
        elif kind == "write":
            data[at : at + length] = rng.bytes(length)
        elif kind == "cut":
            data = data[:other]
        elif kind == "insert":
            data[at:at] = rng.bytes(length)
        elif kind == "delete":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + 8 * length]
        elif kind == "special":
            data[at:at] = rng.choice([b"\0", b"\n", b",", b'"', b"-", b"1e999", b"nan", b"[", b" "])
        if not data:
            break
    return bytes(data)


@dataclass
class Format:
    """A kind of file: a whole one, its reader, and whether what that found is in the bytes."""

    content: bytes
    read: Callable
    agrees: Callable
    files: int = 150


def saved(write, *args, **options) -> bytes:
    buffer = io.BytesIO()
    write(buffer, *args, **options)
    return buffer.getvalue()


def same_as(plain: Callable) -> Callable:
    """Agrees with a parse of the bytes that knows nothing of damage."""
    return lambda content, found: found == plain(content)


def lines_of(content: bytes) -> list[str]:
    return re.split("\r\n|\r|\n", content.decode("utf-8-sig"))


def as_list(points) -> list:
    return np.asarray(points, dtype=np.float32).reshape(-1, 2).tolist()


def image(kind: str, channels=3, **options) -> Format:
    def plain(content):
        with Image.open(io.BytesIO(content)) as opened:
            return np.asarray(opened.convert("RGB")).tolist()

    pixels = noise((24, 32), channels=channels)
    return Format(
        saved(Image.fromarray(pixels).save, kind, **options),
        lambda path: np.asarray(read_image(path)).tolist(),
        same_as(plain),
    )


def heic() -> Format:
    pillow_heif = pytest.importorskip("pillow_heif", reason="extra heic is not installed")

    def plain(content):
        return np.asarray(pillow_heif.open_heif(io.BytesIO(content)).to_pillow()).tolist()

    content = saved(pillow_heif.from_pillow(Image.fromarray(noise((24, 32)))).save)
    return Format(content, lambda path: np.asarray(read_image(path)).tolist(), same_as(plain))


def twelve_bits() -> Format:
    """What is read is the stored values, stretched by the bits of the largest."""

    def plain(content):
        with Image.open(io.BytesIO(content)) as opened:
            values = np.asarray(opened).astype(float)
        bits = next(bits for bits in (8, 10, 12, 14, 16) if values.max() < 2**bits)
        grey = np.floor(values * 255 / (2**bits - 1) + 0.5).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2).tolist()

    pixels = noise((24, 32), channels=1).astype(np.uint16) * 16
    content = saved(Image.fromarray(pixels).save, "png")
    return Format(content, lambda path: np.asarray(read_image(path)).tolist(), same_as(plain))


def mat(field: str, value, **options) -> Format:
    return Format(
        saved(savemat, {field: value}, **options),
        lambda path: as_list(read_mat_points(path, field)),
        lambda content, found: stands_in(content, found, centres=field == "bbox"),
    )


def stands_in(content: bytes, found: list, centres=False) -> bool:
    """Whether somewhere in a .mat file stands a part with just these points, or boxes of them.

    The format is not parsed, only searched (scipy's own reader does not survive damaged files).
    """
    if content[128:132] == b"\x0f\0\0\0":
        content = zlib.decompressobj().decompress(content[136:])
    codes = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
    for at in range(0, len(content) - 7, 4):
        kind, size = struct.unpack_from("<II", content, at)
        start = at + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        code = np.dtype(codes.get(kind, "u8"))
        part = content[start : start + size]
        if len(part) == size and size % code.itemsize == 0:
            numbers = np.frombuffer(part, code).astype(float)
            columns = 4 if centres else 2
            if numbers.size == columns * len(found):
                rows = numbers.reshape(columns, -1).T
                rows = (rows[:, :2] + rows[:, 2:]) / 2 if centres else rows
                if as_list(rows) == found:
                    return True
    return False


def rows(columns: str) -> Format:
    width = len(columns.split())
    table = np.random.default_rng(0).integers(0, 500, (9, width))

    def plain(content):
        rows = [line.split() for line in lines_of(content)]
        return as_list([[float(each) for each in row[:2]] for row in rows if row])

    return Format(
        "".join(" ".join(map(str, row)) + " \n" for row in table).encode(),
        lambda path: as_list(read_numbers(path, columns)[:, :2]),
        same_as(plain),
    )


def shanghaitech(tmp_path_factory) -> Format:
    path = tmp_path_factory.mktemp("annotation") / "a.mat"
    write_annotation(path, heads(9))
    return Format(
        path.read_bytes(), lambda path: as_list(read_mat_points(path, "image_info")), stands_in
    )


def table() -> Format:
    content = "image,x,y\n" + "".join(f"a.jpg,{x},{y}\n" for x, y in heads(8)) + "b.jpg,,\n"

    def plain(content):
        found: dict = {}
        header, *body = csv.reader(lines_of(content))
        header = [name.strip().lower() for name in header]
        for row in body:
            if any(map(str.strip, row)):
                cells = dict(zip(header, map(str.strip, row), strict=True))
                points = found.setdefault(cells.get("image", cells.get("name", "")), [])
                points += [[float(cells["x"]), float(cells["y"])]] if cells["x"] else []
        return {name: as_list(points) for name, points in found.items()}

    read = lambda path: {k: as_list(v.points) for k, v in read_csv(path).items()}  # noqa: E731
    return Format(content.encode(), read, same_as(plain), files=300)


def keypoints() -> Format:
    """How many people each image has, by counting the annotations."""
    content = json.dumps(coco({"a": heads(6), "b": heads(0), "c": heads(2)}))

    def plain(content):
        content = json.loads(content.decode("utf-8-sig"))
        owners = [entry["image_id"] for entry in content["annotations"]]
        return {each["file_name"]: owners.count(each["id"]) for each in content["images"]}

    read = lambda path: {k: len(v.points) for k, v in read_heads(path).items()}  # noqa: E731
    return Format(content.encode(), read, same_as(plain), files=200)


def nwpu() -> Format:
    content = json.dumps({"img_id": "1.jpg", "human_num": 7, "points": heads(7).tolist()})
    return Format(
        content.encode(),
        lambda path: as_list(json_points(read_json(path).get("points"), str(path))),
        same_as(lambda content: as_list(json.loads(content.decode("utf-8-sig"))["points"])),
    )


def names() -> Format:
    content = "".join(f"image-{i % 3}-{i:06d}.jpg\n" for i in range(12))
    return Format(
        content.encode(),
        read_names,
        same_as(
            lambda content: [
                re.sub(r"(?i)\.jpg$", "", line.split()[0])
                for line in lines_of(content)
                if line.strip()
            ]
        ),
    )


def people(content: str | dict | list, plain: Callable, suffix: str) -> Format:
    """How many points each image has, by a parse that knows one kind only."""
    text = content if isinstance(content, str) else json.dumps(content)

    def read(path):
        path = path.rename(path.with_suffix(suffix))
        try:
            return {name: as_list(heads.points) for name, heads in read_heads(path).items()}
        finally:
            path.rename(path.with_suffix(""))

    return Format(text.encode(), read, same_as(plain), files=280)


CROWDS = {"a": heads(6), "b": heads(0), "c": heads(2)}


def plain_cvat(content):
    found = {}
    for image in ElementTree.fromstring(content).iter("image"):
        pairs = [p for each in image.iter("points") for p in each.get("points").split(";")]
        found[image.get("name")] = as_list([[float(v) for v in pair.split(",")] for pair in pairs])
    return found


def plain_json(content):
    return json.loads(content.decode("utf-8-sig"))


def plain_labelme(content):
    content = plain_json(content)
    return {content["imagePath"]: as_list([shape["points"][0] for shape in content["shapes"]])}


def plain_label_studio(content):
    found = {}
    for task in plain_json(content):
        name = unquote(task["data"]["image"]).replace("\\", "/").replace("=", "/").split("/")[-1]
        if "upload/" in task["data"]["image"]:
            name = re.sub("^[0-9a-f]{8}-", "", name)
        done = [each for each in task["annotations"] if not each.get("was_cancelled")]
        if done:
            values = [each["value"] for each in done[0]["result"]]
            found[name] = as_list([[v["x"], v["y"]] for v in values if "x" in v])
    return found


def plain_via(content):
    content = plain_json(content)
    shapes = lambda each: [r["shape_attributes"] for r in each["regions"]]  # noqa: E731
    return {
        e["filename"]: as_list([[s["cx"], s["cy"]] for s in shapes(e)]) for e in content.values()
    }


def plain_via_csv(content):
    header, *body = [row for row in csv.reader(lines_of(content)) if any(map(str.strip, row))]
    found: dict = {}
    for row in body:
        cell = dict(zip(header, row, strict=True))
        shape = json.loads(cell["region_shape_attributes"])
        points = found.setdefault(cell.get("filename", "").strip(), [])
        points += [[shape["cx"], shape["cy"]]] if shape else []
    return {name: as_list(points) for name, points in found.items()}


def plain_text(content):
    rows = [re.split("[ \t]+", line.strip(" \t")) for line in lines_of(content)]
    first = 1 if len(next((row for row in rows if row != [""]), "")) == 5 else 0
    return {
        "": as_list([[float(v) for v in row[first : first + 2]] for row in rows if row != [""]])
    }


def plain_german(content):
    header, *body = [
        line.split(";") for line in lines_of(content.replace(b",", b".")) if line.strip()
    ]
    header = [name.strip().lower() for name in header]
    found: dict = {}
    for row in body:
        cell = dict(zip(header, map(str.strip, row), strict=True))
        if any(cell.values()):
            points = found.setdefault(cell.get("image", cell.get("name", "")), [])
            points += [[float(cell["x"]), float(cell["y"])]] if cell["x"] else []
    return {name: as_list(points) for name, points in found.items()}


def german() -> str:
    rows = [f"{name}.jpg;{x};{y}" for name, points in CROWDS.items() for x, y in points]
    return "image;x;y\n" + "".join(f"{row}\n" for row in [*rows, "b.jpg;;"]).replace(
        ".", ","
    ).replace(",jpg", ".jpg")


NEW = {
    "cvat": lambda: people(cvat(CROWDS), plain_cvat, ".xml"),
    "labelme": lambda: people(labelme("a", heads(6)), plain_labelme, ".json"),
    "label studio": lambda: people(label_studio(CROWDS), plain_label_studio, ".json"),
    "via": lambda: people(via(CROWDS), plain_via, ".json"),
    "via csv": lambda: people(via_csv(CROWDS), plain_via_csv, ".csv"),
    "txt": lambda: people("".join(f"{x} {y}\n" for x, y in heads(9)), plain_text, ".txt"),
    "yolo": lambda: people(yolo(heads(9)), plain_text, ".txt"),
    "csv with semicolons": lambda: people(german(), plain_german, ".csv"),
}


FORMATS = {
    "jpg": lambda _: image("jpeg"),
    "jpg, grey, progressive": lambda _: image("jpeg", channels=1, progressive=True),
    "png": lambda _: image("png"),
    "png, 12 bits in 16": lambda _: twelve_bits(),
    "heic": lambda _: heic(),
    "mat": lambda _: mat("annPoints", heads(9)),
    "mat, compressed": lambda _: mat("annPoints", heads(9), do_compression=True),
    "mat, boxes": lambda _: mat("bbox", np.hstack([heads(9), heads(9, seed=1)])),
    "mat, image_info": shanghaitech,
    "txt of jhu": lambda _: rows("x y w h occlusion blur"),
    "txt of trancos": lambda _: rows("x y"),
    "csv": lambda _: table(),
    "json of coco": lambda _: keypoints(),
    "json of nwpu": lambda _: nwpu(),
    "image_sets": lambda _: names(),
} | {kind: lambda _, make=make: make() for kind, make in NEW.items()}


def attempt(function, *names) -> tuple[object, str | None]:
    """What it returns, or else the one line of our own error, which has to have one of the names
    in it; any other error is a crash."""
    try:
        with guarded():
            return function(), None
    except InputError as error:
        said = str(error)
    assert any(str(name) in said for name in names), said
    assert "\n" not in said
    return None, said


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_is_read_as_it_stands_or_refused(tmp_path, tmp_path_factory, kind):
    each = FORMATS[kind](tmp_path_factory)
    path = tmp_path / "file"
    path.write_bytes(each.content)
    assert each.agrees(each.content, each.read(path))  # whole, it is read
    refused = 0
    for seed in range(each.files):
        content = damaged(each.content, np.random.default_rng([seed, len(kind)]))
        path.write_bytes(content)
        found, said = attempt(lambda: each.read(path), path)
        refused += said is not None
        assert said or each.agrees(content, found), seed
    assert refused > each.files / 20  # the damage is not for show


ARCHIVES = {
    "zip": lambda path, files: _zip(path, files),
    "tar": lambda path, files: _tar(path, files, "w"),
    "tar.gz": lambda path, files: _tar(path, files, "w:gz"),
}
FILES = {"set/images/1.jpg": noise((9, 9)).tobytes(), "set/gt/1.txt": b"1 2\n" * 50, "list": b"1"}


def _zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def _tar(path, files, mode):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def tree(folder: Path) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_damaged_archive_is_unpacked_whole_or_not_at_all(tmp_path, kind):
    path, to = tmp_path / "archive", tmp_path / "to"
    ARCHIVES[kind](path, FILES)
    whole = path.read_bytes()
    for seed in range(150):
        content = damaged(whole, np.random.default_rng(seed))
        path.write_bytes(content)
        _, said = attempt(lambda: unpack(path, to), path, to)
        if said is None:
            # Names may have changed; the content has a check sum, but for plain tar.
            found = tree(to)
            assert sorted(map(len, found.values())) == sorted(map(len, FILES.values())), seed
            if kind != "tar":
                assert sorted(found.values()) == sorted(FILES.values()), seed
            shutil.rmtree(to)
        assert [each.name for each in tmp_path.iterdir()] == ["archive"], seed


def test_a_csv_that_is_cut_off_is_never_silently_short(tmp_path):
    """Wherever it is cut but at the end of a line, where nothing shows it."""
    whole = "image,x,y\n" + "".join(f"a.jpg,{x},{y}\n" for x, y in heads(12))
    path = tmp_path / "a.csv"
    for length in range(1, len(whole)):
        if whole[length - 1] == "\n":
            continue
        path.write_text(whole[:length])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                read_csv(path)
            except InputError:
                continue
        assert "was the file cut off?" in str(said[0].message)


def opened(name, data, split):
    return open_dataset(name.split("/")[0], data.root, split, **data.options)


@pytest.mark.parametrize("name", ["sha", "jhu", "trancos", "folder/csv"])
def test_a_damaged_data_set_is_opened_or_refused(tmp_path, name):
    """All its files at once, through the door that users take."""
    data = LAYOUTS[name](tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    whole = {path: path.read_bytes() for path in files}
    rng = np.random.default_rng(len(name))
    for _ in range(60):
        path = files[rng.integers(len(files))]
        path.write_bytes(damaged(whole[path], rng))
        for split in data.truth:
            dataset, _ = attempt(lambda split=split: opened(name, data, split), tmp_path)
            for i in range(len(dataset or ())):
                sample, _ = attempt(lambda i=i, dataset=dataset: dataset[i], tmp_path)
                if sample is not None:
                    assert sample.count == dataset.count_people(i)
        path.write_bytes(whole[path])
