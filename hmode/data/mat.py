"""MATLAB's .mat files: head points, or an error that names the file, out.

Only what annotations are made of is read: arrays of numbers, cells and structs of version 5 files
(MATLAB 5 to 7.2, compressed or not). scipy.io.loadmat reads more, but is "not hardened against
untrusted input", as its documentation says: of some thousand damaged annotations, one crashed the
process, and one took minutes.

The format is that of "MAT-File Format" by MathWorks: parts of a type, a size and a content. An
array is a part whose content is parts again: flags with its class, dimensions, name, values.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hmode.data.formats import as_points, one_line, read_bytes
from hmode.errors import InputError

HDF5 = b"\x89HDF\r\n\x1a\n"
# Types of parts, and classes of arrays.
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
           13: "u8"}  # fmt: skip
MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, NUMERIC, OPAQUE = 1, 2, range(6, 16), 17
COMPLEX = 0x800
DEEPEST = 30
MOST_BYTES = 2**28  # that a compressed part may hold


def read_mat(path: Path) -> dict:
    """The variables of a .mat file.

    Returns:
        {name: value}: an array of numbers is a numpy array, a cell array the list of its values,
        a struct array a list of dictionaries, by columns; anything else is None.

    Raises:
        InputError: the file cannot be read, is damaged, or is of another version.
    """
    content = read_bytes(path)
    if content.startswith(HDF5) or content[512:].startswith(HDF5):
        version = "version 7.3 (HDF5)"
    elif 0 in content[:4]:
        version = "version 4, if it is one"
    else:
        try:
            return _variables(content)
        except (ValueError, struct.error, zlib.error) as error:
            raise InputError(f"{path}: not a readable .mat file: {one_line(error)}") from None
    raise InputError(
        f"{path}: a .mat file of {version}, which is not read here; save it in MATLAB with -v7"
    )


def read_mat_points(path: Path, *fields: str) -> np.ndarray:
    """The points of a .mat file, from the first of the fields that it has.

    Args:
        fields: "image_info" is ShanghaiTech's image_info{1,1}.location; "bbox" is boxes
            `[N, 4]`, (x1, y1, x2, y2), whose centres are taken; others are `[N, 2]`.

    Raises:
        InputError: as `read_mat`; or no field is there, or it does not hold points.
    """
    variables = read_mat(path)
    field = next((name for name in fields if name in variables), None)
    if field is None:
        expected = " or ".join(
            "image_info{1,1}.location" if f == "image_info" else f for f in fields
        )
        raise InputError(f"{path}: expected {expected}, found variables {sorted(variables)}")
    if field == "image_info":
        return image_info(path, variables)[0]
    if field == "bbox":
        return _centres(variables[field], f"{path}: bbox")
    return as_points(variables[field], f"{path}: {field}")


def image_info(path: Path, variables: dict) -> tuple[np.ndarray, int | None]:
    """The points of ShanghaiTech's image_info{1,1}.location, and how many its number states."""
    info = variables.get("image_info")
    while isinstance(info, list) and len(info) == 1:
        info = info[0]
    if not isinstance(info, dict) or "location" not in info:
        raise InputError(
            f"{path}: expected image_info{{1,1}}.location of shape [N, 2], found variables "
            f"{sorted(variables)}"
        )
    points = as_points(info["location"], f"{path}: image_info{{1,1}}.location")
    number = np.asarray(info.get("number"))
    stated = float(number.item()) if number.dtype.kind in "fiu" and number.size == 1 else 0.5
    return points, int(stated) if stated.is_integer() else None


def _centres(boxes, where: str) -> np.ndarray:
    boxes = np.asarray(boxes)
    if boxes.dtype.kind not in "fiu" or (boxes.size and boxes.shape[1:] != (4,)):
        raise InputError(f"{where} has shape {list(boxes.shape)}, expected numbers [N, 4]")
    return as_points(boxes.reshape(-1, 2, 2).astype(float).mean(axis=1), where)


def _variables(content: bytes) -> dict:
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("it has no header of one")
    found = {}
    for kind, part in _parts(memoryview(content)[128:], order):
        parts = [(kind, part)] if kind != COMPRESSED else list(_parts(_unpacked(part), order))
        if [kind for kind, _ in parts] != [MATRIX]:
            raise ValueError("a variable is no array")
        name, value = _array(parts[0][1], order)
        if name in found:
            raise ValueError(f"the variable {name} is there twice")
        found[name] = value
    return found


def _array(matrix: memoryview, order: str, depth: int = 0) -> tuple[str, object]:
    """The name and the value of an array."""
    parts = list(_parts(matrix, order))
    if not parts:
        return "", np.zeros((0, 0))
    if len(parts) < 3 or depth > DEEPEST:
        raise ValueError("an array is incomplete, or nested too deeply")
    flags, _ = _integers(parts[0], order)
    if flags & 0xFF == OPAQUE:  # it has no dimensions
        return _text(parts[1]), None
    dims, name, values = _integers(parts[1], order), _text(parts[2]), parts[3:]
    if min(dims, default=-1) < 0:
        raise ValueError(f"the array {name} has the dimensions {dims}")
    count = math.prod(dims)
    if flags & 0xFF == CELL:
        return name, _arrays(values, count, order, depth)
    if flags & 0xFF == STRUCT and len(values) >= 2:
        fields = _field_names(values[:2], order)
        cells = _arrays(values[2:], count * len(fields), order, depth)
        return name, [
            dict(zip(fields, cells[i : i + len(fields)], strict=True))
            for i in range(0, len(cells), len(fields) or 1)
        ]
    if flags & 0xFF not in NUMERIC or flags & COMPLEX:
        return name, None
    numbers = _numbers(values[0], order) if values else np.zeros(0)
    if len(values) > 1 or numbers.size != count:
        raise ValueError(f"the array {name} is not of {' x '.join(map(str, dims))} numbers")
    return name, numbers.reshape(dims, order="F")


def _arrays(parts: list, count: int, order: str, depth: int) -> list:
    """The values inside of a cell or struct array."""
    if len(parts) != count or any(kind != MATRIX for kind, _ in parts):
        raise ValueError(f"{len(parts)} values in a cell or struct, expected {count} arrays")
    return [_array(part, order, depth + 1)[1] for _, part in parts]


def _field_names(parts: list, order: str) -> list[str]:
    """A struct's fields, each with zeros up to the same length."""
    (length,), text = _integers(parts[0], order), bytes(parts[1][1])
    if length < 1 or len(text) % length:
        raise ValueError("the names of a struct's fields are damaged")
    names = [text[i : i + length] for i in range(0, len(text), length)]
    names = [name.partition(b"\0")[0].decode("ascii", "replace") for name in names]
    if len(set(names)) < len(names):
        raise ValueError("two fields of a struct have the same name")
    return names


def _numbers(part: tuple[int, memoryview], order: str) -> np.ndarray:
    kind, content = part
    if kind not in NUMBERS:
        raise ValueError(f"numbers of an unknown type ({kind})")
    return np.frombuffer(content, dtype=f"{order}{NUMBERS[kind]}")


def _integers(part: tuple[int, memoryview], order: str) -> list[int]:
    numbers = _numbers(part, order)
    if numbers.dtype.kind == "f":
        raise ValueError("flags, dimensions or lengths are no whole numbers")
    return numbers.tolist()


def _text(part: tuple[int, memoryview]) -> str:
    return bytes(part[1]).decode("ascii", "replace")


def _parts(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """(type, content) of the parts that lie one after the other in some bytes."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start, most = at + 8, len(data)
        if kind >> 16:  # a small part: up to four bytes, in the second half of the tag
            kind, size, start, most = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        end = start + size
        if end > most:
            raise ValueError("cut off, or a part reaches beyond the whole")
        yield kind, data[start:end]
        at = end if kind in (MATRIX, COMPRESSED) else end + -end % 8  # offsets are multiples of 8


def _unpacked(part: memoryview) -> memoryview:
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(part, MOST_BYTES)
    if not unpacker.eof:
        raise ValueError(f"a compressed part is damaged, or holds over {MOST_BYTES:,} bytes")
    return memoryview(content)
