"""Every data set, broken in every way: one line names the file and what is wrong."""

import json
import shutil

import numpy as np
import pytest
from layouts import LAYOUTS, coco, heads, mat, opened, picture, text, told
from scipy.io import savemat

from hmode.data import open_dataset
from hmode.data.registry import SOURCES, layout, open_source
from hmode.errors import MissingFileError

SETS = [
    "sha",
    "ucf_cc_50",
    "ucf_qnrf",
    "jhu",
    "nwpu",
    "trancos",
    "rgbd",
    "folder/csv",
    "folder/mat",
]
IN_MAT = ["sha", "ucf_cc_50", "ucf_qnrf", "nwpu", "rgbd", "folder/mat"]
IN_TEXT = ["jhu", "trancos"]
OWN_FILES = [*IN_MAT, *IN_TEXT]  # one annotation for each image


def first(name, data):
    """A split, and the first of its images with people."""
    for (split, image), path in data.annotation.items():
        if len(data.truth[split][image]):
            index = list(data.truth[split]).index(image)
            return split, index, path
    raise AssertionError(name)


@pytest.mark.parametrize("name", SETS)
def test_an_image_that_cannot_be_read(tmp_path, name):
    """In what ways, test_pictures.py asks."""
    data = LAYOUTS[name](tmp_path)
    split, index, _ = first(name, data)
    dataset = opened(name, data, split)
    path = dataset.items[index].image
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert told(lambda: dataset[index]).startswith(f"{path}: not a readable image")
    for other in set(range(len(dataset))) - {index}:
        assert dataset[other].image.shape[0] == 3  # the others are read all the same


class TestAnnotations:
    @pytest.mark.parametrize("name", OWN_FILES)
    @pytest.mark.parametrize("damage", ["garbage", "half"])
    def test_a_damaged_annotation(self, tmp_path, name, damage):
        data = LAYOUTS[name](tmp_path)
        split, index, path = first(name, data)
        content = path.read_bytes()
        if damage == "half" and name in IN_TEXT:
            content = content.rstrip()  # cut within a row
        path.write_bytes(
            bytes(range(256))
            if damage == "garbage"
            else content[: len(content) - len(content) // 2]
        )
        dataset = opened(name, data, split)
        for look in (lambda: dataset[index], lambda: dataset.count_people(index)):
            assert str(path) in told(look)

    @pytest.mark.parametrize("name", IN_TEXT)
    @pytest.mark.parametrize("row", ["1", "1 2 3", "nan nan", "1 2 3 4 5 6 7", "a b c d e f"])
    def test_rows_of_text_that_cannot_be_right(self, tmp_path, name, row):
        data = LAYOUTS[name](tmp_path)
        split, index, path = first(name, data)
        with path.open("a") as file:
            file.write(f"{row}\n")
        assert told(lambda: opened(name, data, split)[index]).startswith(f"{path}: line ")

    @pytest.mark.parametrize(
        ("content", "wrong"),
        [
            ("[]", "expected a JSON object with the key points"),
            ('{"human_num": 3}', "expected a JSON object with the key points"),
            ('{"points": {"x": 1}}', "points is dict, expected a list of [x, y]"),
            ('{"points": [[1, 2], [3]]}', "points: entry 2 is [3], expected [x, y]"),
            ('{"points": [[1, NaN]]}', "not finite"),
            ('{"points": [[1, 2]', "not a readable JSON file"),
        ],
    )
    def test_the_json_of_nwpu(self, tmp_path, content, wrong):
        data = LAYOUTS["nwpu/json"](tmp_path)
        split, index, path = first("nwpu", data)
        path.write_text(content)
        message = told(lambda: opened("nwpu", data, split)[index])
        assert message.startswith(str(path))
        assert wrong in message

    def test_a_mask_without_its_variable(self, tmp_path):
        data = LAYOUTS["trancos"](tmp_path)
        path = tmp_path / "TRANCOS_v3" / "images" / "image-3-000001mask.mat"
        mat(path, mask=np.ones((48, 64)))
        for look in (lambda d: d[0], lambda d: d.count_people(0)):
            message = told(lambda look=look: look(opened("trancos", data, "test")))
            assert message == f"{path}: expected BW [H, W], found variables ['mask']"

    def test_jhu_people_that_are_lost_are_noticed(self, tmp_path):
        """A file cut at the end of a line reads well, but image_labels.txt states the count."""
        data = LAYOUTS["jhu"](tmp_path)
        path = data.annotation["test", "0009"]
        rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join(rows[:-1]))
        with pytest.warns(
            UserWarning, match=rf"0009\.txt: 0009: {len(rows) - 1} points, .*{len(rows)}$"
        ):
            opened("jhu", data, "test")[1]

    def test_shanghaitech_people_that_are_lost_are_noticed(self, tmp_path):
        data = LAYOUTS["sha"](tmp_path)
        inner = np.empty((1, 1), dtype=[("location", object), ("number", object)])
        inner[0, 0] = (heads(3), np.array([[5]]))
        outer = np.empty((1, 1), dtype=object)
        outer[0, 0] = inner
        savemat(data.annotation["train", "IMG_2"], {"image_info": outer})
        with pytest.warns(UserWarning, match=r"GT_IMG_2\.mat: IMG_2: 3 points, .*states 5"):
            assert opened("sha", data, "train")[1].count == 3


class TestMissingFiles:
    @pytest.mark.parametrize("name", OWN_FILES)
    def test_an_image_without_its_annotation(self, tmp_path, name):
        data = LAYOUTS[name](tmp_path)
        split, _, path = first(name, data)
        path.unlink()
        message = told(lambda: opened(name, data, split), MissingFileError)
        expected = path.with_suffix(".csv") if name == "folder/mat" else path
        expected = str(expected).replace("test_bbox_anno/BBOX", "test_gt/GT")
        assert message.startswith(f"{expected}: not there; expected ")

    @pytest.mark.parametrize("name", ["ucf_cc_50", "nwpu", "trancos"])
    def test_an_image_of_the_list_that_is_not_there(self, tmp_path, name):
        data = LAYOUTS[name](tmp_path)
        split, index, _ = first(name, data)
        path = opened(name, data, split).items[index].image
        path.unlink()
        message = told(lambda: opened(name, data, split), MissingFileError)
        assert message.startswith(f"{path}: not there; expected ")

    @pytest.mark.parametrize("name", ["sha", "ucf_qnrf", "jhu", "rgbd", "folder/mat"])
    def test_an_annotation_without_its_image_is_noticed(self, tmp_path, name):
        """Nothing says that the image should be there, but for its annotation."""
        data = LAYOUTS[name](tmp_path)
        split, index, path = first(name, data)
        before = opened(name, data, split)
        before.items[index].image.unlink()
        with pytest.warns(UserWarning, match=rf"{path.name} belongs to no image"):
            assert len(opened(name, data, split)) == len(before) - 1

    @pytest.mark.parametrize(
        ("name", "lost"),
        [
            ("sha", "part_A/train_data/images"),
            ("sha", "part_A/train_data/ground-truth"),
            ("ucf_qnrf", "UCF-QNRF_ECCV18/Train"),
            ("jhu", "jhu_crowd_v2.0/train/images"),
            ("nwpu", "NWPU-Crowd/train.txt"),
            ("trancos", "TRANCOS_v3/image_sets/training.txt"),
            ("trancos", "TRANCOS_v3/images"),
            ("rgbd", "ShanghaiTechRGBD/train_data/train_img"),
        ],
    )
    def test_a_folder_or_list_that_is_not_there(self, tmp_path, name, lost):
        data = LAYOUTS[name](tmp_path)
        path = tmp_path / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        message = told(lambda: opened(name, data, "train"), MissingFileError)
        assert str(path.parent) in message
        assert f"expected {layout(name)}" in message

    @pytest.mark.parametrize("name", SOURCES)
    def test_a_root_that_is_not_there(self, tmp_path, name):
        message = told(lambda: open_source(name, tmp_path / "nowhere"), MissingFileError)
        assert message.startswith(f"{tmp_path / 'nowhere'}: no such data folder; give --data-root")

    @pytest.mark.parametrize("name", sorted(set(SOURCES) - {"folder"}))
    def test_a_root_without_the_data_says_what_is_there(self, tmp_path, name):
        (tmp_path / "holiday").mkdir()
        message = told(lambda: open_source(name, tmp_path), MissingFileError)
        assert message.startswith(f"{tmp_path}: no data set {name!r}")
        assert layout(name) in message
        assert "found ['holiday']" in message


TWO = json.dumps(coco({"a": [], "b": [(3, 4)]}))


@pytest.mark.parametrize(
    ("images", "files", "wrong"),
    [
        (
            "a.jpg b.jpg",
            {"p.csv": "image,x,y\na.jpg,1,2\n"},
            "a row of b.jpg in {}p.csv: not there",
        ),
        ("a.jpg", {"p.csv": "image,x,y\na.jpg,1,2\nb.jpg,3,4\n"}, "{}b.jpg: not there"),
        ("a.jpg", {"p.json": TWO}, "{}b.jpg: not there"),
        ("a.jpg a.png", {"a.csv": "x,y\n1,2\n"}, "which is meant?"),
        ("a.jpg", {"a.csv": "x,y\n1,2\n", "gt/GT_a.txt": "1 2\n"}, "is of the same image"),
        ("a.jpg", {"p.csv": "image,x,y\na.jpg,1,2\na,3,4\n"}, "a.jpg goes by two names"),
        ("a.jpg b.jpg", {"heads.csv": "x,y\n1,2\n"}, "no column image"),
        (
            "a.jpg",
            {"a.csv": "image,x,y\nb.jpg,1,2\n"},
            "{}a.csv: expected the points of a.jpg alone",
        ),
        ("", {}, "no images; expected images with one table .csv"),
    ],
)
def test_a_folder_whose_files_do_not_fit_each_other(tmp_path, images, files, wrong):
    """An image of which nothing is said is not taken as empty; nobody is taken from another."""
    for i, name in enumerate(images.split()):
        picture(tmp_path / name, seed=i)
    for name, content in files.items():
        text(tmp_path / name, content)
    message = told(lambda: list(open_dataset("folder", tmp_path)))
    assert wrong.format(f"{tmp_path}/") in message
