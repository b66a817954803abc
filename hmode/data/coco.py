"""Points from COCO keypoints (https://cocodataset.org/#format-data): a person is one point."""

from pathlib import Path

from hmode.data.formats import json_points
from hmode.data.heads import Heads, stated_size
from hmode.errors import InputError

KINDS = "COCO keypoints, LabelMe, Label Studio or VIA"


def coco_heads(path: Path, content) -> dict[str, Heads]:
    """One point for each annotation: its first labelled keypoint.

    In COCO's order of keypoints that is the nose, else an eye, an ear, a shoulder; with a single
    keypoint named "head", it is that. The label is the category's name.

    Args:
        path: of the file, for errors.
        content: of the JSON.

    Returns:
        {file name: heads}; an image without annotations has nobody in it.

    Raises:
        InputError: the file is not COCO keypoints; an annotation has no labelled keypoint or
            stands for a whole group (iscrowd), so that its people cannot be counted; an image or
            an annotation is given twice, or an annotation is of no image.
    """
    images = _by_id(path, content, "images")
    files = [str(image.get("file_name", "")) for image in images.values()]
    if len(set(files)) < len(files) or "" in files:
        raise InputError(f"{path}: images: a file_name is missing or given twice")
    kinds = _by_id(path, content, "categories") if "categories" in content else {}
    pairs: dict = {key: [] for key in images}
    labels: dict = {key: [] for key in images}
    for number, annotation in _by_id(path, content, "annotations").items():
        where = f"{path}: annotation {number}"
        key, kind = annotation.get("image_id"), annotation.get("category_id")
        if not isinstance(key, (int, str)) or key not in pairs:
            raise InputError(f"{where}: image_id is {key!r}, which is none of the images")
        pairs[key].append(_point(annotation, where))
        known = kinds.get(kind, {}) if isinstance(kind, (int, str)) else {}
        labels[key].append(str(known.get("name", kind)))
    return {
        file: Heads(
            json_points(pairs[key], f"{path}: {file}"),
            stated_size(image.get("width"), image.get("height"), f"{path}: {file}"),
            tuple(labels[key]),
        )
        for file, (key, image) in zip(files, images.items(), strict=True)
    }


def _by_id(path: Path, content, name: str) -> dict:
    """The entries of "images" or "annotations", each by its id."""
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{path}: expected {KINDS}; no list {name!r}")
    found: dict = {}
    for entry in entries:
        key = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(key, (int, str)) or key in found:
            raise InputError(f"{path}: {name}: id {key!r} is missing or given twice")
        found[key] = entry
    return found


def _point(annotation: dict, where: str) -> list:
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
