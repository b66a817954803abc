import hashlib
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hmode.data import synthetic
from hmode.data.camera import HEAD_HEIGHT, Camera
from hmode.data.synthetic import LENGTHS, SyntheticCrowd
from hmode.errors import InputError
from hmode.method.image import CrowdImage


def digest(sample: CrowdImage) -> str:
    parts = (sample.image, sample.points, sample.perspective)
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


def scene_of(index, size=(128, 128), seed=0):
    """The scene and people of an image of the training set."""
    return synthetic.sample_crowd(np.random.default_rng([seed, 0, index]), size)


@pytest.fixture(scope="module")
def counts():
    """Counts of the first 120 training images, without rendering them."""
    found = []
    for index in range(120):
        scene, people = scene_of(index, (256, 256))
        found.append(int(synthetic.annotate(scene.camera, people)[1].sum()))
    return np.array(found)


class TestDeterminism:
    def test_order_and_instance_change_nothing(self):
        first, second = SyntheticCrowd(size=96), SyntheticCrowd(size=96)
        forward = [digest(first[i]) for i in range(4)]
        assert [digest(second[i]) for i in (3, 2, 1, 0)] == forward[::-1]
        assert digest(pickle.loads(pickle.dumps(first))[2]) == forward[2]

    def test_another_process_draws_the_same(self):
        code = (
            "import hashlib\n"
            "from hmode.data.synthetic import SyntheticCrowd\n"
            "data = SyntheticCrowd(split='val', seed=7, size=(80, 112))\n"
            "for i in (1, 0): print(hashlib.sha256(data[i].image.numpy().tobytes()).hexdigest())"
        )
        path = os.pathsep.join(entry or os.getcwd() for entry in [os.getcwd(), *sys.path])
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "5"},
            capture_output=True,
            text=True,
            check=True,
        )
        here = SyntheticCrowd(split="val", seed=7, size=(80, 112))
        expected = [hashlib.sha256(here[i].image.numpy().tobytes()).hexdigest() for i in (1, 0)]
        assert run.stdout.split() == expected

    def test_splits_seeds_and_indices_differ(self):
        images = [
            digest(SyntheticCrowd(split=split, seed=seed, size=64)[i])
            for split in LENGTHS
            for seed in (0, 1)
            for i in range(3)
        ]
        assert len(set(images)) == len(images)

    @pytest.mark.parametrize(
        ("split", "size", "index", "count", "colour", "place", "scale"),
        [
            ("train", 256, 0, 83, 104.956131, 145.067912, 23.065910),
            ("train", 128, 7, 66, 96.485352, 52.622657, 30.684871),
            ("val", (80, 112), 3, 131, 72.936049, 52.672850, 9.255452),
            ("test", 256, 16, 567, 53.270752, 126.781643, 22.488669),
        ],
    )
    def test_stored_results_are_of_these_images(
        self, split, size, index, count, colour, place, scale
    ):
        """Means of red, of x and of the map, which one draw more or less would change; no hash, as
        the last bit is the processor's."""
        sample = SyntheticCrowd(split=split, size=size)[index]
        assert sample.count == count
        assert float(sample.image[0].double().mean()) == pytest.approx(colour, abs=1e-3)
        assert float(sample.points[:, 0].double().mean()) == pytest.approx(place, abs=1e-3)
        assert float(sample.perspective.double().mean()) == pytest.approx(scale, abs=1e-4)


class TestSequence:
    def test_negative_indices_and_slices(self):
        data = SyntheticCrowd(size=64, length=5)
        assert digest(data[-1]) == digest(data[np.int64(4)])
        assert [sample.name for sample in data[1:4:2]] == [
            "synthetic-train-0001",
            "synthetic-train-0003",
        ]
        assert len(list(data)) == 5

    def test_describe_is_json(self):
        found = SyntheticCrowd(split="test", seed=np.int64(4), length=9, size=(64, 80)).describe()
        assert json.loads(json.dumps(found)) == {
            "name": "synthetic",
            "split": "test",
            "seed": 4,
            "length": 9,
            "size": [64, 80],
        }

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"split": "training"}, "split is 'training', expected one of train, val, test"),
            ({"split": ["train"]}, "split is"),
            ({"seed": -1}, "seed is -1, expected at least 0"),
            ({"seed": 1.5}, "seed is 1.5, expected an integer"),
            ({"seed": True}, "seed is True, expected an integer"),
            ({"length": 0}, "length is 0, expected at least 1"),
            ({"length": "9"}, "length is '9', expected an integer"),
            ({"size": 63}, "size is 63, expected at least 64"),
            ({"size": (64, 10)}, "size is 10, expected at least 64"),
            ({"size": (64, 64, 3)}, "size is .*expected an integer or"),
            ({"size": None}, "size is None"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(InputError, match=message):
            SyntheticCrowd(**arguments)


@settings(max_examples=25, deadline=None)
@given(
    split=st.sampled_from(list(LENGTHS)),
    seed=st.integers(0, 2**64),
    index=st.integers(0, 999),
    size=st.tuples(st.integers(64, 200), st.integers(64, 200)),
)
def test_any_image_is_well_formed(split, seed, index, size):
    sample = SyntheticCrowd(split=split, seed=seed, length=1000, size=size)[index]
    assert sample.image.dtype == torch.uint8
    assert sample.image.shape == (3, *size)
    assert sample.image.float().std() > 3
    assert sample.image.is_contiguous()
    assert sample.name == f"synthetic-{split}-{index:04d}"
    assert sample.mask is None
    assert sample.count >= 1
    assert sample.points.dtype == torch.float32
    assert (sample.points >= 0).all()
    assert (sample.points < torch.tensor([size[1], size[0]])).all()
    scale = sample.perspective
    assert scale.dtype == torch.float32
    assert scale.shape == size
    assert (scale > 0).all()
    assert (scale[1:] >= scale[:-1]).all()
    assert (scale == scale[:, :1]).all()


class TestCrowd:
    def test_counts_are_heavy_tailed(self, counts):
        assert 1 <= counts.min() < 15
        assert counts.max() > 300
        assert 30 < np.median(counts) < 150
        assert counts.mean() > 1.2 * np.median(counts)

    def test_heads_come_in_all_sizes(self):
        sizes = []
        for index in range(40):
            scene, people = scene_of(index, (256, 256))
            inside = synthetic.annotate(scene.camera, people)[1]
            _, scale = scene.camera.project(people.ground[inside], HEAD_HEIGHT)
            sizes.append(0.22 * scale)
        together = np.concatenate(sizes)
        assert 2.5 < together.min() < 4
        assert 18 < together.max() < 40
        assert np.median([head.max() / head.min() for head in sizes]) > 2


class TestCamera:
    def test_a_metre_spans_the_perspective(self):
        """A bar of 1 m at the height of a head covers as many pixels as the map says there."""
        for index in range(20):
            scene, people = scene_of(index)
            camera, half = scene.camera, np.array([0.5, 0.0])
            middle, _ = camera.project(people.ground, HEAD_HEIGHT)
            left, _ = camera.project(people.ground - half, HEAD_HEIGHT)
            right, _ = camera.project(people.ground + half, HEAD_HEIGHT)
            span = np.hypot(*(right - left).T)
            seen = (middle[:, 1] >= 0) & (middle[:, 1] <= camera.size[0] - 1)
            rows = np.arange(camera.size[0]) + 0.5
            expected = np.interp(middle[:, 1], rows, camera.perspective()[:, 0])
            assert np.allclose(span[seen], expected[seen], rtol=0.04)

    def test_it_agrees_with_a_rotation_matrix(self):
        camera = Camera(200.0, 0.4, 5.0, (100, 120), (60.0, 50.0), 40.0)
        down = np.array([0, -np.sin(0.4), -np.cos(0.4)])
        ahead = np.array([0, np.cos(0.4), -np.sin(0.4)])
        point = np.array([1.5, 9.0, 1.2])
        ray = point - (0, 0, 5.0)
        expected = 200 * np.array([ray[0], ray @ down]) / (ray @ ahead) + (60, 50)
        pixel, scale = camera.project(point[:2], point[2])
        assert np.allclose(pixel, expected)
        assert np.isclose(scale, 200 / (ray @ ahead))
        assert np.isclose(camera.scale_at(pixel[1], 1.2), scale)
        assert np.isclose(camera.at_depth(ray @ ahead, 1.2), 9.0)


class TestRender:
    @pytest.mark.parametrize("index", [0, 1, 4, 5])
    def test_people_are_drawn_where_the_points_are(self, index):
        scene, people = scene_of(index, (256, 256))
        nobody = synthetic.dress(np.random.default_rng(0), np.empty((0, 2)), np.empty(0))
        change = np.abs(
            synthetic.render(scene, people).astype(int) - synthetic.render(scene, nobody)
        ).max(axis=2)
        points, inside = synthetic.annotate(scene.camera, people)
        x, y = points[inside].astype(int).T
        assert np.mean(change[y, x] > 12) > 0.8
        assert np.mean(change == 0) > 0.02
