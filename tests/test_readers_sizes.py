"""Images and their points, scaled together to the limits of size."""

import numpy as np
import pytest
from conftest import noise
from hypothesis import assume, given
from hypothesis import strategies as st
from layouts import mat, picture, text, trancos
from PIL import Image

from hmode.data import open_dataset
from hmode.data.annotated import doubts, fitted_size, inside_frame, scale_points
from hmode.data.source import Annotation
from hmode.errors import InputError

sides = st.integers(1, 5000)


def folder(root, size=(48, 64), points=((1.0, 2.0),), **options):
    """One image of (height, width) pixels with its points."""
    picture(root / "a.png", size)
    text(root / "a.csv", "x,y\n" + "".join(f"{x},{y}\n" for x, y in points))
    return open_dataset("folder", root, "all", **options)


class TestFittedSize:
    @pytest.mark.parametrize(
        ("size", "max_side", "short_side", "fitted"),
        [
            ((640, 480), None, None, (640, 480)),
            ((640, 480), 320, None, (320, 240)),
            ((480, 640), 320, None, (240, 320)),
            ((640, 480), 640, None, (640, 480)),  # never up
            ((640, 480), None, (512, 2048), (683, 512)),
            ((4000, 3000), None, (512, 2048), (2731, 2048)),
            ((3000, 1000), None, (512, 2048), (3000, 1000)),
            ((4000, 3000), None, (512, None), (4000, 3000)),
            ((64, 48), None, (None, 2048), (64, 48)),
            ((640, 480), 320, (512, 2048), (320, 240)),  # max_side has the last word
            ((3000, 10), 60, None, (60, 1)),
            ((1, 1), None, (512, 2048), (512, 512)),
        ],
    )
    def test_by_hand(self, size, max_side, short_side, fitted):
        assert fitted_size(size, max_side, short_side) == fitted

    @given(size=st.tuples(sides, sides), max_side=sides, least=sides, more=sides)
    def test_the_limits_are_kept_and_so_is_the_shape(self, size, max_side, least, more):
        fitted = fitted_size(size, max_side, (least, least + more))
        assert max(fitted) <= max_side
        assert min(fitted) <= max(least + more, 1)
        if max(fitted) < max_side:
            assert min(fitted) >= min(least, min(size))
        scale = max(fitted) / max(size)
        for side, before in zip(fitted, size, strict=True):
            assert abs(side - scale * before) <= 1 + 0.5 * before / max(size)


class TestPoints:
    @given(
        size=st.tuples(sides, sides),
        fitted=st.tuples(sides, sides),
        share=st.tuples(st.floats(-2, 3, width=32), st.floats(-2, 3, width=32)),
    )
    def test_who_is_inside_stays_inside_and_who_is_outside_outside(self, size, fitted, share):
        assume(all(each == 0 or abs(each) > 1e-6 for each in share))
        points = np.array([share], dtype=np.float32) * np.array(size, dtype=np.float32)
        scaled = scale_points(points, size, fitted)
        assert scaled.dtype == np.float32
        np.testing.assert_array_equal(inside_frame(scaled, fitted), inside_frame(points, size))
        expected = points.astype(float) * fitted / size
        np.testing.assert_allclose(scaled, expected, rtol=1e-6)

    @pytest.mark.parametrize(
        ("options", "size"), [({"max_side": 32}, (16, 32)), ({"short_side": (96, None)}, (96, 192))]
    )
    def test_a_white_square_stays_around_its_head(self, tmp_path, options, size):
        pixels = np.zeros((48, 96, 3), np.uint8)
        pixels[12:24, 60:84] = 255
        Image.fromarray(pixels).save(tmp_path / "a.png")
        text(tmp_path / "a.csv", "x,y\n72,18\n")
        (sample,) = open_dataset("folder", tmp_path, "all", **options)
        assert sample.size == size
        rows, columns = (sample.image[0] > 127).nonzero().T
        middle = (columns.float().mean() + 0.5, rows.float().mean() + 0.5)
        assert sample.points[0].tolist() == pytest.approx([float(m) for m in middle], abs=0.5)


class TestCustomaryLimits:
    def write_qnrf(self, root, size):
        picture(root / "Train" / "img_0001.jpg", size)
        mat(root / "Train" / "img_0001_ann.mat", annPoints=np.array([[10.0, 20.0]]))

    def write_jhu(self, root, size):
        picture(root / "train" / "images" / "0001.jpg", size)
        text(root / "train" / "gt" / "0001.txt", "10 20 3 4 1 0\n")

    def write_nwpu(self, root, size):
        picture(root / "images" / "0001.jpg", size)
        mat(root / "mats" / "0001.mat", annPoints=np.array([[10.0, 20.0]]))
        text(root / "train.txt", "0001 0 0\n")

    def test_qnrf_brings_the_shorter_side_to_512_at_least(self, tmp_path):
        self.write_qnrf(tmp_path, (128, 256))
        (sample,) = open_dataset("ucf_qnrf", tmp_path)
        assert sample.size == (512, 1024)
        assert sample.points.tolist() == [[40, 80]]
        (sample,) = open_dataset("ucf_qnrf", tmp_path, short_side=None)
        assert sample.size == (128, 256)
        assert sample.points.tolist() == [[10, 20]]

    @pytest.mark.parametrize("name", ["jhu", "nwpu"])
    def test_jhu_and_nwpu_bring_the_longer_side_to_2048_at_most(self, tmp_path, name):
        {"jhu": self.write_jhu, "nwpu": self.write_nwpu}[name](tmp_path, (40, 4096))
        (sample,) = open_dataset(name, tmp_path)
        assert sample.size == (20, 2048)
        assert sample.points.tolist() == [[5, 10]]
        assert open_dataset(name, tmp_path, max_side=None)[0].size == (40, 4096)
        assert open_dataset(name, tmp_path, max_side=1024)[0].size == (10, 1024)


class TestUnusualSizes:
    def test_a_narrow_image_is_not_enlarged_beyond_memory(self, tmp_path):
        """At 1 x 4,000 pixels, a shorter side of 512 would take a billion pixels."""
        dataset = folder(tmp_path, (1, 4000), [(0.5, 0.5)], short_side=(512, 2048))
        with pytest.raises(
            InputError, match=r"a\.png: 4000 x 1 pixels would be enlarged.*max_side"
        ):
            dataset[0]
        dataset = folder(tmp_path, (1, 4000), [(0.5, 0.5)], short_side=(512, 2048), max_side=4096)
        assert dataset[0].size == (1, 4096)

    @pytest.mark.parametrize("side", [0, -3, 2.5, "512", True])
    def test_limits_that_are_none(self, tmp_path, side):
        with pytest.raises(InputError, match="max_side is"):
            folder(tmp_path, max_side=side)

    @pytest.mark.parametrize("sides", [512, (512,), (0, 5), (20, 10), (None, "a"), "ab", (1, 2, 3)])
    def test_a_range_that_is_none(self, tmp_path, sides):
        with pytest.raises(InputError, match="short_side is"):
            folder(tmp_path, short_side=sides)


class TestMisplaced:
    size = (640, 480)

    def test_few_points_outside_are_nothing_to_speak_of(self):
        points = np.array([[1, 1], [2, 2], [-358.7, 5], [700, 5]], dtype=np.float32)
        assert doubts(Annotation(points), self.size) == []
        assert doubts(Annotation(np.zeros((0, 2), np.float32)), self.size) == []

    def test_swapped_coordinates_are_named(self):
        points = np.array([[100, 500], [400, 600], [10, 20]], dtype=np.float32)
        assert "2 of 3 points lie outside" in doubts(Annotation(points), self.size)[0]
        assert "(y, x)" in doubts(Annotation(points), self.size)[0]

    def test_reading_warns_and_names_the_file(self, tmp_path):
        dataset = folder(tmp_path, (480, 640), [(100, 500), (400, 600)])
        with pytest.warns(UserWarning, match=r"a\.csv: a: 2 of 2 points lie outside.*\(y, x\)"):
            sample = dataset[0]
        assert sample.points.tolist() == [[100, 500], [400, 600]]  # as they stand in the file


def test_a_mask_of_another_size_than_its_image(tmp_path):

    data = trancos(tmp_path)
    mat(tmp_path / "TRANCOS_v3" / "images" / "image-3-000001mask.mat", BW=np.ones((4, 5)))
    with pytest.raises(
        InputError, match=r"mask\.mat: the mask has 5 x 4 pixels, its image 64 x 48"
    ):
        open_dataset("trancos", data.root, "test")[0]


def test_lanczos_is_what_scales(tmp_path):
    """The same pixels as Pillow's own, so that other tools can make the same."""
    Image.fromarray(noise((50, 70))).save(tmp_path / "a.png")
    text(tmp_path / "a.csv", "x,y\n")
    (sample,) = open_dataset("folder", tmp_path, "all", max_side=35)
    expected = Image.fromarray(noise((50, 70))).resize((35, 25), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(sample.image.permute(1, 2, 0), expected)
