"""Tiny data sets, in the exact layouts of the real ones."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import noise, write_shanghaitech
from PIL import Image
from scipy.io import savemat

from hmode.data import open_dataset
from hmode.data.mat import read_mat_points
from hmode.data.published import FOLDS, LISTS
from hmode.errors import InputError


@dataclass
class Tiny:
    """A tiny data set.

    Attributes:
        root: what `open_dataset` is given.
        options: of `open_dataset`.
        truth: {split: {name: points}}, points None where none are published.
        annotation: {(split, name): path}
    """

    root: Path
    truth: dict
    annotation: dict
    options: dict


def opened(name: str, data: Tiny, split: str, **options):
    """A split of a tiny data set, `name` as in `LAYOUTS`."""
    return open_dataset(name.split("/")[0], data.root, split, **{**data.options, **options})


def told(function, kind=InputError) -> str:
    """The one line that an error of ours says."""
    with pytest.raises(kind) as error:
        function()
    assert "\n" not in str(error.value)
    return str(error.value)


def picture(path: Path, size=(48, 64), seed=0, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(size, seed)).save(path, **options)


def heads(count: int, size=(48, 64), seed=0) -> np.ndarray:
    """`[count, 2]`, (x, y) inside the frame at quarters of pixels, exact in text and float32."""
    rng = np.random.default_rng([seed, count])
    return rng.integers(0, 4 * np.array(size[::-1]), (count, 2)) / 4


def mat(path: Path, **variables) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def counted(splits: dict[str, list[str]]) -> dict:
    """{split: {name: points}} with 0, 1, 2, ... people."""
    names = [(split, name) for split, each in splits.items() for name in each]
    truth: dict = {split: {} for split in splits}
    for i, (split, name) in enumerate(names):
        truth[split][name] = heads(i, seed=i)
    return truth


def sha(folder: Path, part="A") -> Tiny:
    truth = {}
    root = write_shanghaitech(folder, part=f"part_{part}", train=3, test=2)
    annotation = {}
    for split in ("train", "test"):
        place = root / f"part_{part}" / f"{split}_data" / "ground-truth"
        paths = {path.stem.removeprefix("GT_"): path for path in sorted(place.iterdir())}
        truth[split] = {name: read_mat_points(path, "image_info") for name, path in paths.items()}
        annotation |= {(split, name): path for name, path in paths.items()}
    return Tiny(root, truth, annotation, {})


def ucf_cc_50(folder: Path, size=(24, 32)) -> Tiny:
    """All fifty, image n with n people."""
    home = folder / "UCF_CC_50"
    points = {str(n): heads(n, size, seed=n) for n in range(1, 51)}
    for name, each in points.items():
        home.mkdir(exist_ok=True)
        Image.fromarray(noise(size, int(name), channels=1)).save(home / f"{name}.jpg")
        mat(home / f"{name}_ann.mat", annPoints=each)
    test = [str(n) for n in FOLDS[0]]
    truth = {
        "test": {name: points[name] for name in test},
        "train": {name: points[name] for fold in FOLDS[1:] for name in map(str, fold)},
    }
    annotation = {
        (split, name): home / f"{name}_ann.mat" for split in truth for name in truth[split]
    }
    return Tiny(folder, truth, annotation, {"fold": 0})


def ucf_qnrf(folder: Path) -> Tiny:
    home = folder / "UCF-QNRF_ECCV18"
    truth = counted({"train": ["img_0001", "img_0002", "img_0010"], "test": ["img_0001"]})
    annotation = {}
    for split, images in truth.items():
        for i, (name, points) in enumerate(images.items()):
            place = home / split.capitalize()
            picture(place / f"{name}.jpg", seed=i + 10 * len(images))
            annotation[split, name] = place / f"{name}_ann.mat"
            mat(annotation[split, name], annPoints=points)
    return Tiny(folder, truth, annotation, {"short_side": None})


def jhu(folder: Path) -> Tiny:
    home = folder / "jhu_crowd_v2.0"
    truth = counted({"train": ["0001", "0003"], "val": ["0007"], "test": ["0002", "0009"]})
    annotation = {}
    for split, images in truth.items():
        for name, points in images.items():
            picture(home / split / "images" / f"{name}.jpg", seed=int(name))
            annotation[split, name] = home / split / "gt" / f"{name}.txt"
            rows = [f"{x} {y} 8 9 {i % 3 + 1} {i % 2} \n" for i, (x, y) in enumerate(points)]
            text(annotation[split, name], "".join(rows))
        labels = [f"{name},{len(points)},street,0,0\n" for name, points in images.items()]
        text(home / split / "image_labels.txt", "".join(labels))
    return Tiny(folder, truth, annotation, {})


def nwpu(folder: Path, kind="mats") -> Tiny:
    home = folder / "NWPU-Crowd"
    truth = counted({"train": ["0001", "0004"], "val": ["0003"], "test": ["3610", "3611"]})
    truth["test"] = dict.fromkeys(truth["test"])
    annotation = {}
    for split, images in truth.items():
        for name, points in images.items():
            picture(home / "images" / f"{name}.jpg", seed=int(name))
            if points is None:
                continue
            annotation[split, name] = home / kind / f"{name}.{kind[:-1]}"
            if kind == "mats":
                mat(annotation[split, name], annPoints=points, annBoxes=np.zeros((0, 4)))
            else:
                content = {"img_id": f"{name}.jpg", "human_num": len(points)}
                content |= {"points": points.tolist(), "boxes": []}
                text(annotation[split, name], json.dumps(content))
        text(home / f"{split}.txt", "".join(f"{name} 1 2\n" for name in images))
    return Tiny(folder, truth, annotation, {})


def trancos(folder: Path, size=(48, 64)) -> Tiny:
    """The left half is counted; points are whole pixels, in the file counted from 1."""
    home = folder / "TRANCOS_v3"
    names = {
        "train": ["image-1-000001", "image-1-000010"],
        "val": ["image-2-000002"],
        "test": ["image-3-000001"],
    }
    truth = {s: {n: np.floor(p) for n, p in each.items()} for s, each in counted(names).items()}
    mask = np.zeros(size, dtype=np.uint8)
    mask[:, : size[1] // 2] = 1
    annotation = {}
    for split, images in truth.items():
        for i, (name, points) in enumerate(images.items()):
            place = home / "images"
            picture(place / f"{name}.jpg", size, seed=i + 10 * len(split))
            picture(place / f"{name}dots.png", size)
            mat(place / f"{name}mask.mat", BW=mask)
            annotation[split, name] = place / f"{name}.txt"
            text(annotation[split, name], "".join(f"{x + 1:.0f}\t{y + 1:.0f}\n" for x, y in points))
    truth["trainval"] = truth["train"] | truth["val"]
    for split, listed in LISTS.items():
        rows = "".join(f"{name}.jpg\n" for name in truth[split])
        text(home / "image_sets" / f"{listed}.txt", rows)
    return Tiny(folder, truth, annotation, {})


def rgbd(folder: Path) -> Tiny:
    """Points for training, boxes for testing, as it is given out."""
    home = folder / "ShanghaiTechRGBD"
    truth = counted({"train": ["IMG_0001", "IMG_0003"], "test": ["IMG_0002"]})
    annotation = {}
    for split, images in truth.items():
        for name, points in images.items():
            place, number = home / f"{split}_data", name[-4:]
            picture(place / f"{split}_img" / f"{name}.png", seed=int(number))
            mat(place / f"{split}_depth" / f"DEPTH_{number}.mat", depth=np.ones((4, 4)))
            if split == "train":
                annotation[split, name] = place / "train_gt" / f"GT_{number}.mat"
                mat(annotation[split, name], point=points)
            else:
                annotation[split, name] = place / "test_bbox_anno" / f"BBOX_{number}.mat"
                mat(annotation[split, name], bbox=np.hstack([points - (3, 5), points + (3, 5)]))
    return Tiny(folder, truth, annotation, {})


def folder_csv(folder: Path) -> Tiny:
    truth = counted({"train": ["a", "b 2"], "test": ["c"]})
    annotation = {}
    for split, images in truth.items():
        place = folder / split
        rows = ["image,x,y\n"]
        for i, (name, points) in enumerate(images.items()):
            picture(place / f"{name}.jpg", seed=i)
            rows += [f"{name}.jpg,{x},{y}\n" for x, y in points] or [f"{name}.jpg,,\n"]
            annotation[split, name] = place / "points.csv"
        text(place / "points.csv", "".join(rows))
    return Tiny(folder, truth, annotation, {})


def coco(images: dict, suffix=".jpg") -> dict:
    """COCO keypoints of {name: points}: the nose, or where it is not labelled, an eye."""
    content: dict = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for i, (name, points) in enumerate(images.items()):
        content["images"].append({"id": i, "file_name": f"{name}{suffix}"})
        for j, (x, y) in enumerate(points):
            keypoints = [x, y, 2, 0, 0, 0] if j % 2 else [0, 0, 0, x, y, 1]
            entry = {"id": len(content["annotations"]), "image_id": i, "category_id": 1}
            content["annotations"].append(entry | {"keypoints": keypoints, "iscrowd": 0})
    return content


def folder_mat(folder: Path) -> Tiny:
    truth = counted({"all": ["a", "b", "c"]})
    annotation = {}
    for i, (name, points) in enumerate(truth["all"].items()):
        picture(folder / f"{name}.png", seed=i)
        annotation["all", name] = folder / f"{name}.mat"
        mat(annotation["all", name], points=points)
    return Tiny(folder, truth, annotation, {})


def cvat(images: dict, size=(48, 64), label="head") -> str:
    """'CVAT for images 1.1' of {name: points}: some points in one element, some alone."""
    rows = ['<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>']
    for i, (name, points) in enumerate(images.items()):
        rows.append(f'<image id="{i}" name="{name}.jpg" width="{size[1]}" height="{size[0]}">')
        pairs = [f"{x:.2f},{y:.2f}" for x, y in points]
        for each in [";".join(pairs[:3])] * bool(pairs) + pairs[3:]:
            rows.append(
                f'  <points label="{label}" occluded="0" points="{each}" z_order="0"></points>'
            )
        rows.append("</image>")
    return "\n".join([*rows, "</annotations>"])


def labelme(name: str, points, size=(48, 64), label="head") -> dict:
    shapes = [
        {"label": label, "points": [[x, y]], "group_id": None, "shape_type": "point", "flags": {}}
        for x, y in points
    ]
    about = {"imagePath": f"..\\photos\\{name}.jpg", "imageData": None}
    return {"shapes": shapes, **about, "imageHeight": size[0], "imageWidth": size[1]}


def label_studio(images: dict, size=(48, 64), label="Head") -> list:
    def result(x, y):
        value = {"x": 100 * x / size[1], "y": 100 * y / size[0], "width": 0.5}
        value["keypointlabels"] = [label]
        about = {"original_width": size[1], "original_height": size[0], "image_rotation": 0}
        return {**about, "type": "keypointlabels", "from_name": "kp", "value": value}

    return [
        {
            "id": i,
            "data": {"image": f"/data/upload/1/0123abcd-{name}.jpg"},
            "annotations": [{"was_cancelled": False, "result": [result(x, y) for x, y in points]}],
            "predictions": [],
        }
        for i, (name, points) in enumerate(images.items())
    ]


def via(images: dict) -> dict:
    def region(x, y):
        shape = {"name": "point", "cx": x, "cy": y}
        return {"shape_attributes": shape, "region_attributes": {"kind": "head"}}

    return {
        f"{name}.jpg999": {
            "filename": f"{name}.jpg",
            "size": 999,
            "regions": [region(x, y) for x, y in points],
            "file_attributes": {},
        }
        for name, points in images.items()
    }


def via_csv(images: dict) -> str:
    rows = [
        "filename,file_size,file_attributes,region_count,region_id,"
        "region_shape_attributes,region_attributes"
    ]
    for name, points in images.items():
        for i, (x, y) in enumerate(points):
            shape = f'"{{""name"":""point"",""cx"":{x},""cy"":{y}}}"'
            rows.append(f'{name}.jpg,999,"{{}}",{len(points)},{i},{shape},"{{}}"')
        if not len(points):
            rows.append(f'{name}.jpg,999,"{{}}",0,0,"{{}}","{{}}"')
    return "\n".join([*rows, ""])


def yolo(points, size=(48, 64)) -> str:
    return "".join(f"0 {float(x / size[1])} {float(y / size[0])} 0.1 0.1\n" for x, y in points)


def table_layout(file: str, write):
    """A folder of images with one table that `write` makes of {name: points}."""

    def layout(folder: Path) -> Tiny:
        truth = counted({"all": ["a", "b", "c", "d", "e"]})
        for i, name in enumerate(truth["all"]):
            picture(folder / "images" / f"{name}.jpg", seed=i)
        content = write(truth["all"])
        content = content if isinstance(content, str) else json.dumps(content)
        text(folder / file, content)
        return Tiny(folder, truth, {("all", name): folder / file for name in truth["all"]}, {})

    return layout


def file_layout(place: str, suffix: str, write):
    """A folder of images with a file for each that `write` makes of its name and points."""

    def layout(folder: Path) -> Tiny:
        truth = counted({"train": ["a", "b"], "test": ["c", "d"]})
        annotation = {}
        for split, images in truth.items():
            for i, (name, points) in enumerate(images.items()):
                picture(folder / "images" / split / f"{name}.jpg", seed=i + 10 * len(split))
                path = folder / place / split / f"{name}{suffix}"
                content = write(name, points)
                text(path, content if isinstance(content, str) else json.dumps(content))
                annotation[split, name] = path
        return Tiny(folder, truth, annotation, {})

    return layout


LAYOUTS = {
    "sha": sha,
    "shb": lambda folder: sha(folder, "B"),
    "ucf_cc_50": ucf_cc_50,
    "ucf_qnrf": ucf_qnrf,
    "jhu": jhu,
    "nwpu": nwpu,
    "nwpu/json": lambda folder: nwpu(folder, "jsons"),
    "trancos": trancos,
    "rgbd": rgbd,
    "folder/csv": folder_csv,
    "folder/coco": table_layout("annotations/people.json", coco),
    "folder/mat": folder_mat,
    "folder/cvat": table_layout("annotations.xml", cvat),
    "folder/label studio": table_layout("export.json", label_studio),
    "folder/via": table_layout("via.json", lambda images: {"_via_img_metadata": via(images)}),
    "folder/via csv": table_layout("annotations/via.csv", via_csv),
    "folder/labelme": file_layout("images", ".json", labelme),
    "folder/yolo": file_layout("labels", ".txt", lambda name, points: yolo(points)),
    "folder/txt": file_layout(
        "gt", ".txt", lambda name, points: "".join(f"{x} {y}\n" for x, y in points)
    ),
}
