"""What the data sets' protocols ask for: GAME, regions, errors over processes, a submission."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import crowds
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hmode
from hmode.errors import InputError
from hmode.metrics import cell_sums, game_errors, people_in
from hmode.models import Prediction
from hmode.submission import TEST_IDS, write_submission

# GAME


def plain_game(difference, level):
    """The definition, halving again and again; difference `[H, W]`, predicted minus true."""
    if level == 0:
        return abs(difference.sum())
    height, width = (int(side / 2) for side in difference.shape)
    return sum(
        plain_game(part, level - 1)
        for half in (difference[:height], difference[height:])
        for part in (half[:, :width], half[:, width:])
    )


def points(*pairs):
    return torch.tensor(pairs, dtype=torch.float32).reshape(-1, 2)


@st.composite
def images(draw):
    """A density map of some size, and points on and around it."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    people = rng.uniform(-5, 45, (draw(st.integers(0, 30)), 2)).astype(np.float32)
    people = np.where(rng.random(people.shape) < 0.5, np.floor(people), people)  # on the lines too
    density = rng.random((height, width)).astype(np.float32) / 10
    return torch.from_numpy(density), torch.from_numpy(people)


class TestGame:
    def test_by_hand(self):
        """On 8 x 8 pixels one person stands top left, and two are predicted bottom right."""
        density = torch.zeros(8, 8)
        density[7, 7] = 2
        assert game_errors(density, points((0.5, 0.5))).tolist() == [1, 3, 3, 3]

    def test_odd_sides_are_split_after_half_of_them_rounded_down(self):
        """9 columns are 4 + 5, these 2 + 2 and 2 + 3, these 1 each but for 1 + 2 at the end."""
        edges = [0, 1, 2, 3, 4, 5, 6, 7, 9]
        expected = np.diff(edges)
        ones = torch.ones(8, 9)
        assert cell_sums(ones).tolist() == [expected.tolist()] * 8
        assert cell_sums(ones.T).tolist() == np.repeat(expected[:, None], 8, axis=1).tolist()
        assert cell_sums(torch.ones(4, 5), 1).tolist() == [[4, 6], [4, 6]]

    @given(images())
    def test_equal_to_the_definition(self, image):
        density, people = image
        height, width = density.shape
        difference = density.double().numpy().copy()
        for x, y in people.tolist():
            if 0 <= x < width and 0 <= y < height:
                difference[int(y), int(x)] -= 1
        expected = [plain_game(difference, level) for level in range(4)]
        assert game_errors(density, people) == pytest.approx(expected, rel=1e-4, abs=1e-4)


class TestPeopleIn:
    def test_a_point_belongs_to_its_pixel(self):
        region = torch.zeros(3, 4, dtype=torch.bool)
        region[1, 2] = True
        inside = points((2, 1), (2.99, 1.99), (2.5, 1.5))
        outside = points((3, 1), (2, 2), (1.99, 1), (2, 0.99), (1.5, 2.5))
        assert people_in(region, inside).tolist() == [True] * 3
        assert people_in(region, outside).tolist() == [False] * 5

    def test_outside_the_frame_is_in_no_region(self):
        everywhere = torch.ones(3, 4, dtype=torch.bool)
        outside = points((-0.1, 1), (1, -0.1), (4, 1), (1, 3), (-358.7, 1), (1e30, 1), (1, -1e30))
        assert not people_in(everywhere, outside).any()
        assert people_in(everywhere, points()).shape == (0,)


# Errors over processes


class Ramp(nn.Module):
    """Counts that differ from image to image, without any weights to learn."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, image):
        bright = nn.functional.avg_pool2d(image, 4, ceil_mode=True).mean(dim=1, keepdim=True)
        density = (bright.abs() + 0.1) * self.one
        return Prediction(density, torch.cat([density * 2, density], dim=1), image.shape[-2:], 4, 9)


def errors_in_one_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    table = hmode.evaluate(Ramp(), crowds([3, 80, 15, 0, 9], (40, 70))).table
    torch.save(table, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_errors_over_two_processes_are_those_of_one(tmp_path):
    """Five images: three in one process, two in the other."""
    mp.start_processes(
        errors_in_one_process, args=(str(tmp_path),), nprocs=2, start_method="forkserver"
    )
    whole = hmode.evaluate(Ramp(), crowds([3, 80, 15, 0, 9], (40, 70)))
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=False) == whole.table


# The benchmark of NWPU-Crowd


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """The lines of a right file: image n has n / 10 people."""
    path = tmp_path_factory.mktemp("nwpu") / "counts.txt"
    names = [str(n) for n in reversed(TEST_IDS)]
    write_submission(path, names, [int(name) / 10 for name in names])
    return path.read_text().splitlines()


class TestSubmission:
    def test_1500_lines_in_order(self, lines):
        assert len(lines) == 1500
        assert lines[0] == "3610 361.0000"
        assert lines[-1] == "5109 510.9000"
        assert [int(line.split()[0]) for line in lines] == list(range(3610, 5110))

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({0: ("3610", math.nan)}, "image 3610 has a count of nan"),
            ({0: ("3610", -1.0)}, "image 3610 has a count of -1.0"),
            ({0: ("IMG_1", 3.0)}, "'IMG_1'"),
            ({0: ("12", 3.0)}, "image '12' is none"),
            ({1: ("3610", 3.0)}, "image 3610 is there twice"),
        ],
    )
    def test_wrong_counts_are_not_written(self, tmp_path, change, named):
        rows = [(str(n), 1.0) for n in TEST_IDS]
        for i, row in change.items():
            rows[i] = row
        path = tmp_path / "counts.txt"
        with pytest.raises(InputError, match=named):
            write_submission(path, *zip(*rows, strict=True))
        assert not path.exists()
