"""Damaged files by the thousand: each is read, or refused by an error of ours that names it.

What is still read after the damage must be what a plain parse of the same bytes gives: nobody is
lost or invented on the way. The damage is the same at every run; HMODE_DAMAGED is the number of
files of each kind (with 250, there are 2,250 annotations of label tools and 2,500 images).
"""

import csv
import io
import json
import os
import re
import signal
import struct
import warnings
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import noise, write_annotation
from layouts import LAYOUTS, coco, cvat, heads, label_studio, labelme, opened, via, via_csv, yolo
from PIL import Image
from scipy.io import savemat

from hmode.data.formats import read_names, read_numbers
from hmode.data.labels import read_csv, read_heads
from hmode.data.mat import read_mat_points
from hmode.data.pictures import read_image
from hmode.data.published import NwpuCrowd
from hmode.data.source import Item
from hmode.errors import InputError

FILES = int(os.environ.get("HMODE_DAMAGED", 100))
SECONDS = 30  # after which a file is taken to hang its reader
CROWDS = {"a": heads(6), "b": heads(0), "c": heads(2)}
SPECIAL = (b"\0", b"\n", b",", b'"', b"-", b"1e999", b"nan", b"[", b" ")
VALUES = (None, [], {}, "", 0, -1, 1.5, True, "x", "5", [1, 2], [[1, 2]], {"a": 1}, float("nan"),
          float("inf"), 10**400, 1e308, [None], "a.jpg", 2**40)  # fmt: skip
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
            data[at:at] = rng.choice(SPECIAL)
        if not data:
            break
    return bytes(data)


def places(value):
    """(container, key) of each value inside of JSON."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def rearranged(content: bytes, rng: np.random.Generator) -> bytes:
    """JSON with one to three values replaced, taken away, repeated or exchanged: sound JSON, which
    few random bytes leave."""
    content = json.loads(content)
    for _ in range(rng.integers(1, 4)):
        found = list(places(content))
        (here, key), (there, other) = (found[rng.integers(len(found))] for _ in range(2))
        kind = rng.choice(["replace", "delete", "repeat", "exchange"])
        if kind == "delete":
            del here[key]
        elif kind == "repeat" and isinstance(here, list):
            here.insert(key, here[key])
        elif kind == "exchange":
            copies = json.loads(json.dumps([here[key], there[other]]))
            here[key], there[other] = copies[::-1]
        else:
            here[key] = VALUES[rng.integers(len(VALUES))]
        content = json.loads(json.dumps(content))
        if not content:
            break
    return json.dumps(content).encode()


@dataclass
class Format:
    """A kind of file: a whole one, its reader, and whether what that found is in the bytes."""

    content: bytes
    read: Callable
    agrees: Callable


def plainly(content: bytes | str | dict | list, read: Callable, plain: Callable) -> Format:
    """A kind for which there is a parse that knows nothing of damage."""
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    return Format(content, read, lambda content, found: found == plain(content))


def saved(write, *args, **options) -> bytes:
    buffer = io.BytesIO()
    write(buffer, *args, **options)
    return buffer.getvalue()


def lines_of(content: bytes) -> list[str]:
    return re.split("\r\n|\r|\n", content.decode("utf-8-sig"))


def as_list(points) -> list:
    return np.asarray(points, dtype=np.float32).reshape(-1, 2).tolist()


def pixels_of(path) -> list:
    return np.asarray(read_image(path)).tolist()


def image(kind: str, channels=3, deep=False, **options) -> Format:
    def plain(content):
        with Image.open(io.BytesIO(content)) as opened:
            if not opened.mode.startswith("I"):
                return np.asarray(opened.convert("RGB")).tolist()
            values = np.asarray(opened).astype(float)
        bits = next(bits for bits in (8, 10, 12, 14, 16) if values.max() < 2**bits)
        grey = np.floor(values * 255 / (2**bits - 1) + 0.5).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2).tolist()

    pixels = noise((24, 32), channels=channels)
    pixels = pixels.astype(np.uint16) * 16 if deep else pixels
    return plainly(saved(Image.fromarray(pixels).save, kind, **options), pixels_of, plain)


def heic() -> Format:
    pillow_heif = pytest.importorskip("pillow_heif", reason="extra heic is not installed")

    def plain(content):
        return np.asarray(pillow_heif.open_heif(io.BytesIO(content)).to_pillow()).tolist()

    content = saved(pillow_heif.from_pillow(Image.fromarray(noise((24, 32)))).save)
    return plainly(content, pixels_of, plain)


def mat(field: str, value, **options) -> Format:
    content = value if isinstance(value, bytes) else saved(savemat, {field: value}, **options)
    return Format(
        content,
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
    table = np.random.default_rng(0).integers(0, 500, (9, len(columns.split())))

    def plain(content):
        rows = [line.split() for line in lines_of(content)]
        return as_list([[float(each) for each in row[:2]] for row in rows if row])

    text = "".join(" ".join(map(str, row)) + " \n" for row in table)
    return plainly(text, lambda path: as_list(read_numbers(path, columns)[:, :2]), plain)


def people(content: str | dict | list, plain: Callable, suffix=".json", found=as_list) -> Format:
    """The points of each image, by a parse that knows one kind only."""

    def read(path):
        path = path.rename(path.with_suffix(suffix))
        try:
            return {name: found(heads.points) for name, heads in read_heads(path).items()}
        finally:
            path.rename(path.with_suffix(""))

    return plainly(content, read, plain)


def table(delimiter: str) -> str:
    rows = [(f"{name}.jpg", x, y) for name, each in CROWDS.items() for x, y in each]
    rows = [f"{delimiter}".join(map(str, row)) for row in [*rows, ("b.jpg", "", "")]]
    rows = [re.sub(r"(\d)\.(\d)", r"\1,\2", row) if delimiter == ";" else row for row in rows]
    return "".join(f"{row}\n" for row in [delimiter.join(("image", "x", "y")), *rows])


def plain_table(content):
    header, *body = [line for line in lines_of(content) if line.strip()]
    delimiter = max(",;\t", key=header.count)
    header, *body = csv.reader([header, *body], delimiter=delimiter)
    header, found = [name.strip().lower() for name in header], {}
    for row in body:
        cell = dict(zip(header, map(str.strip, row), strict=True))
        if any(cell.values()):
            points = found.setdefault(cell.get("image", cell.get("name", "")), [])
            pair = [cell[axis].replace("," if delimiter != "," else ".", ".") for axis in "xy"]
            points += [[float(each) for each in pair]] if pair[0] else []
    if not {"image", "name"} & set(header):
        found.setdefault("", [])
    return {name: as_list(points) for name, points in found.items()}


def plain_coco(content):
    content = json.loads(content.decode("utf-8-sig"))
    owners = [entry["image_id"] for entry in content["annotations"]]
    return {each["file_name"]: owners.count(each["id"]) for each in content["images"]}


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
            found[name] = as_list([[v["x"], v["y"]] for v in values])
    return found


def plain_via(content):
    shapes = lambda each: [r["shape_attributes"] for r in each["regions"]]  # noqa: E731
    return {
        each["filename"]: as_list([[shape["cx"], shape["cy"]] for shape in shapes(each)])
        for each in plain_json(content).values()
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


def plain_names(content):
    words = [line.split()[0] for line in lines_of(content) if line.strip()]
    return [re.sub(r"(?i)\.jpg$", "", word) for word in words]


def nwpu_points(path):
    return as_list(NwpuCrowd.read(None, Item("1", path, path)).points)


JSON = {
    "coco": lambda: people(coco(CROWDS), plain_coco, found=len),
    "labelme": lambda: people(labelme("a", heads(6)), plain_labelme),
    "label studio": lambda: people(label_studio(CROWDS), plain_label_studio),
    "via": lambda: people(via(CROWDS), plain_via),
    "nwpu": lambda: plainly(
        {"img_id": "1.jpg", "human_num": 7, "points": heads(7).tolist()},
        nwpu_points,
        lambda content: as_list(plain_json(content)["points"]),
    ),
}
FORMATS = {
    "jpg": lambda: image("jpeg"),
    "jpg, grey, progressive": lambda: image("jpeg", channels=1, progressive=True),
    "png": lambda: image("png"),
    "png, 12 bits in 16": lambda: image("png", channels=1, deep=True),
    "webp": lambda: image("webp"),
    "gif": lambda: image("gif", channels=1),
    "bmp": lambda: image("bmp"),
    "jpeg 2000": lambda: image("jpeg2000"),
    "avif": lambda: image("avif"),
    "heic": heic,
    "mat": lambda: mat("annPoints", heads(9)),
    "mat, compressed": lambda: mat("annPoints", heads(9), do_compression=True),
    "mat, boxes": lambda: mat("bbox", np.hstack([heads(9), heads(9, seed=1)])),
    "mat, image_info": lambda: mat("image_info", saved(write_annotation, heads(9))),
    "txt of jhu": lambda: rows("x y w h occlusion blur"),
    "txt of trancos": lambda: rows("x y"),
    "image_sets": lambda: plainly(
        "".join(f"image-{i % 3}-{i:06d}.jpg\n" for i in range(12)), read_names, plain_names
    ),
    "csv": lambda: people(table(","), plain_table, ".csv"),
    "csv with semicolons": lambda: people(table(";"), plain_table, ".csv"),
    "cvat": lambda: people(cvat(CROWDS), plain_cvat, ".xml"),
    "via csv": lambda: people(via_csv(CROWDS), plain_via_csv, ".csv"),
    "txt": lambda: people("".join(f"{x} {y}\n" for x, y in heads(9)), plain_text, ".txt"),
    "yolo": lambda: people(yolo(heads(9)), plain_text, ".txt"),
} | JSON  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "damage"),
    [(kind, damaged) for kind in FORMATS] + [(kind, rearranged) for kind in JSON],
)
def test_a_damaged_file_is_read_as_it_stands_or_refused(tmp_path, kind, damage):
    each = FORMATS[kind]()
    path = tmp_path / "file"
    path.write_bytes(each.content)
    assert each.agrees(each.content, each.read(path))  # whole, it is read
    refused = 0
    for seed in range(FILES):
        content = damage(each.content, np.random.default_rng([seed, len(kind)]))
        path.write_bytes(content)
        found, said = attempt(lambda: each.read(path), path)
        refused += said is not None
        assert said or each.agrees(content, found), (seed, content)
    assert refused > FILES / 20  # the damage is not for show


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
