"""hmode data: list and check, as a user sees them."""

import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import noise, write_split
from layouts import LAYOUTS, mat
from PIL import Image

from hmode.cli import main
from hmode.data import DRAWN
from hmode.data.catalogue import CATALOGUE

SHA = "part_A/{}_data/images/IMG_{}.jpg"


def hmode_data(*args, code):
    """What the command prints; `code` is the exit code it should have."""
    result = CliRunner().invoke(main, ["data", *map(str, args)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def as_published(monkeypatch):
    """The tiny data sets are what is published."""

    def publish(name, **fields):
        entry = CATALOGUE[name]
        published = type(entry)(**{**vars(entry), **fields})
        monkeypatch.setitem(CATALOGUE, name, published)

    return publish


class TestList:
    def test_every_data_set_with_its_terms_and_citation(self):
        output = hmode_data("list", code=0)
        for name, entry in CATALOGUE.items():
            assert f"\n{name} " in f"\n{output}"
            for part in (entry.title, entry.where, entry.licence, entry.citation):
                assert part in output
        assert "\nfolder " in output
        assert "\nsynthetic " in output


class TestTable:
    def test_images_and_people_of_each_split(self, tmp_path):
        data = LAYOUTS["jhu"](tmp_path)
        output = hmode_data("check", "jhu", "--root", data.root, code=1)
        rows = [line.split() for line in output.splitlines()]
        assert ["train", "2", "2,272", "1", "-"] in rows
        assert ["val", "1", "500", "2", "-"] in rows
        assert ["test", "2", "1,600", "7", "-"] in rows
        assert ["total", "5", "4,372", "10", "1,515,005"] in rows
        assert "problem: train has 2 images, published are 2,272" in output
        assert "problem: the files hold 10 people, published are 1,515,005" in output

    def test_people_who_are_not_published_are_a_dash(self, tmp_path):
        data = LAYOUTS["nwpu"](tmp_path)
        output = hmode_data("check", "nwpu", "--root", data.root, code=1)
        assert ["test", "2", "1,500", "-", "-"] in [line.split() for line in output.splitlines()]

    def test_all_is_well(self, tmp_path, as_published):
        data = LAYOUTS["sha"](tmp_path)
        as_published("sha", images={"train": 3, "test": 2}, people=34)
        output = hmode_data("check", "sha", "--root", data.root, code=0)
        assert "problem" not in output
        assert "note" not in output

    @pytest.mark.parametrize(("people", "code"), [(1275, 0), (1280, 0), (1300, 1)])
    def test_a_total_that_differs_by_little_is_a_note(self, tmp_path, as_published, people, code):
        data = LAYOUTS["ucf_cc_50"](tmp_path)  # of 1,275 people
        as_published("ucf_cc_50", people=people)
        output = hmode_data("check", "ucf_cc_50", "--root", data.root, code=code)
        kind = {1275: None, 1280: "note", 1300: "problem"}[people]
        said = f"{kind}: the files hold 1,275 people, published are {people:,}"
        assert (said in output) == (people != 1275)

    def test_ones_own_folder_has_nothing_published(self, tmp_path):
        data = LAYOUTS["folder/mat"](tmp_path)
        output = hmode_data("check", "folder", "--root", data.root, code=0)
        assert ["all", "3", "-", "3", "-"] in [line.split() for line in output.splitlines()]


class TestProblems:
    """Each is found, named, and makes the exit code 1."""

    @pytest.fixture
    def sha(self, tmp_path, as_published):
        LAYOUTS["sha"](tmp_path)
        as_published("sha", images={"train": 3, "test": 2}, people=None)
        return tmp_path

    def problems(self, root, name="sha"):
        output = hmode_data("check", name, "--root", root, code=1)
        return [line[9:] for line in output.splitlines() if line.startswith("problem: ")]

    def test_a_missing_annotation(self, sha):
        path = sha / "part_A/test_data/ground-truth/GT_IMG_2.mat"
        path.unlink()
        assert self.problems(sha) == [f"missing: {path}", "test has 1 images, published are 2"]

    def test_a_missing_split_and_the_other_is_still_looked_at(self, sha):
        shutil.rmtree(sha / "part_A" / "test_data")
        (sha / SHA.format("train", 1)).write_bytes(b"")
        found = self.problems(sha)
        assert any("test_data/images: no such folder" in line for line in found)
        assert any("IMG_1.jpg: not a readable image" in line for line in found)

    def test_every_unreadable_file(self, sha):
        (sha / SHA.format("train", 1)).write_bytes(b"text")
        mat(sha / "part_A/train_data/ground-truth/GT_IMG_2.mat", heads=np.ones((2, 2)))
        mat(sha / "part_A/train_data/ground-truth/GT_IMG_3.mat", image_info=np.ones((2, 2)))
        found = self.problems(sha)
        assert len(found) == 3
        for line, name in zip(found, ("IMG_1.jpg", "GT_IMG_2.mat", "GT_IMG_3.mat"), strict=True):
            assert name in line

    def test_an_image_that_is_in_training_and_test(self, sha):
        shutil.copy(sha / SHA.format("train", 3), sha / SHA.format("test", 1))
        (line,) = self.problems(sha)
        assert line == (
            "the same image, byte for byte: train/IMG_3, test/IMG_1: in more than one split"
        )

    def test_a_mask_of_another_size(self, tmp_path, as_published):
        LAYOUTS["trancos"](tmp_path)
        as_published("trancos", images={"train": 2, "val": 1, "test": 1}, people=None)
        path = tmp_path / "TRANCOS_v3" / "images" / "image-3-000001mask.mat"
        mat(path, BW=np.ones((2, 2)))
        (line,) = self.problems(tmp_path, "trancos")
        assert line.endswith("image-3-000001mask.mat is of another size than the image")

    def test_many_problems_are_counted_and_shown_on_request(self, tmp_path):
        data = LAYOUTS["ucf_cc_50"](tmp_path)
        for path in data.annotation.values():
            path.write_bytes(b"")
        output = hmode_data("check", "ucf_cc_50", "--root", tmp_path, code=1)
        assert output.count("problem: ") == 21
        assert "problem: ... and 30 more, see them with --all" in output
        output = hmode_data("check", "ucf_cc_50", "--root", tmp_path, "--all", code=1)
        assert output.count("problem: ") == 50


class TestNotes:
    """What does no harm leaves the exit code 0."""

    def test_the_known_flaw_of_part_a(self, tmp_path, as_published):
        image = (noise(), [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        write_split(tmp_path / "part_A" / "train_data", {121: image})
        write_split(tmp_path / "part_A" / "test_data", {98: image})
        as_published("sha", images={"train": 1, "test": 1}, people=6)
        output = hmode_data("check", "sha", "--root", tmp_path, code=0)
        assert "note: the same image, byte for byte: train/IMG_121, test/IMG_98 (a known" in output


class TestBadUsage:
    def test_an_unknown_name(self):
        assert "data set 'shz' is unknown" in hmode_data("check", "shz", code=2)

    @pytest.mark.parametrize("name", DRAWN)
    def test_what_is_drawn_has_no_files(self, name):
        assert "drawn on the fly" in hmode_data("check", name, code=2)


class TestSheet:
    @pytest.mark.parametrize("name", ["sha", "nwpu", "folder/csv"])
    def test_a_picture_of_the_first_images(self, tmp_path, name):
        data = LAYOUTS[name](tmp_path)
        sheet = tmp_path / "deep" / "sheet.png"
        args = ("check", name.split("/")[0], "--root", data.root, "--sheet", sheet)
        output = CliRunner().invoke(main, ["data", *map(str, args)]).output
        images = len(data.truth["train"])
        assert f"the first {images} images: {sheet}" in output
        with Image.open(sheet) as picture:
            assert min(picture.size) > 100

    def test_unreadable_images_are_left_out(self, tmp_path):
        LAYOUTS["sha"](tmp_path)
        (tmp_path / SHA.format("train", 1)).write_bytes(b"")
        sheet = tmp_path / "sheet.png"
        output = hmode_data("check", "sha", "--root", tmp_path, "--sheet", sheet, code=1)
        assert "the first 2 images" in output
