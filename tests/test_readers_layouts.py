"""Every data set is read from its exact layout: images, their order, their points, their masks."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import noise, write_annotation, write_shanghaitech, write_split
from layouts import LAYOUTS, coco, heads, mat, opened, picture, text, trancos, ucf_cc_50
from PIL import Image

from hmode.data import describe, open_dataset, true_counts
from hmode.data.catalogue import CATALOGUE
from hmode.data.published import FOLDS
from hmode.data.registry import SOURCES, open_source
from hmode.errors import InputError, MissingFileError


@pytest.fixture(params=LAYOUTS)
def tiny(request, tmp_path):
    data = LAYOUTS[request.param](tmp_path)
    return request.param.split("/")[0], data


class TestAllLayouts:
    def test_images_come_in_order_with_the_points_of_their_files(self, tiny):
        name, data = tiny
        for split, truth in data.truth.items():
            dataset = opened(name, data, split)
            assert len(dataset) == len(truth)
            assert [sample.name for sample in dataset] == list(truth)
            for sample, points in zip(dataset, truth.values(), strict=True):
                assert sample.image.dtype == torch.uint8
                assert sample.annotated == (points is not None)
                if sample.annotated:
                    np.testing.assert_array_equal(sample.points, np.float32(points))

    def test_pixels_are_those_of_the_files(self, tiny):
        name, data = tiny
        dataset = opened(name, data, next(iter(data.truth)))
        with Image.open(dataset.items[0].image) as image:
            pixels = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(dataset[0].image.permute(1, 2, 0), pixels)

    def test_people_are_counted_without_decoding_an_image(self, tiny):
        name, data = tiny
        for split, truth in data.truth.items():
            dataset = opened(name, data, split)
            if split == "trainval" or any(points is None for points in truth.values()):
                continue  # its images were emptied with their own split, or nobody is known
            expected = [sample.count for sample in dataset]
            for item in dataset.items:
                header = item.image.read_bytes()[:700]  # the size may be asked for
                item.image.write_bytes(header)
            assert true_counts(opened(name, data, split)).tolist() == expected

    def test_it_says_what_it_is_in_json(self, tiny):
        name, data = tiny
        for split, truth in data.truth.items():
            described = describe(opened(name, data, split))
            assert described == json.loads(json.dumps(described))
            assert (described["name"], described["split"]) == (name, split)
            assert described["images"] == len(truth)

    def test_files_of_a_mac_are_left_aside(self, tiny):
        name, data = tiny
        for split in data.truth:
            for item in opened(name, data, split).items:
                for path in filter(None, (item.image, item.annotation)):
                    path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
                    path.with_name(".DS_Store").write_bytes(b"")
        for split, truth in data.truth.items():
            assert [item.name for item in opened(name, data, split).items] == list(truth)

    def test_another_split_is_answered_with_its_own(self, tiny):
        name, data = tiny
        with pytest.raises(InputError, match=r"split is 'nowhere', expected one of .*'train'"):
            opened(name, data, "nowhere")


def test_each_published_data_set_is_in_the_catalogue():
    assert {*CATALOGUE, "folder"} == {*SOURCES}


class TestShanghaiTech:
    @pytest.mark.parametrize("truth", ["ground-truth", "ground_truth"])
    @pytest.mark.parametrize("part", ["part_A", "part_A_final"])
    @pytest.mark.parametrize("above", ["", "ShanghaiTech"])
    def test_every_spelling_is_found(self, tmp_path, truth, part, above):
        for split, people in (("train", 2), ("test", 3)):
            folder = tmp_path / above / part / f"{split}_data"
            write_split(folder, {1: (noise(), np.eye(people, 2) + 9)}, truth)
        for root in (tmp_path, tmp_path / above, str(tmp_path / above / part)):
            assert [s.count for s in open_dataset("sha", root)] == [2]
            assert [s.count for s in open_dataset("sha", root, "test")] == [3]

    def test_parts_are_kept_apart_and_images_come_in_natural_order(self, tmp_path):
        for part, numbers in (("A", [10, 9, 100, 1, 2, 21]), ("B", [7])):
            images = {n: (noise(channels=1), heads(n, (64, 64))) for n in numbers}
            write_split(tmp_path / f"part_{part}" / "train_data", images)
            samples = list(open_dataset(f"sh{part.lower()}", tmp_path))
            assert [sample.name for sample in samples] == [f"IMG_{n}" for n in sorted(numbers)]
            assert [sample.count for sample in samples] == sorted(numbers)
            assert samples[0].image.shape == (3, 64, 64)  # grey photographs become RGB

    def test_the_root_is_given_or_of_the_environment_or_data(self, tmp_path, monkeypatch):
        for name, images in (("mine", 2), ("other", 3), ("data", 4)):
            write_shanghaitech(tmp_path / name, train=images)
        monkeypatch.chdir(tmp_path)
        assert len(open_dataset("sha")) == 4
        monkeypatch.setenv("HMODE_DATA", str(tmp_path / "other"))
        assert len(open_dataset("sha")) == 3
        assert len(open_dataset("sha", tmp_path / "mine")) == 2


class TestUcfCc50:
    def test_the_folds_are_a_partition(self):
        assert sorted(n for fold in FOLDS for n in fold) == list(range(1, 51))
        assert [len(fold) for fold in FOLDS] == [10] * 5
        assert FOLDS[0] == (37, 48, 29, 10, 14, 1, 45, 47, 40, 24)

    def test_each_fold_trains_on_the_others(self, tmp_path):
        root = ucf_cc_50(tmp_path).root
        for fold, test in enumerate(FOLDS):
            parts = {
                split: [
                    int(i.name) for i in open_dataset("ucf_cc_50", root, split, fold=fold).items
                ]
                for split in ("train", "test")
            }
            assert parts["test"] == list(test)
            assert sorted(parts["train"] + parts["test"]) == list(range(1, 51))
        assert describe(open_dataset("ucf_cc_50", root, fold=3))["fold"] == 3

    def test_all_fifty_at_once(self, tmp_path):
        whole = open_dataset("ucf_cc_50", ucf_cc_50(tmp_path).root, "all")
        assert [item.name for item in whole.items] == [str(n) for n in range(1, 51)]
        assert true_counts(whole).tolist() == list(range(1, 51))

    @pytest.mark.parametrize("fold", [-1, 5, "1", None, True, 0.5])
    def test_another_fold(self, tmp_path, fold):
        with pytest.raises(InputError, match=r"fold is .*expected a whole number from 0 to 4"):
            open_dataset("ucf_cc_50", tmp_path, fold=fold)

    def test_people_outside_the_frame_count(self, tmp_path):
        data = ucf_cc_50(tmp_path)
        points = [[-358.7, 5.0], [3.0, 4.0], [5.0, 6.0]]
        mat(data.annotation["test", "37"], annPoints=np.array(points))
        dataset = open_dataset("ucf_cc_50", data.root, "test")
        assert dataset[0].points.tolist() == [[pytest.approx(x) for x in p] for p in points]
        assert dataset.count_people(0) == 3


class TestJhu:
    def test_only_the_head_is_read_of_a_row(self, tmp_path):
        picture(tmp_path / "test" / "images" / "0004.jpg")
        text(tmp_path / "test" / "gt" / "0004.txt", "10 20 3 4 1 0 \n30.5 40 5 6 2 1 \n")
        (sample,) = open_dataset("jhu", tmp_path, "test")
        assert sample.points.tolist() == [[10, 20], [30.5, 40]]


class TestNwpu:
    def test_the_people_of_the_test_split_are_not_known(self, tmp_path):
        test = open_dataset("nwpu", LAYOUTS["nwpu"](tmp_path).root, "test")
        assert not any(sample.annotated for sample in test)
        with pytest.raises(InputError, match="3610: not annotated"):
            _ = test[0].count
        with pytest.raises(InputError, match="3610: its annotation is not published"):
            test.count_people(0)

    def test_images_as_they_come_in_five_archives(self, tmp_path):
        data = LAYOUTS["nwpu"](tmp_path)
        home = open_source("nwpu", data.root).folder
        (home / "images_part1").mkdir()
        (home / "images" / "0004.jpg").rename(home / "images_part1" / "0004.jpg")
        (home / "images").rename(home / "images_part5")
        train = open_dataset("nwpu", data.root)
        assert [sample.name for sample in train] == ["0001", "0004"]

    def test_its_lists_alone_say_what_is_missing(self, tmp_path):
        home = open_source("nwpu", LAYOUTS["nwpu"](tmp_path).root).folder
        for folder in ("images", "mats"):
            shutil.rmtree(home / folder)
        for split, missing in (("train", 4), ("val", 2), ("test", 2)):
            lacking = rf"\.jpg: not there \(and {missing - 1} more"
            with pytest.raises(MissingFileError, match=lacking):
                open_dataset("nwpu", tmp_path, split)


class TestTrancos:
    def test_coordinates_count_from_one_in_the_file(self, tmp_path):
        data = trancos(tmp_path)
        data.annotation["test", "image-3-000001"].write_text("1\t1\n64 48\n")
        (sample,) = open_dataset("trancos", data.root, "test")
        assert sample.points.tolist() == [[0, 0], [63, 47]]

    def test_only_what_the_mask_shows_is_counted(self, tmp_path):
        data = trancos(tmp_path)
        data.annotation["test", "image-3-000001"].write_text("32\t5\n33 5\n1 48\n")
        dataset = open_dataset("trancos", data.root, "test")
        (sample,) = dataset
        assert sample.mask.sum(dim=1).tolist() == [32] * 48  # the left half
        assert sample.mask[:, :32].all()
        assert len(sample.points) == 3
        assert sample.count == dataset.count_people(0) == 2

    def test_the_mask_shrinks_with_its_image(self, tmp_path):
        dataset = open_dataset("trancos", trancos(tmp_path).root, "trainval", max_side=32)
        for i, sample in enumerate(dataset):
            assert sample.size == (24, 32)
            assert sample.mask.sum(dim=1).tolist() == [16] * 24
            assert sample.count == dataset.count_people(i)


class TestRgbd:
    def place(self, tmp_path):
        picture(tmp_path / "train_data" / "train_img" / "IMG_0007.png")
        return tmp_path / "train_data"

    def test_boxes_are_people_at_their_centres(self, tmp_path):
        place = self.place(tmp_path)
        boxes = np.array([[1, 2, 4, 8], [10, 20, 20, 40]], dtype=np.uint8)
        mat(place / "train_bbox_anno" / "BBOX_0007.mat", bbox=boxes)
        (sample,) = open_dataset("rgbd", tmp_path)
        assert sample.points.tolist() == [[2.5, 5], [15, 30]]

    def test_points_go_before_boxes(self, tmp_path):
        place = self.place(tmp_path)
        mat(place / "train_bbox_anno" / "BBOX_0007.mat", bbox=np.zeros((5, 4)))
        mat(place / "train_gt" / "GT_0007.mat", point=np.array([[3.0, 4.0]]))
        (sample,) = open_dataset("rgbd", tmp_path)
        assert sample.points.tolist() == [[3, 4]]

    @pytest.mark.parametrize("kind", ["gt", "depth"])
    def test_the_copy_that_is_written_as_shanghaitech_a(self, tmp_path, kind):
        place = self.place(tmp_path)
        (place / f"train_{kind}").mkdir()
        write_annotation(place / f"train_{kind}" / "DEPTH_0007.mat", [[5, 6], [7, 8]])
        (sample,) = open_dataset("rgbd", tmp_path)
        assert sample.points.tolist() == [[5, 6], [7, 8]]


class TestFolder:
    def image(self, folder, *names):
        for i, name in enumerate(names):
            picture(folder / name, seed=i)

    def points(self, folder, split="all", **options):
        dataset = open_dataset("folder", folder, split, **options)
        return {sample.name: sample.points.tolist() for sample in dataset}

    def test_one_table_in_any_order_and_case(self, tmp_path):
        self.image(tmp_path, "a.jpg", "b.PNG", "c.jpeg")
        text(
            tmp_path / "heads.csv",
            "Y,sex,Filename,X\r\n2,f,b.PNG,1\r\n4.5,m,a,3\r\n,,c.jpeg,\r\n6,f,b.PNG,5\r\n",
        )
        assert self.points(tmp_path) == {"a": [[3, 4.5]], "b": [[1, 2], [5, 6]], "c": []}

    def test_a_table_for_each_image(self, tmp_path):
        self.image(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
        text(tmp_path / "annotations" / "a.csv", "x,y\n1,2\n")
        text(tmp_path / "annotations" / "b.csv", "x,y\n")
        text(tmp_path / "annotations" / "c.json", json.dumps(coco({"c": [(3, 4)]})))
        assert self.points(tmp_path) == {"a": [[1, 2]], "b": [], "c": [[3, 4]]}

    @pytest.mark.parametrize("name", ["GT_a.mat", "a_ann.mat", "a.mat"])
    @pytest.mark.parametrize("field", ["annPoints", "point", "points", "location"])
    @pytest.mark.parametrize("place", ["", "gt", "ground-truth", "labels"])
    def test_mat_files_by_their_usual_names(self, tmp_path, name, field, place):
        self.image(tmp_path, "a.jpg")
        mat(tmp_path / place / name, **{field: np.array([[1.0, 2.0], [3.0, 4.0]])})
        assert self.points(tmp_path) == {"a": [[1, 2], [3, 4]]}

    def test_annotations_that_are_named(self, tmp_path):
        self.image(tmp_path, "a.jpg")
        text(tmp_path / "one.csv", "image,x,y\na.jpg,1,1\n")
        text(tmp_path / "two.csv", "image,x,y\na.jpg,2,2\n")
        text(tmp_path / "deep" / "er" / "a.csv", "x,y\n3,3\n")
        assert self.points(tmp_path, annotations="two.csv") == {"a": [[2, 2]]}
        assert self.points(tmp_path, annotations="deep/er") == {"a": [[3, 3]]}
        with pytest.raises(InputError, match=r"both one\.csv and two\.csv.*annotations="):
            self.points(tmp_path)
        with pytest.raises(MissingFileError, match=r"gone\.csv: no such file or folder of annot"):
            self.points(tmp_path, annotations="gone.csv")

    def test_its_subfolders_are_splits(self, tmp_path):
        for i, split in enumerate(("train", "test")):
            self.image(tmp_path / split, "a.jpg")
            text(tmp_path / split / "a.csv", f"x,y\n{i},{i}\n")
        assert self.points(tmp_path, "train") == {"a": [[0, 0]]}
        assert self.points(tmp_path, "test") == {"a": [[1, 1]]}
        with pytest.raises(InputError, match=r"no folder val, only \['train', 'test'\]"):
            self.points(tmp_path, "val")

    def test_without_subfolders_every_split_is_the_whole(self, tmp_path):
        self.image(tmp_path, "a.jpg")
        text(tmp_path / "a.csv", "x,y\n1,2\n")
        for split in ("train", "val", "test", "all"):
            dataset = open_dataset("folder", tmp_path, split)
            assert len(dataset) == 1
            assert describe(dataset)["split"] == "all"

    def test_photographs_are_turned_upright_unless_told_otherwise(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter, clockwise
        stored = noise((20, 30))
        tmp_path.joinpath("images").mkdir()
        Image.fromarray(stored).save(tmp_path / "images" / "a.png", exif=exif)
        text(tmp_path / "a.csv", "x,y\n19.5,0.5\n")
        (upright,) = open_dataset("folder", tmp_path)
        assert upright.size == (30, 20)
        # What was at the bottom left, is at the top left.
        assert upright.image[:, 0, 0].tolist() == stored[-1, 0].tolist()
        assert open_dataset("folder", tmp_path, upright=False)[0].size == (20, 30)


def test_published_data_sets_are_read_as_they_are_stored(tmp_path):
    """Their points were made on the pixels as stored, whatever a camera noted."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "Train" / "img_0001.jpg", (20, 30), exif=exif)
    mat(tmp_path / "Train" / "img_0001_ann.mat", annPoints=heads(3, (20, 30)))
    assert open_dataset("ucf_qnrf", tmp_path, short_side=None)[0].size == (20, 30)


class TestLayoutSpellings:
    @pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg"])
    def test_suffixes_in_any_case(self, tmp_path, suffix):
        picture(tmp_path / "Test" / f"img_0001{suffix}", format="JPEG")
        mat(tmp_path / "Test" / "img_0001_ann.mat", annPoints=heads(3))
        assert open_dataset("ucf_qnrf", tmp_path, "test", short_side=None)[0].count == 3
