"""Counting pictures: tiles add up to the whole, every form of a picture counts alike, and what
cannot be counted is refused."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import noise
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import hmode
from hmode import tiling
from hmode.data import normalise, open_dataset
from hmode.errors import InputError, MissingFileError
from hmode.models import build_model
from hmode.tiling import LEAST_TILE, MARGIN, cut, predict


def network(model="HMoDE", **config):
    """A random network whose maps vary as much as a trained one's."""
    torch.manual_seed(0)
    model = build_model({"model": model, "width": 0.0625, **config}).eval()
    for head in getattr(model, "heads", ()):
        nn.init.normal_(head[-2].weight, std=0.5)
        nn.init.constant_(head[-2].bias, 0.3)
    return model


def picture(height, width):
    """uint8 [3, H, W]: a crop of a synthetic crowd, which is no noise to a network."""
    size = tuple(max(64, side) for side in (height, width))
    crowd = open_dataset("synthetic", split="test", size=size)[0]
    return crowd.image[:, :height, :width]


@pytest.fixture(scope="module")
def hmoderel():
    return network()


class TestTiles:
    @pytest.mark.parametrize(
        ("config", "size"),
        [
            ({}, (290, 619)),
            ({"model": "Baseline"}, (385, 385)),
            ({"model": "CSRNet"}, (30, 5000)),
            ({"experts": 5}, (290, 619)),
            ({"experts": 4, "depth": 3}, (600, 250)),
            ({"gate1": "conv6", "attention": "conv9"}, (290, 619)),
            ({"local_head": True}, (290, 619)),
        ],
    )
    def test_tiles_are_the_whole(self, config, size):
        model, image = network(**config), picture(*size)
        tiles = cut(model, size, LEAST_TILE)
        assert len(tiles) > 1
        expected = predict(model, image, cut(model, size, 10**9))
        found = predict(model, image, tiles)
        assert found.count.item() == pytest.approx(expected.count.item(), rel=2e-4)
        assert (found.size, found.stride, found.scale) == (size, model.stride, model.scale)
        for tiled, one in zip(tiling.maps_of(found), tiling.maps_of(expected), strict=True):
            assert tiled.shape == one.shape
            if one.numel():
                limit = 3e-2 * (one.max() - one.min()) + 1e-5
                assert (tiled - one).abs().max() <= limit

    def test_upsampled_is_a_cut_of_the_whole_upsampled(self):
        """Rows 1 to 3 of 6, and columns 2 to 5 of 8, at 16 pixels each, upsampled four times."""
        x = torch.rand(1, 2, 6, 8)
        options = {"mode": "bilinear", "align_corners": True}
        expected = F.interpolate(x, scale_factor=4, **options)
        with tiling._AsInTheWhole((16, 32), (32, 64), (96, 128)):
            cut_first = F.interpolate(x[..., 1:3, 2:6], size=(8, 16), **options)
            other = F.interpolate(x, scale_factor=2, mode="bilinear")
        inner = (..., slice(1, -4), slice(1, -4))  # its own borders lack a neighbour
        torch.testing.assert_close(cut_first[inner], expected[..., 4:12, 8:24][inner])
        assert torch.equal(other, F.interpolate(x, scale_factor=2, mode="bilinear"))

    @given(
        side=st.integers(1, 3000),
        longest=st.integers(3 * MARGIN, 3000),
        step=st.sampled_from([8, 16]),
    )
    def test_spans_cover_a_side_once(self, side, longest, step):
        spans = tiling._spans(side, longest, step)
        assert [span.first for span in spans] == [0, *(span.last for span in spans[:-1])]
        assert spans[-1].last == side
        for span in spans:
            assert span.start % step == span.first % step == 0
            assert span.first < span.last
            assert span.stop - span.start <= longest
            assert span.start <= max(0, span.first - MARGIN)
            assert span.stop >= min(side, span.last + MARGIN)
            assert 0 <= span.start < span.stop <= side

    @given(
        height=st.integers(1, 5000), width=st.integers(1, 5000), most=st.integers(LEAST_TILE, 10**6)
    )
    def test_tiles_keep_to_the_limit(self, hmoderel, height, width, most):
        tiles = cut(hmoderel, (height, width), most)
        for rows, columns in tiles:
            assert (rows.stop - rows.start) * (columns.stop - columns.start) <= most
        kept = sum((r.last - r.first) * (c.last - c.first) for r, c in tiles)
        assert kept == height * width
        assert (len(tiles) == 1) == (height * width <= most)


@pytest.mark.parametrize("size", [(1, 1), (10, 3000), (31, 32)])
def test_small_pictures_are_padded_with_the_mean_colour(hmoderel, size):
    """By hand: zeros in what the network sees, and cells count only pixels of the picture."""
    image = torch.from_numpy(noise(size)).permute(2, 0, 1)
    height, width = size
    padding = (0, max(0, 32 - width), 0, max(0, 32 - height))
    with torch.no_grad():
        full = hmoderel(F.pad(normalise(image), padding)[None]).full_size()[0, 0]
    counted = hmode.count(image, hmoderel)
    assert counted.count == pytest.approx(full[:height, :width].double().sum().item(), rel=1e-4)
    assert counted.full_size().shape == size


class TestCount:
    @pytest.mark.parametrize("name", ["HMoDE", "CSRNet"])
    def test_it_is_what_the_network_says(self, name):
        model, image = network(name), picture(70, 101)
        with torch.no_grad():
            prediction = model(normalise(image)[None])
        state = {name: value.clone() for name, value in model.state_dict().items()}
        counted = hmode.count(image, model.train())
        assert model.training
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
        assert counted.count == pytest.approx(prediction.count.item(), rel=1e-5)
        assert counted.size == counted.picture == (70, 101)
        experts = prediction.counts(prediction.experts)[0].tolist()
        assert counted.experts == pytest.approx(experts, rel=1e-5)
        torch.testing.assert_close(counted.density, prediction.density[0, 0] / prediction.scale)
        for found, expected in zip(
            tiling.maps_of(counted.prediction), tiling.maps_of(prediction), strict=True
        ):
            torch.testing.assert_close(found, expected)
        assert counted.full_size().double().sum().item() == pytest.approx(counted.count, rel=1e-5)

    def test_every_form_of_a_picture_counts_alike(self, hmoderel, tmp_path):
        image = picture(70, 101)
        array = image.permute(1, 2, 0).numpy()
        turned, exif = tmp_path / "turned.png", Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.rot90(array)).save(turned, exif=exif)
        forms = [turned, str(turned), Image.fromarray(array).convert("RGBA"), array / 255]
        expected = hmode.count(image, hmoderel).count
        assert {hmode.count(form, hmoderel).count for form in forms} == {expected}


@pytest.fixture(scope="module")
def counted(hmoderel):
    return hmode.count(picture(70, 101), hmoderel)


class TestWithin:
    def test_all_of_it(self, counted):
        for box in ((0, 0, 101, 70), (-5, -9, 1000, 1000), (-math.inf, 0, math.inf, math.inf)):
            assert counted.within(*box) == counted.count

    def test_a_rectangle_is_the_sum_of_its_pixels(self, counted):
        full = counted.full_size().double()
        for left, top, right, bottom in ((0, 0, 8, 4), (13, 7, 60, 69), (99, 68, 101, 70)):
            expected = full[top:bottom, left:right].sum().item()
            assert counted.within(left, top, right, bottom) == pytest.approx(expected, rel=1e-5)
        parts = counted.within(0, 0, 33.7, 70), counted.within(33.7, 0, 101, 70)
        assert sum(parts) == pytest.approx(counted.count)

    @pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 5, 5, 9), (101, 0, 200, 70), (-9, -9, 0, 0)])
    def test_nobody_is_outside(self, counted, box):
        assert counted.within(*box) == 0


class TestMemory:
    def test_too_little_is_refused_and_what_it_takes_gives_the_same_count(self, hmoderel):
        image = picture(600, 500)
        with pytest.raises(InputError, match=r"^image: .*500 x 600 .*found 0.5 GiB") as error:
            hmode.count(image, hmoderel, max_memory=0.5)
        takes = float(str(error.value).split("takes ")[1].split(" GiB")[0])
        least = hmode.count(image, hmoderel, max_memory=takes).count
        assert least == pytest.approx(hmode.count(image, hmoderel).count, rel=2e-4)

    @pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
    def test_no_number_of_gib(self, hmoderel, value):
        with pytest.raises(InputError, match="max_memory is"):
            hmode.count(picture(64, 64), hmoderel, max_memory=value)

    @pytest.mark.parametrize("gating", ["image", "channel"])
    def test_gates_of_the_whole_image_are_not_cut(self, gating):
        model, image = network(gating=gating), picture(400, 400)
        with torch.no_grad():
            expected = model(normalise(image)[None]).count.item()
        assert hmode.count(image, model).count == pytest.approx(expected, rel=1e-5)
        with pytest.raises(InputError, match=r"crowd\.jpg: .*at once, .*max_memory"):
            hmode.count(image, model, name="crowd.jpg", max_memory=0.82)

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform != "linux", reason="measures as Linux does")
    def test_a_large_picture_keeps_to_the_limit(self, tmp_path, fresh_interpreter_environment):
        """5 megapixels, which at once would take more."""
        path = tmp_path / "large.jpg"
        Image.fromarray(noise((2200, 2200))).save(path)
        code = (
            "import sys, hmode; from hmode.models import build_model;"
            "model = build_model({'model': 'HMoDE', 'width': 0.0625});"
            "hmode.count(sys.argv[1], model, max_memory=1.1);"
            # Unlike ru_maxrss, this peak does not begin with that of the process it came from.
            "status = open('/proc/self/status').read();"
            "print(int(status.split('VmHWM:')[1].split()[0]) / 2**20)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env=fresh_interpreter_environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert float(done.stdout) < 1.1


class TestRefusals:
    def test_a_file_is_named(self, hmoderel, tmp_path):
        path = tmp_path / "text.jpg"
        path.write_text("hello")
        with pytest.raises(InputError, match=r"text\.jpg: not a readable image"):
            hmode.count(path, hmoderel)
        with pytest.raises(MissingFileError, match=r"gone\.jpg: no such file"):
            hmode.count(str(tmp_path / "gone.jpg"), hmoderel)

    @pytest.mark.parametrize("model", ["runs/quick", nn.Conv2d(3, 1, 1), None])
    def test_what_is_no_network(self, model):
        with pytest.raises(InputError, match=r"model is of type .*hmode\.load_run"):
            hmode.count(picture(64, 64), model)

    def test_weights_that_are_no_numbers(self):
        model = network()
        nn.init.constant_(model.heads[0][-2].bias, math.nan)
        with pytest.raises(InputError, match="the network counts nan people"):
            hmode.count(picture(64, 64), model)
