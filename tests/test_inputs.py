"""What people feed it: every kind that bug reports of such software tell of, through the door."""

import csv
import json
import warnings

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import noise
from hypothesis import given
from hypothesis import strategies as st
from layouts import coco, cvat, label_studio, labelme, picture, text, told, via, yolo
from PIL import Image

from hmode.cli import main
from hmode.data import open_dataset
from hmode.data.heads import turn
from hmode.data.registry import open_source
from hmode.errors import MissingFileError

HEADS = [(10, 20), (50.5, 7.25), (0, 0), (63.75, 47.75)]
# Where the pixel (x, y) of W x H stored ones is upright, after the Exif standard.
UPRIGHT = {
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - 1 - y, x),
    7: lambda x, y, w, h: (h - 1 - y, w - 1 - x),
    8: lambda x, y, w, h: (y, w - 1 - x),
}


def points(folder, split="all", **options):
    """{image: points}, silently."""
    with warnings.catch_warnings(action="error"):
        dataset = open_dataset("folder", folder, split, **options)
        found = {sample.name: sample.points.tolist() for sample in dataset}
        counts = [dataset.count_people(i) for i in range(len(dataset))]
    assert counts == [len(each) for each in found.values()]
    return found


def checked(folder) -> str:
    result = CliRunner().invoke(main, ["data", "check", "folder", "--root", str(folder)])
    assert result.exit_code == (1 if "problem:" in result.output else 0), result.output
    return result.output


def photograph(path, size=(64, 96), orientation=1, seed=0):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(size, seed)).save(path, exif=exif)


def bright(width, height, x, y, orientation, path):
    """A photograph with one white pixel, and where it is when upright."""
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[y, x] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


class TestTurned:
    @pytest.mark.parametrize("orientation", range(5, 9))
    @pytest.mark.parametrize("upright", [True, False])
    @pytest.mark.parametrize("stored", [True, False])
    def test_a_head_stays_on_its_pixel(self, tmp_path, orientation, upright, stored):
        """The one white pixel is the head, however the image is turned and whatever size the
        annotation was made on."""
        bright(9, 6, 7, 2, orientation, tmp_path / "a.png")
        x, y = (7, 2) if stored else UPRIGHT[orientation](7, 2, 9, 6)
        width, height = (9, 6) if stored else (6, 9)
        text(tmp_path / "p.csv", f"image,x,y,width,height\na.png,{x},{y},{width},{height}\n")
        (sample,) = open_dataset("folder", tmp_path, "all", upright=upright)
        (column, row) = sample.points[0].int().tolist()
        assert sample.image[0, row, column] == 255

    @pytest.mark.parametrize("kind", ["coco", "cvat", "labelme", "label studio"])
    def test_every_kind_that_states_a_size(self, tmp_path, kind):
        photograph(tmp_path / "a.jpg", orientation=6)
        stated = (64, 96)  # as stored: height, width
        people = {"a": HEADS}
        content = {
            "coco": lambda: coco(people),
            "cvat": lambda: cvat(people, stated),
            "labelme": lambda: labelme("a", HEADS, stated),
            "label studio": lambda: label_studio(people, stated),
        }[kind]()
        if kind == "coco":
            content["images"][0] |= {"width": 96, "height": 64}
        path = tmp_path / ("a.json" if kind != "cvat" else "a.xml")
        text(path, content if isinstance(content, str) else json.dumps(content))
        found = points(tmp_path)["a"]
        assert found == [[63 - y, x] for x, y in HEADS]

    @pytest.mark.parametrize("stated", [(95, 64), (192, 128), (64, 95), (1, 1)])
    def test_a_size_that_is_of_neither(self, tmp_path, stated):
        photograph(tmp_path / "a.jpg", orientation=6)
        text(tmp_path / "a.csv", f"x,y,width,height\n1,2,{stated[0]},{stated[1]}\n")
        dataset = open_dataset("folder", tmp_path, "all")
        message = told(lambda: dataset[0])
        assert f"states an image of {stated[0]} x {stated[1]} pixels" in message
        assert "the file has 96 x 64 (64 x 96 upright)" in message
        assert message in checked(tmp_path)

    @given(
        x=st.floats(0, 9, exclude_max=True, width=32),
        y=st.floats(0, 6, exclude_max=True, width=32),
        orientation=st.sampled_from(sorted(UPRIGHT)),
    )
    def test_who_is_inside_stays_inside(self, x, y, orientation):
        ((u, v),) = turn(np.array([[x, y]]), (9, 6), orientation)
        assert 0 <= u < 6
        assert 0 <= v < 9


class TestUnits:
    FRACTIONS = "".join(f"a.jpg,{x / 64},{y / 48}\n" for x, y in HEADS)

    def test_fractions_are_doubted_and_read_when_said(self, tmp_path):
        picture(tmp_path / "a.jpg")
        text(tmp_path / "p.csv", "image,x,y\n" + self.FRACTIONS)
        assert "x and y of all 4 points lie in 0 to 1" in checked(tmp_path)
        with pytest.warns(UserWarning, match=r'pixels .* or fractions .*units="fractions"'):
            open_dataset("folder", tmp_path)[0]
        expected = {"a": [list(each) for each in HEADS]}
        assert points(tmp_path, units="fractions") == expected
        text(tmp_path / "hmode.json", '{"units": "fractions"}')
        assert points(tmp_path) == expected
        assert "problem" not in checked(tmp_path)

    def test_per_cent_are_doubted_and_read_when_said(self, tmp_path):
        picture(tmp_path / "a.jpg", (480, 640))
        rows = [(10 * i, 5 * i) for i in range(10)]
        text(tmp_path / "p.csv", "image,x,y\n" + "".join(f"a.jpg,{x},{y}\n" for x, y in rows))
        assert "are they per cent?" in checked(tmp_path)
        found = points(tmp_path, units="percent")
        assert found == {"a": [[6.4 * x, 4.8 * y] for x, y in rows]} or np.allclose(
            found["a"], [[6.4 * x, 4.8 * y] for x, y in rows]
        )

    @pytest.mark.parametrize(
        "content",
        [
            '{"label": 5}',
            '{"annotations": [1]}',
            "[]",
            '{"unit": "fractions"}',
            '{"units": "inches"}',
            '{"upright": "no"}',
            "{",
        ],
    )
    def test_settings_that_are_none(self, tmp_path, content):
        picture(tmp_path / "a.jpg")
        text(tmp_path / "hmode.json", content)
        told(lambda: open_source("folder", tmp_path))


class TestLabels:
    def folder(self, tmp_path):
        picture(tmp_path / "a.jpg")
        mixed = cvat({"a": HEADS[:2]}).replace("</annotations>", "").replace("</image>", "")
        other = '<points label="car" points="1,2"/></image></annotations>'
        text(tmp_path / "annotations.xml", mixed + other)
        return tmp_path

    def test_several_are_not_added_up(self, tmp_path):
        dataset = open_dataset("folder", self.folder(tmp_path))
        assert "points of several labels, ['car', 'head']" in told(lambda: dataset[0])

    def test_several_in_files_of_their_own_are_not_added_up(self, tmp_path):
        for name, label in (("a", "head"), ("b", "car")):
            picture(tmp_path / f"{name}.jpg")
            text(tmp_path / f"{name}.json", json.dumps(labelme(name, HEADS[:1], label=label)))
        assert len(open_dataset("folder", tmp_path)[0].points) == 1
        refused = told(lambda: [*open_dataset("folder", tmp_path)])
        assert "b.json: points of several labels" in refused

    def test_one_or_all_are_chosen(self, tmp_path):
        folder = self.folder(tmp_path)
        assert points(folder, label="head") == {"a": [[10, 20], [50.5, 7.25]]}
        assert points(folder, label="car") == {"a": [[1, 2]]}
        assert len(points(folder, label="*")["a"]) == 3


class TestNames:
    def test_case_and_suffix(self, tmp_path):
        picture(tmp_path / "IMG_1.JPG")
        text(tmp_path / "p.csv", "image,x,y\nimg_1.jpg,5,6\n")
        assert points(tmp_path) == {"IMG_1": [[5, 6]]}
        text(tmp_path / "p.csv", "image,x,y\nimg_1.heic,5,6\n")
        with pytest.warns(UserWarning, match=r"img_1\.heic is taken for IMG_1\.JPG"):
            assert len(open_dataset("folder", tmp_path)) == 1

    @pytest.mark.parametrize("entry", ["C:\\photos\\a.jpg", "photos/a.jpg", "/data/a.jpg"])
    def test_paths_of_any_system(self, tmp_path, entry):
        picture(tmp_path / "a.jpg")
        text(tmp_path / "p.csv", f"image,x,y\n{entry},5,6\n")
        assert points(tmp_path) == {"a": [[5, 6]]}

    def test_two_images_whose_names_differ_in_case(self, tmp_path):
        picture(tmp_path / "a.jpg")
        picture(tmp_path / "A.jpg")
        text(tmp_path / "p.csv", "image,x,y\na.jpg,5,6\nA.jpg,7,8\n")
        assert points(tmp_path) == {"A": [[7, 8]], "a": [[5, 6]]}
        text(tmp_path / "p.csv", "image,x,y\na.JPG,5,6\nA.jpg,7,8\n")
        told(lambda: open_dataset("folder", tmp_path), MissingFileError)

    def test_an_annotation_file_in_other_case(self, tmp_path):
        picture(tmp_path / "IMG_1.JPG")
        text(tmp_path / "img_1.csv", "x,y\n5,6\n")
        assert points(tmp_path) == {"IMG_1": [[5, 6]]}

    def test_a_table_beside_a_file_of_one_image(self, tmp_path):
        picture(tmp_path / "a.jpg")
        text(tmp_path / "p.csv", "image,x,y\na.jpg,5,6\n")
        text(tmp_path / "gt" / "a.txt", "1 2\n3 4\n")
        message = told(lambda: open_dataset("folder", tmp_path))
        assert "both p.csv and a.txt may hold the points" in message

    def test_what_lies_about_is_named(self, tmp_path):
        """No file among the images, and no image elsewhere, is left out without a word."""
        picture(tmp_path / "images" / "a.jpg")
        text(tmp_path / "images" / "a.csv", "x,y\n5,6\n")
        left = ["images/clip.mp4", "images/b.dng", "images/more/c.jpg", "d.jpg", "images/e.txt"]
        for name in left:
            text(tmp_path / name, "")
        output = checked(tmp_path)
        for name in ("clip.mp4", "b.dng", "more", "d.jpg", "e.txt"):
            assert f"/{name}\n" in output
        with pytest.warns(UserWarning, match=r"\(and 4 more\) belongs to no image"):
            open_dataset("folder", tmp_path)
        for name in ("images/.DS_Store", "images/Thumbs.db", "images/._a.jpg"):
            text(tmp_path / name, "")
        assert checked(tmp_path) == output

    def test_heic_is_read(self, tmp_path):
        heif = pytest.importorskip("pillow_heif", reason="extra heic is not installed")
        picture(tmp_path / "a.jpg")
        heif.from_pillow(Image.fromarray(noise((48, 64)))).save(tmp_path / "IMG_1.HEIC")
        text(tmp_path / "p.csv", "image,x,y\na.jpg,5,6\nIMG_1.HEIC,7,8\n")
        assert points(tmp_path) == {"IMG_1": [[7, 8]], "a": [[5, 6]]}


class TestTables:
    @pytest.mark.parametrize(
        "content",
        [
            b"image;x;y\r\na.jpg;1,5;2\r\n",
            b"\xef\xbb\xbfimage;x;y\r\na.jpg;1,5;2,0\r\n",
            "image\tx\ty\r\na.jpg\t1,5\t2\r\n".encode("utf-16"),
            b"image\tx\ty\na.jpg\t1.5\t2\n",
            b"sep=;\r\nimage;x;y\r\na.jpg;1,5;2\r\n",
            b"\nimage,x,y\ra.jpg,1.5,2\r",
        ],
        ids=["semicolons", "mark", "UTF-16 of Excel", "tabs", "sep", "old Mac"],
    )
    def test_as_spreadsheets_of_the_world_write_them(self, tmp_path, content):
        picture(tmp_path / "a.jpg")
        (tmp_path / "p.csv").write_bytes(content)
        assert points(tmp_path) == {"a": [[1.5, 2]]}

    @pytest.mark.parametrize("value", ["1,5", "1.234,5", "1e999", "NaN", "inf", "１"])
    def test_what_is_no_number_or_two(self, tmp_path, value):
        picture(tmp_path / "a.jpg")
        for row in (f"image,x,y\na.jpg,{value},2\n", f"image;x;y\na.jpg;{value};2.1.1\n"):
            text(tmp_path / "p.csv", row)
            told(lambda: open_dataset("folder", tmp_path))

    def test_written_twice(self, tmp_path):
        picture(tmp_path / "a.jpg")
        rows = "".join(f"a.jpg,{x},{y}\n" for x, y in HEADS)
        text(tmp_path / "p.csv", "image,x,y\n" + rows + "a.jpg,10,20\n")
        assert "note: 1 points repeat another" in checked(tmp_path)
        text(tmp_path / "p.csv", "image,x,y\n" + 2 * rows)
        assert "problem: " in checked(tmp_path)
        assert "4 of 8 points repeat another: written twice?" in checked(tmp_path)

    @pytest.mark.parametrize(
        "content", ["1 2\n3.5 4\n", "1,2\n3.5,4\n", "1;2\r\n3.5;4", " 1\t2\n\n3.5 4"]
    )
    def test_lines_of_text(self, tmp_path, content):
        picture(tmp_path / "a.jpg")
        text(tmp_path / "a.txt", content)
        assert points(tmp_path) == {"a": [[1, 2], [3.5, 4]]}

    @pytest.mark.parametrize(
        ("content", "wrong"),
        [
            ("0 0.5 0.5 0.1 0.1\n0 0.5 20 3 4\n", "not all in fractions"),
            ("1 2 3\n", "has 3 values, expected 2"),
            ("0 0.1 0.1 0.2 0.2 0.3 0.3\n", "has 7 values"),
            ("1 2\n0 0.5 0.5 0.1 0.1\n", "line 2 has 5 values"),
            ("0 0.5 0.5 0.1 0.1\n1 0.2 0.2 0.1 0.1\n", "several labels, ['0', '1']"),
        ],
    )
    def test_text_that_is_neither(self, tmp_path, content, wrong):
        picture(tmp_path / "a.jpg")
        text(tmp_path / "a.txt", content)
        assert wrong in told(lambda: open_dataset("folder", tmp_path)[0])


def changed(content, *path, **values):
    """JSON with other values somewhere inside."""
    content = json.loads(json.dumps(content))
    at = content
    for key in path:
        at = at[key]
    at.update(values)
    return content


STUDIO = label_studio({"a": HEADS})
RESULT = (0, "annotations", 0, "result", 0)
BOX = {"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["Head"]}
VIA = via({"a": HEADS})
REGION = ("a.jpg999", "regions", 0)


class TestExports:
    @pytest.mark.parametrize(
        ("content", "wrong"),
        [
            (
                changed(labelme("a", HEADS), "shapes", 0, shape_type="rectangle"),
                "a rectangle; only",
            ),
            (changed(labelme("a", HEADS), "shapes", 0, points=[[1, 2], [3, 4]]), "expected [x, y]"),
            (changed(labelme("a", HEADS), imageWidth="wide"), "states a size of 'wide'"),
            (changed(labelme("a", HEADS), imagePath="b.jpg"), "alone"),
            (changed(labelme("a", HEADS), shapes={}), "expected a list of objects"),
            (
                changed(STUDIO, *RESULT, type="rectanglelabels", value=BOX),
                "a rectanglelabels; only",
            ),
            (changed(STUDIO, *RESULT, value=None), "expected [x, y]"),
            (
                changed(STUDIO, *RESULT, type="brushlabels", value={"rle": []}),
                "a brushlabels; only",
            ),
            (changed(STUDIO, *RESULT, image_rotation=90), "was turned in Label Studio"),
            (changed(STUDIO, *RESULT, original_width=65), "several sizes"),
            (changed(STUDIO, 0, annotations=2 * STUDIO[0]["annotations"]), "annotated 2 times"),
            (changed(STUDIO, 0, data={"text": "hello"}), "names 0 files"),
            ([{"image": "a.jpg", "kp-1": []}], "not JSON-MIN"),
            (changed(STUDIO, 0, annotations=[]), "a row of a.jpg"),
            (changed(STUDIO, 0, "annotations", 0, was_cancelled=True), "a row of a.jpg"),
            (
                changed(VIA, *REGION, shape_attributes={"name": "rect", "x": 1}),
                "a rect; only points",
            ),
            (changed(VIA, *REGION, shape_attributes=None), "without shape_attributes"),
            (changed(VIA, *REGION, region_attributes={"kind": "car"}), "several labels"),
            (changed(VIA, "a.jpg999", filename=""), "without a name"),
            ({"a": {"b": 1}}, "expected COCO keypoints, LabelMe, Label Studio or VIA"),
        ],
    )
    def test_what_cannot_be_counted_is_refused(self, tmp_path, content, wrong):
        picture(tmp_path / "a.jpg")
        text(tmp_path / "a.json", json.dumps(content))
        if wrong.startswith("a row"):
            (tmp_path / "a.json").rename(tmp_path / "all.json")
        assert wrong in told(lambda: open_dataset("folder", tmp_path)[0])

    @pytest.mark.parametrize(
        ("old", "new", "wrong"),
        [
            ("<points", '<box label="head" xtl="1"/><points', "a box; only points"),
            ("<points", "<skeleton/><points", "a skeleton; only points"),
            ("<image", '<track id="0"/><image', "<track>s of a video"),
            ("annotations", "annotation", "expected 'CVAT for images 1.1', found <annotation>"),
            ("10.00,20.00", "10.00", "expected [x, y]"),
            ("10.00,20.00", "ten,20.00", "'ten' is not a number"),
            ('width="64"', 'width="0"', "states a size"),
            ('width="64"', "", "states a size"),
            ("</image>", "", "not readable XML"),
            (
                '<?xml version="1.0" encoding="utf-8"?>',
                '<!DOCTYPE a [<!ENTITY b "c">]>',
                "entities",
            ),
        ],
    )
    def test_xml_that_cannot_be_counted_is_refused(self, tmp_path, old, new, wrong):
        picture(tmp_path / "a.jpg")
        text(tmp_path / "annotations.xml", cvat({"a": HEADS}).replace(old, new))
        assert wrong in told(lambda: open_dataset("folder", tmp_path)[0])

    def test_what_is_said_of_the_whole_image_is_no_head(self, tmp_path):
        picture(tmp_path / "a.jpg")
        choice = {"type": "choices", "from_name": "sky", "value": {"choices": ["blue"]}}
        content = changed(STUDIO, 0, predictions=[])
        content[0]["annotations"][0]["result"].append(choice)
        text(tmp_path / "a.json", json.dumps(content))
        assert len(points(tmp_path)["a"]) == len(HEADS)

    def test_the_names_that_yolo_leaves_beside_are_no_annotations(self, tmp_path):
        picture(tmp_path / "images" / "a.jpg")
        text(tmp_path / "labels" / "a.txt", yolo(HEADS))
        text(tmp_path / "labels" / "classes.txt", "head\n")
        text(tmp_path / "data.yaml", "names: [head]\n")
        assert points(tmp_path) == {"a": [list(each) for each in HEADS]}


class TestFilesThatChange:
    def folder(self, tmp_path):
        for name in "ab":
            picture(tmp_path / f"{name}.png", seed=ord(name))
            text(tmp_path / f"{name}.csv", "x,y\n5,6\n")
        dataset = open_dataset("folder", tmp_path)
        assert [dataset[i].count for i in range(2)] == [1, 1]
        return dataset

    def test_one_that_vanishes(self, tmp_path):
        dataset = self.folder(tmp_path)
        (tmp_path / "b.png").unlink()
        assert told(lambda: dataset[1], MissingFileError) == f"{tmp_path / 'b.png'}: no such file"
        assert dataset[0].count == 1

    @pytest.mark.parametrize("name", ["b.png", "b.csv"])
    def test_one_that_becomes_another(self, tmp_path, name):
        dataset = self.folder(tmp_path)
        if name == "b.png":
            picture(tmp_path / name, (48, 100))
        else:
            text(tmp_path / name, "x,y\n5,6\n7,8\n")
        message = told(lambda: dataset[1])
        assert message == f"{tmp_path / name}: changed since it was first read; start again"
        assert dataset[0].count == 1


class TestTraining:
    @pytest.mark.parametrize("people", [5, 0])
    def test_images_that_all_hold_as_many(self, tmp_path, people):
        """The mean count then makes no error, and no share of it can be formed."""
        for split, images in (("train", 4), ("test", 2)):
            for i in range(images):
                picture(tmp_path / split / f"{i}.png", (130, 140), seed=i + images)
                rows = [
                    f"{x},{y}\n" for x, y in np.random.default_rng(i).uniform(0, 130, (people, 2))
                ]
                text(tmp_path / split / f"{i}.csv", "x,y\n" + "".join(rows))
        arguments = ["--dataset", "folder", "--data-root", tmp_path, "--device", "cpu"]
        table, runs = tmp_path / "table.csv", tmp_path / "runs"
        train = ["train", "hmode+rel", "--profile", "smoke", "--runs", runs, "--csv", table]
        result = CliRunner().invoke(main, [str(each) for each in [*train, *arguments]])
        assert result.exit_code == 0, result.output
        assert "always the mean count: MAE 0.00" in result.output
        (row,) = csv.DictReader(table.open())
        assert row["mae_over_mean"] == ""
        run = runs / "smoke" / "folder" / "hmode+rel-seed0"
        assert json.loads((run / "result.json").read_text())["mae_over_mean"] is None
        result = CliRunner().invoke(main, [str(each) for each in ["evaluate", run, *arguments]])
        assert result.exit_code == 0, result.output
        assert "nan" not in result.output
        assert ("NAE –" in result.output) == (people == 0)
