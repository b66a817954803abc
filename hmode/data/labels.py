"""Annotations as people and their tools write them: tables, lists, and exports of label tools.

Read are CSV, text, COCO keypoints, CVAT, LabelMe, Label Studio and VIA, told by their content. Only
points are people: a box or a polygon is an error, as to leave it out might leave out people (YOLO
has nothing but boxes, whose centres are taken). Each reader returns {image file as named there:
`Heads`}, "" for a file that does not name its image.
"""

import csv
import json
import re
import warnings
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np

from hmode.data.formats import (
    json_points,
    one_line,
    read_bytes,
    read_json,
    read_lines,
    read_numbers,
    to_number,
)
from hmode.data.heads import Heads, stated_size
from hmode.errors import InputError

SUFFIXES = (".csv", ".json", ".xml", ".txt")
IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "name")
COLUMNS = {"x": "x", "y": "y", "width": "width", "height": "height", "label": "label"}
COLUMNS |= {"class": "label"} | dict.fromkeys(IMAGE_COLUMNS, "image")
# What Label Studio's results say of an image as a whole.
OF_ALL = ("choices", "textarea", "rating", "number", "datetime", "taxonomy")


def read_heads(path: Path) -> dict[str, Heads]:
    """The heads of each image that a file speaks of.

    Raises:
        MissingFileError: it is not there.
        InputError: it is of no kind that is read, damaged, or says of an image what cannot be
            counted.
    """
    kind = path.suffix.lower()
    if kind == ".csv":
        return read_csv(path)
    if kind == ".txt":
        return {"": read_text(path)}
    if kind == ".xml":
        return read_cvat(path)
    content = read_json(path)
    if isinstance(content, list):
        return _collect(path, (_label_studio(path, task) for task in content))
    if isinstance(content, dict) and "shapes" in content:
        return _collect(path, [_labelme(path, content)])
    via = content.get("_via_img_metadata", content) if isinstance(content, dict) else {}
    if isinstance(via, dict) and any(isinstance(e, dict) and "regions" in e for e in via.values()):
        return _collect(path, (_via(path, entry) for entry in via.values()))
    return _collect(path, _coco(path, content))


def _collect(path: Path, found) -> dict[str, Heads]:
    """{file: heads} of pairs; a pair None is of an image that nobody has looked at yet."""
    heads: dict[str, Heads] = {}
    for file, each in filter(None, found):
        if not isinstance(file, str) or not file or file in heads:
            raise InputError(
                f"{path}: the image {str(file)[:60]!r} is without a name or given twice"
            )
        heads[file] = each
    return heads


def _image(path, file, pairs, labels=(), width=None, height=None, units="pixels") -> tuple:
    """An image's name and its heads, of [x, y] and sizes as JSON has them, checked."""
    where = f"{path}: {str(file)[:60]}" if file else str(path)
    if not all(isinstance(each, str) for each in labels):
        raise InputError(f"{where}: a label is no text")
    points = json_points(pairs, where)
    if units != "pixels":  # multiplied later
        points = np.array(pairs, dtype=float).reshape(-1, 2)
    return file, Heads(points, stated_size(width, height, where), tuple(labels), units)


def _list(value, where: str) -> list[dict]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InputError(f"{where}: expected a list of objects, found {str(value)[:40]}")
    return value


def read_text(path: Path) -> Heads:
    """Lines "x y" in pixels, or of YOLO, "class x y width height" in fractions; between spaces,
    commas or semicolons. No line: nobody."""
    rows = read_numbers(path, "x y", "class x y width height", signs=",;")
    if rows.shape[1] == 2:
        return Heads(rows)
    if not ((rows[:, 1:] >= 0) & (rows[:, 1:] <= 1)).all():
        raise InputError(f"{path}: lines as of YOLO, but not all in fractions from 0 to 1")
    return Heads(rows[:, 1:3], None, tuple(f"{label:g}" for label in rows[:, 0]), "fractions")


def read_csv(path: Path) -> dict[str, Heads]:
    """A table with the columns x, y and, where it is of several images, image; or of VIA.

    The header names the columns, in any order and case; width and height (of the image) and label
    are heeded, others left aside. A row with a name and without x and y says that nobody is in
    that image. Between semicolons or tabs, a comma is a decimal point.
    """
    lines = read_lines(path)
    if lines and lines[-1]:
        warnings.warn(f"{path}: the last line has no end; was the file cut off?", stacklevel=2)
    if lines and re.fullmatch("sep=.", lines[0]):  # Excel's note to itself
        lines[0] = ""
    header = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next((row for row in reader if row), [])
        rows = [
            (f"{path}: line {reader.line_num}", row) for row in reader if any(map(str.strip, row))
        ]
    except csv.Error as error:
        raise InputError(f"{path}: not a readable CSV file: {error}") from None
    if "region_shape_attributes" in header:
        return _collect(path, _via_table(path, header, rows))
    return _table(path, header, rows, "," if delimiter != "," else ".")


def _cells(names: list[str], rows: list):
    """(where, {name: cell}) of each row; a column without a name is left out."""
    for where, row in rows:
        if len(row) != len(names):
            raise InputError(f"{where} has {len(row)} values, its header {len(names)}")
        yield where, {name: cell.strip() for name, cell in zip(names, row, strict=True) if name}


def _table(path: Path, header: list[str], rows: list, point: str) -> dict[str, Heads]:
    names = [COLUMNS.get(name.strip().lower(), "") for name in header]
    known = list(filter(None, names))
    if len(set(known)) < len(known) or not {"x", "y"} <= set(known):
        raise InputError(
            f"{path}: the header is {','.join(header)!r}, expected the columns image, x, y "
            "(or x, y in a file for one image), each once"
        )
    found: dict[str, tuple] = {} if "image" in known else {"": ([], [])}
    sizes: dict[str, tuple | None] = {}
    for where, cell in _cells(names, rows):
        name = cell.get("image", "")
        size = stated_size(cell.get("width"), cell.get("height"), where)
        if sizes.setdefault(name, size) != size:
            raise InputError(f"{where}: states another size of the image than before")
        pairs, labels = found.setdefault(name, ([], []))
        if cell["x"] or cell["y"] or "image" not in cell:
            pairs.append([to_number(cell[axis].replace(point, "."), where) for axis in "xy"])
            labels.append(cell.get("label", ""))
    return dict(
        _image(path, name, pairs, labels if "label" in known else (), *(sizes.get(name) or ()))
        for name, (pairs, labels) in found.items()
    )


def read_cvat(path: Path) -> dict[str, Heads]:
    """CVAT for images 1.1: <image name width height> with <points label points="x,y;x,y">."""
    content = read_bytes(path)
    if b"<!ENTITY" in content or b"<\0!\0E\0N" in content:
        raise InputError(f"{path}: XML with entities of its own, which is not read")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise InputError(f"{path}: not readable XML: {one_line(error)}") from None
    if root.tag != "annotations" or root.find("track") is not None:
        raise InputError(
            f"{path}: expected 'CVAT for images 1.1', found <{root.tag[:40]}>"
            + (" with <track>s of a video" if root.tag == "annotations" else "")
        )
    return _collect(path, (_cvat(path, image) for image in root.iter("image")))


def _cvat(path: Path, image: ElementTree.Element) -> tuple[str | None, Heads]:
    where = f"{path}: {image.get('name')}"
    pairs, labels = [], []
    for shape in image:
        if shape.tag == "tag":  # of the image as a whole
            continue
        _require_point(shape.tag == "points", shape.tag, where)
        points = [pair.split(",") for pair in shape.get("points", "").split(";")]
        pairs += [[to_number(each, where) for each in pair] for pair in points]
        labels += [shape.get("label", "")] * len(points)
    return _image(path, image.get("name"), pairs, labels, image.get("width"), image.get("height"))


def _coco(path: Path, content) -> list[tuple[str, Heads]]:
    """COCO keypoints (https://cocodataset.org/#format-data): a person is one point, the first
    labelled keypoint: in COCO's order the nose, else an eye, an ear, a shoulder. The label is the
    category's name; an image without annotations has nobody in it."""
    images, annotations = (_by_id(path, content, name) for name in ("images", "annotations"))
    kinds = _by_id(path, content, "categories") if "categories" in content else {}
    found: dict = {key: ([], []) for key in images}
    for number, annotation in annotations.items():
        where = f"{path}: annotation {number}"
        key, kind = annotation.get("image_id"), annotation.get("category_id")
        if not isinstance(key, (int, str)) or key not in found:
            raise InputError(f"{where}: image_id is {key!r}, which is none of the images")
        pairs, labels = found[key]
        pairs.append(_first_keypoint(annotation, where))
        known = kinds.get(kind, {}) if isinstance(kind, (int, str)) else {}
        labels.append(str(known.get("name", kind)))
    return [
        _image(path, image.get("file_name"), *found[key], image.get("width"), image.get("height"))
        for key, image in images.items()
    ]


def _by_id(path: Path, content, name: str) -> dict:
    """The entries of "images" or "annotations", each by its id."""
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(
            f"{path}: expected COCO keypoints, LabelMe, Label Studio or VIA; no list {name!r}"
        )
    found: dict = {}
    for entry in entries:
        key = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(key, (int, str)) or key in found:
            raise InputError(f"{path}: {name}: id {key!r} is missing or given twice")
        found[key] = entry
    return found


def _first_keypoint(annotation: dict, where: str) -> list:
    """(x, y) of the first keypoint with visibility above 0."""
    keypoints = annotation.get("keypoints")
    if not isinstance(keypoints, list) or not keypoints or len(keypoints) % 3:
        raise InputError(f"{where} has no keypoints [x, y, v, ...]; a box alone is no head")
    if annotation.get("iscrowd"):
        raise InputError(f"{where} is a group of people (iscrowd), which cannot be counted")
    for x, y, visible in zip(*(keypoints[i::3] for i in range(3)), strict=True):
        if visible in (1, 2):
            return [x, y]
        if visible != 0:
            raise InputError(f"{where}: visibility is {visible!r}, expected 0, 1 or 2")
    raise InputError(f"{where} has no labelled keypoint (visibility 1 or 2)")


def _labelme(path: Path, content: dict) -> tuple[str, Heads]:
    """LabelMe's JSON, one file for each image."""
    pairs, labels = [], []
    for number, shape in enumerate(_list(content["shapes"], f"{path}: shapes"), start=1):
        where, points = f"{path}: shape {number}", shape.get("points")
        _require_point(shape.get("shape_type") == "point", shape.get("shape_type"), where)
        pairs += points if isinstance(points, list) and len(points) == 1 else [[points]]
        labels.append(shape.get("label", ""))
    size = content.get("imageWidth"), content.get("imageHeight")
    return _image(path, content.get("imagePath"), pairs, labels, *size)


def _label_studio(path: Path, task) -> tuple[str, Heads] | None:
    """A task of Label Studio's JSON; None where it is not labelled yet. Points are in per cent."""
    where = f"{path}: task {task.get('id') if isinstance(task, dict) else str(task)[:40]}"
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict) or "annotations" not in task:
        raise InputError(f"{where}: expected Label Studio's JSON (not JSON-MIN): data, annotations")
    urls = [v for v in data.values() if isinstance(v, str) and re.search(r"\.\w{2,5}$", v)]
    if len(urls) != 1:
        raise InputError(f"{where}: names {len(urls)} files in its data, expected one image")
    done = [a for a in _list(task["annotations"], where) if not a.get("was_cancelled")]
    if not done:
        return None
    if len(done) > 1:
        raise InputError(
            f"{where}: annotated {len(done)} times, so whose points are to be counted?"
        )
    pairs, labels, sizes = [], [], []
    for result in _list(done[0].get("result"), where):
        kind, value = result.get("type"), result.get("value")
        value = value if isinstance(value, dict) else {}
        if kind in OF_ALL and "x" not in value:
            continue
        _require_point(kind in ("keypoint", "keypointlabels"), kind, where)
        if result.get("image_rotation"):
            raise InputError(f"{where}: the image was turned in Label Studio, which is not read")
        pairs.append([value.get("x"), value.get("y")])
        named = value.get("keypointlabels") or []
        labels.append(", ".join(map(str, named)) if isinstance(named, list) else str(named))
        sizes.append((result.get("original_width"), result.get("original_height")))
    if any(size != sizes[0] for size in sizes):
        raise InputError(f"{where}: states several sizes of its image")
    name = re.split(r"[/\\=]", unquote(urls[0]))[-1]
    if "upload/" in urls[0]:  # Label Studio puts eight digits before the name
        name = re.sub("^[0-9a-f]{8}-", "", name)
    return _image(path, name, pairs, labels, *(sizes or [(None, None)])[0], units="percent")


def _via(path: Path, entry) -> tuple[str, Heads]:
    """An image of the VGG Image Annotator, versions 1 and 2."""
    entry = entry if isinstance(entry, dict) else {}
    file, regions = entry.get("filename"), entry.get("regions")
    where = f"{path}: {file}"
    pairs, labels = [], []
    for region in _list(list(regions.values()) if isinstance(regions, dict) else regions, where):
        shape, attributes = region.get("shape_attributes"), region.get("region_attributes") or {}
        if not isinstance(shape, dict) or not isinstance(attributes, dict):
            raise InputError(f"{where}: a region without shape_attributes")
        _require_point(shape.get("name") == "point", shape.get("name"), where)
        pairs.append([shape.get("cx"), shape.get("cy")])
        labels.append(", ".join(str(each) for each in attributes.values()))
    return _image(path, file, pairs, labels)


def _via_table(path: Path, header: list[str], rows: list):
    """The images of VIA's CSV, whose cells hold JSON."""
    entries: dict[str, list] = {}
    for where, cell in _cells(header, rows):
        try:
            shape = json.loads(cell["region_shape_attributes"])
            attributes = json.loads(cell.get("region_attributes") or "{}")
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: {one_line(error)}") from None
        regions = entries.setdefault(cell.get("filename", ""), [])
        if shape != {}:
            regions.append({"shape_attributes": shape, "region_attributes": attributes})
    return [_via(path, {"filename": file, "regions": each}) for file, each in entries.items()]


def _require_point(is_point: bool, kind, where: str) -> None:
    if not is_point:
        raise InputError(f"{where} holds a {str(kind)[:40]}; only points are heads")
