"""Reading ShanghaiTech in every layout it is found in, and saying what is wrong with the rest."""

import numpy as np
import pytest
import torch
from conftest import noise, write_annotation, write_shanghaitech, write_split
from PIL import Image
from scipy.io import savemat

from hmode.data import open_dataset
from hmode.data.mat import read_mat_points
from hmode.data.pictures import read_image
from hmode.errors import InputError, MissingFileError

POINTS = [[1.5, 2.25], [30.0, 4.0], [1.5, 2.25], [-3.0, 70.0]]


def sha(root, split="train", **options):
    return open_dataset("sha", root, split, **options)


def read_points(path):
    return read_mat_points(path, "image_info")


def split_of(tmp_path, images=None, part="part_A", split="train", **options):
    """A split's folder with the given images, and the function that reads it."""
    images = images or {1: (noise(), POINTS)}
    return write_split(tmp_path / part / f"{split}_data", images, **options)


class TestContent:
    def test_pixels_and_points_are_as_in_the_files(self, tmp_path):
        folder = split_of(tmp_path, {3: (noise((40, 70)), POINTS)})
        (sample,) = sha(tmp_path)
        with Image.open(folder / "images" / "IMG_3.jpg") as picture:
            pixels = np.asarray(picture)
        assert torch.equal(sample.image, torch.from_numpy(pixels.copy()).permute(2, 0, 1))
        assert sample.size == (40, 70)
        assert sample.points.tolist() == POINTS  # duplicates and people outside are kept, in order
        assert sample.points.dtype == torch.float32
        assert sample.name == "IMG_3"

    def test_a_grey_photograph_becomes_rgb(self, tmp_path):
        split_of(tmp_path, {1: (noise(channels=1), POINTS)})
        (sample,) = sha(tmp_path)
        assert sample.image.shape == (3, 64, 64)
        assert torch.equal(sample.image[0], sample.image[1])
        assert torch.equal(sample.image[0], sample.image[2])

    def test_an_empty_annotation_is_a_place_without_people(self, tmp_path):
        for points in (np.zeros((0, 2)), np.zeros((0, 0))):
            folder = split_of(tmp_path)
            write_annotation(folder / "ground-truth" / "GT_IMG_1.mat", points)
            (sample,) = sha(tmp_path)
            assert sample.points.shape == (0, 2)
            assert sample.count == 0

    def test_one_person_is_one_row(self, tmp_path):
        write_annotation(tmp_path / "one.mat", [[5.5, 7.25]])
        assert read_points(tmp_path / "one.mat").tolist() == [[5.5, 7.25]]

    def test_images_come_in_natural_order(self, tmp_path):
        numbers = [10, 9, 100, 1, 2, 21]
        split_of(tmp_path, {n: (noise((32, 32)), np.full((n, 2), 5.0)) for n in numbers})
        samples = list(sha(tmp_path))
        assert [sample.name for sample in samples] == [f"IMG_{n}" for n in sorted(numbers)]
        assert [sample.count for sample in samples] == sorted(numbers)

    def test_count_people_agrees_and_decodes_no_image(self, tmp_path):
        folder = split_of(tmp_path, {n: (noise(), np.ones((n, 2))) for n in (1, 2, 3)})
        dataset = sha(tmp_path)
        assert [dataset.count_people(i) for i in range(3)] == [s.count for s in dataset]
        for path in (folder / "images").iterdir():
            path.write_bytes(b"")
        assert [dataset.count_people(i) for i in range(3)] == [1, 2, 3]


class TestMaxSide:
    @pytest.mark.parametrize("size", [(90, 240), (240, 90), (121, 121)])
    def test_points_scale_with_the_image(self, tmp_path, size):
        """A white square around a head is still around it after scaling."""
        height, width = size
        pixels = np.zeros((height, width, 3), np.uint8)
        centre = (0.7 * width, 0.3 * height)
        left, top = round(centre[0]) - 8, round(centre[1]) - 8
        pixels[top : top + 16, left : left + 16] = 255
        split_of(tmp_path, {1: (pixels, [[left + 8, top + 8]])})
        (sample,) = sha(tmp_path, max_side=80)
        assert max(sample.size) == 80
        factor = 80 / max(size)
        assert sample.size == pytest.approx((height * factor, width * factor), abs=0.5)
        bright = (sample.image[0] > 127).nonzero().float() + 0.5
        middle = bright.mean(dim=0)
        x, y = sample.points[0].tolist()
        assert (y, x) == pytest.approx(middle.tolist(), abs=0.6)

    def test_an_image_that_fits_is_left_as_it_is(self, tmp_path):
        split_of(tmp_path)
        (plain,) = sha(tmp_path)
        for side in (64, 65, 10_000):
            (sample,) = sha(tmp_path, max_side=side)
            assert torch.equal(sample.image, plain.image)
            assert torch.equal(sample.points, plain.points)

    @pytest.mark.parametrize("side", [0, -5])
    def test_a_side_that_is_not_positive(self, tmp_path, side):
        split_of(tmp_path)
        with pytest.raises(InputError, match=f"max_side is {side}"):
            sha(tmp_path, max_side=side)


class TestLayout:
    @pytest.mark.parametrize("truth", ["ground-truth", "ground_truth"])
    @pytest.mark.parametrize("part", ["part_A", "part_A_final"])
    @pytest.mark.parametrize("above", ["", "ShanghaiTech"])
    def test_every_spelling_is_found(self, tmp_path, truth, part, above):
        for split, people in (("train", 2), ("test", 3)):
            folder = tmp_path / above / part / f"{split}_data"
            write_split(folder, {1: (noise(), np.ones((people, 2)))}, truth)
        for root in (tmp_path, tmp_path / above, tmp_path / above / part):
            assert [s.count for s in sha(root)] == [2]
            assert [s.count for s in sha(str(root), "test")] == [3]

    def test_parts_are_kept_apart(self, tmp_path):
        split_of(tmp_path, {1: (noise(), np.ones((2, 2)))}, "part_A")
        split_of(tmp_path, {1: (noise(), np.ones((7, 2)))}, "part_B")
        assert sha(tmp_path)[0].count == 2
        assert open_dataset("shb", tmp_path)[0].count == 7

    def test_no_such_folder_says_how_to_name_one(self, tmp_path):
        with pytest.raises(MissingFileError) as error:
            sha(tmp_path / "nowhere")
        assert str(tmp_path / "nowhere") in str(error.value)
        assert "--data-root" in str(error.value)
        assert "HMODE_DATA" in str(error.value)

    def test_a_folder_without_the_part_says_what_is_there_and_what_should_be(self, tmp_path):
        (tmp_path / "part_Z").mkdir()
        with pytest.raises(MissingFileError) as error:
            sha(tmp_path)
        message = str(error.value)
        assert str(tmp_path) in message
        assert "part_Z" in message
        assert "images/IMG_<n>.jpg" in message

    def test_a_part_without_the_split(self, tmp_path):
        split_of(tmp_path)
        with pytest.raises(
            MissingFileError, match=r"test_data.images: no such folder; expected part_X"
        ):
            sha(tmp_path, "test")

    def test_a_missing_annotation_is_named(self, tmp_path):
        folder = split_of(tmp_path, {n: (noise(), POINTS) for n in (1, 2, 3)})
        (folder / "ground-truth" / "GT_IMG_2.mat").unlink()
        with pytest.raises(
            MissingFileError, match=r"ground-truth/GT_IMG_2\.mat: not there; expected"
        ):
            sha(tmp_path)

    def test_no_folder_of_annotations(self, tmp_path):
        folder = split_of(tmp_path)
        (folder / "ground-truth").rename(folder / "annotations")
        with pytest.raises(MissingFileError, match=r"neither ground-truth nor ground_truth"):
            sha(tmp_path)

    def test_an_unknown_split(self, tmp_path):
        split_of(tmp_path)
        with pytest.raises(InputError, match=r"split is 'val', expected one of .*train.*test"):
            sha(tmp_path, "val")


class TestDamagedFiles:
    def damage(self, tmp_path, content):
        folder = split_of(tmp_path)
        path = folder / "images" / "IMG_1.jpg"
        path.write_bytes(content(path.read_bytes()))
        with pytest.raises(InputError) as error:
            sha(tmp_path)[0]
        assert "IMG_1.jpg: not a readable image" in str(error.value)

    def test_a_truncated_photograph(self, tmp_path):
        self.damage(tmp_path, lambda data: data[: len(data) // 2])

    def test_a_text_file_named_jpg(self, tmp_path):
        self.damage(tmp_path, lambda data: b"<html>404: not found</html>")

    def test_an_empty_file(self, tmp_path):
        self.damage(tmp_path, lambda data: b"")

    def test_a_header_and_nothing_else(self, tmp_path):
        self.damage(tmp_path, lambda data: data[:20])

    def test_an_image_that_is_not_there(self, tmp_path):
        with pytest.raises(InputError, match=r"gone\.jpg"):
            read_image(tmp_path / "gone.jpg")

    @pytest.mark.parametrize(
        "content", [b"", b"garbage", b"MATLAB 5.0 MAT-file" + bytes(200), bytes(range(256)) * 4]
    )
    def test_a_damaged_annotation(self, tmp_path, content):
        path = tmp_path / "GT_IMG_1.mat"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"GT_IMG_1\.mat"):
            read_points(path)

    def test_a_truncated_annotation(self, tmp_path):
        path = tmp_path / "GT_IMG_1.mat"
        write_annotation(path, np.ones((50, 2)))
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(InputError, match=r"GT_IMG_1\.mat"):
            read_points(path)

    def test_an_annotation_of_another_data_set_says_what_it_holds(self, tmp_path):
        path = tmp_path / "GT_IMG_1.mat"
        savemat(path, {"annPoints": np.ones((3, 2))})
        with pytest.raises(InputError) as error:
            read_points(path)
        assert "GT_IMG_1.mat" in str(error.value)
        assert "image_info" in str(error.value)
        assert "annPoints" in str(error.value)

    @pytest.mark.parametrize("content", [np.ones((3, 2)), "text", {"number": 3}])
    def test_an_image_info_of_another_kind(self, tmp_path, content):
        path = tmp_path / "GT_IMG_1.mat"
        savemat(path, {"image_info": content})
        with pytest.raises(InputError, match=r"GT_IMG_1\.mat: expected image_info"):
            read_points(path)

    @pytest.mark.parametrize("shape", [(2, 3), (4, 3), (3, 1), (1, 4)])
    def test_coordinates_in_another_shape_are_not_reshuffled(self, tmp_path, shape):
        path = tmp_path / "GT_IMG_1.mat"
        write_annotation(path, np.ones(shape))
        with pytest.raises(InputError, match=r"GT_IMG_1\.mat.*shape"):
            read_points(path)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_coordinate_that_is_not_finite(self, tmp_path, bad):
        folder = split_of(tmp_path, {1: (noise(), [[1, 2], [bad, 3]])})
        with pytest.raises(InputError, match=r"GT_IMG_1\.mat.*not finite"):
            sha(tmp_path)[0]
        assert (folder / "images" / "IMG_1.jpg").is_file()


class TestRoot:
    def test_the_environment_variable_names_the_data(self, tmp_path, monkeypatch):
        write_shanghaitech(tmp_path / "mine", train=2)
        monkeypatch.setenv("HMODE_DATA", str(tmp_path / "mine"))
        assert len(open_dataset("sha")) == 2

    def test_without_it_the_data_lie_in_the_folder_data(self, tmp_path, monkeypatch):
        write_shanghaitech(tmp_path / "data", train=2)
        monkeypatch.delenv("HMODE_DATA", raising=False)
        monkeypatch.chdir(tmp_path)
        assert len(open_dataset("sha")) == 2

    def test_an_explicit_root_goes_before_it(self, tmp_path, monkeypatch):
        write_shanghaitech(tmp_path / "mine", train=2)
        write_shanghaitech(tmp_path / "other", train=3)
        monkeypatch.setenv("HMODE_DATA", str(tmp_path / "other"))
        assert len(open_dataset("sha", tmp_path / "mine")) == 2
