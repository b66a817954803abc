"""People per square metre: a homography by hand, areas that add up, levels at their bounds."""

import csv
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import noise
from helpers import stored
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hmode.cli import main
from hmode.counting import Count
from hmode.errors import InputError
from hmode.ground import Ground, level
from hmode.models import Prediction

# A camera 5 m above the ground that looks level, focal length 100 pixels, centre (100, 20): what
# lies at (u, z) metres to the side and ahead is seen at (100 + 100 u / z, 20 + 500 / z).
SEEN = lambda u, z: (100 + 100 * u / z, 20 + 500 / z)  # noqa: E731
SQUARE = [SEEN(-2, 8), SEEN(2, 8), SEEN(2, 4), SEEN(-2, 4)]  # 4 m x 4 m
SIZE = (160, 200)


def counted(density, stride=1, picture=None) -> Count:
    """A count whose density map is that, people per pixel, `[h, w]`, of a picture of that size."""
    maps = torch.as_tensor(np.asarray(density), dtype=torch.float32)[None, None]
    size = (maps.shape[-2] * stride, maps.shape[-1] * stride)
    prediction = Prediction(maps, maps[:, :0], size, stride, 1.0)
    return Count(float(maps.sum()) * stride**2, prediction, picture or size)


class TestPlace:
    def test_points_between_the_corners_by_the_camera(self):
        ground = Ground(SQUARE, (4, 4))
        seen = np.array([SEEN(u, z) for u, z in ((0, 6), (-1, 5), (1.5, 7.5))])
        assert ground.to_metres(seen) == pytest.approx(np.array([[2, 2], [1, 3], [3.5, 0.5]]))
        assert ground.square_metres == pytest.approx(16)

    @given(
        st.lists(st.floats(-8, 8), min_size=8, max_size=8),
        st.lists(st.floats(-0.3, 0.3), min_size=8, max_size=8),
    )
    def test_any_quadrangle_by_its_sides_and_a_diagonal(self, pixels, metres):
        corners = np.array([(10, 90), (90, 90), (80, 10), (20, 10)]) + np.reshape(pixels, (4, 2))
        plan = np.array([(0, 0), (5, 0), (4, 3), (1, 3)]) + np.reshape(metres, (4, 2))
        pairs = ((0, 1), (1, 2), (2, 3), (3, 0), (0, 2))
        ground = Ground(corners, [np.hypot(*(plan[a] - plan[b])) for a, b in pairs])
        found = ground.to_metres(corners)
        for a, b in (*pairs, (1, 3)):
            assert np.hypot(*(found[a] - found[b])) == pytest.approx(
                np.hypot(*(plan[a] - plan[b])), rel=1e-6
            )
        x, y = plan.T
        shoelace = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        assert ground.square_metres == pytest.approx(shoelace)

    @pytest.mark.parametrize(
        ("corners", "lengths", "wrong"),
        [
            (SQUARE[:3], (4, 4), "expected four corners"),
            ([*SQUARE[:3], (np.nan, 1)], (4, 4), "expected four corners"),
            (SQUARE, (4,), "expected the lengths"),
            (SQUARE, (4, -4), "expected the lengths"),
            (SQUARE, (4, 4, 4, 4), "expected the lengths"),
            (SQUARE, (4, 4, 4, 4, 9), "no triangle"),
            ([SQUARE[i] for i in (0, 2, 1, 3)], (4, 4), "in the picture are no convex"),
            ([(0, 0), (9, 0), (3, 2), (0, 9)], (4, 4), "in the picture are no convex"),
            ([(0, 0), (5, 0), (9, 0), (0, 9)], (4, 4), "in the picture are no convex"),
        ],
    )
    def test_what_is_no_piece_of_ground(self, corners, lengths, wrong):
        with pytest.raises(InputError, match=wrong):
            Ground(corners, lengths)


class TestMeasure:
    def uniform(self, per_square_metre):
        """A density map of a crowd of so many people per square metre, seen by the camera."""
        y = np.arange(SIZE[0]) + 0.5 - 20
        area = np.where(y > 0, 5**2 * 100 / np.maximum(y, 1) ** 3, 0)  # of a pixel, square metres
        return np.repeat(per_square_metre * area[:, None], SIZE[1], axis=1)

    @pytest.mark.parametrize("density", [0.5, 3.0])
    def test_a_uniform_crowd_is_uniform_on_the_ground(self, density):
        """Far rows hold more people a pixel than near ones, and as many a square metre."""
        area = Ground(SQUARE, (4, 4)).measure(counted(self.uniform(density)), side=1)
        assert area.density == pytest.approx(density, rel=0.02)
        assert area.people == pytest.approx(16 * density, rel=0.02)
        assert area.plan.shape == (4, 4)
        assert area.plan == pytest.approx(np.full((4, 4), density), rel=0.02)

    def test_a_crowd_in_one_corner(self):
        density = np.zeros(SIZE)
        x, y = SEEN(-1.5, 7.5)  # half a metre from A each way
        density[int(y), int(x)] = 10
        area = Ground(SQUARE, (4, 4)).measure(counted(density), side=2)
        assert area.people == 10
        assert area.plan == pytest.approx(np.array([[2.5, 0], [0, 0]]), rel=0.05)
        assert area.densest == pytest.approx(2.5, rel=0.05)

    def test_a_picture_that_was_counted_at_another_size(self):
        """Its corners are of the picture itself, three times as large."""
        corners = 3 * np.array(SQUARE)
        density = self.uniform(2.0)
        density[:, :20] = 99  # who stands elsewhere is not on it
        large = counted(density, picture=(3 * SIZE[0], 3 * SIZE[1]))
        area = Ground(corners, (4, 4)).measure(large)
        plain = Ground(SQUARE, (4, 4)).measure(counted(self.uniform(2.0)))
        assert area.people == pytest.approx(plain.people, rel=1e-6)
        assert area.plan == pytest.approx(plain.plan)

    def test_a_corner_that_is_not_seen(self):
        with pytest.raises(InputError, match="a corner lies outside of the 100 x 160 pixels"):
            Ground(SQUARE, (4, 4)).measure(counted(np.zeros((160, 100))))


def test_levels_at_fruins_bounds():
    areas = {"A": 1.21, "B": 0.93, "C": 0.65, "D": 0.28, "E": 0.19}
    for name, area in areas.items():
        assert level(0.999 / area)[0] == name
        assert level(1.001 / area)[0] > name
    assert level(0)[0] == "A"
    assert level(50)[0] == "F"


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path):
        Image.fromarray(noise(SIZE)).save(tmp_path / "a.png")
        return stored(tmp_path / "run", "Baseline")

    def call(self, tmp_path, content, *more):
        (tmp_path / "ground.json").write_text(content)
        arguments = [tmp_path / "a.png", "--weights", tmp_path / "run", *more]
        arguments += ["--ground", tmp_path / "ground.json"]
        return CliRunner().invoke(main, ["count", *map(str, arguments)])

    def test_a_line_and_columns(self, run, tmp_path):
        content = json.dumps({"corners": SQUARE, "metres": [4, 4]})
        result = self.call(tmp_path, content, "--csv", tmp_path / "t.csv")
        assert result.exit_code == 0, result.output
        (row,) = csv.DictReader((tmp_path / "t.csv").open())
        people, metres = float(row["ground_people"]), float(row["square_metres"])
        assert metres == pytest.approx(16)
        assert float(row["per_square_metre"]) == pytest.approx(people / metres)
        assert row["level"] == level(people / metres)[0]
        assert f"{people:.1f} on 16.0 m², {people / metres:.2f} per m²" in result.output
        assert f"Fruin's level {row['level']}: " in result.output

    @pytest.mark.parametrize(
        "content",
        ["{", "[]", '{"corners": []}', '{"corners": 1, "metres": [1, 1]}']
        + ['{"corners": [[0,0],[9,0],[9,9],[0,9]], "metres": "x"}']
        + ['{"corners": [[0,0],[9,0],[9,9],[0,9]], "metres": {"a": 1}}'],
    )
    def test_a_file_that_is_none(self, run, tmp_path, content):
        result = self.call(tmp_path, content)
        assert result.exit_code == 2
        assert result.output.startswith(f"Error: {tmp_path / 'ground.json'}: ")
        assert len(result.output.splitlines()) == 1
