"""Data sets by name, the held-out part, and what they say of themselves."""

import json

import numpy as np
import pytest
from conftest import crowds, write_shanghaitech
from hypothesis import given
from hypothesis import strategies as st

from hmode import profiles
from hmode.data import DATASETS, DRAWN, Selection, describe, hold_out, open_dataset, true_counts
from hmode.errors import InputError, MissingFileError


class TestOpen:
    def test_names_lead_to_the_data_they_name(self, tmp_path):
        write_shanghaitech(tmp_path, part="part_A", train=2)
        write_shanghaitech(tmp_path, part="part_B", train=3, test=1)
        assert describe(open_dataset("sha", tmp_path)) == {
            "name": "sha",
            "split": "train",
            "images": 2,
            "max_side": None,
        }
        described = describe(open_dataset("shb", tmp_path, "test", max_side=50))
        assert (described["name"], described["split"], described["max_side"]) == ("shb", "test", 50)
        synthetic = open_dataset("synthetic", split="val", length=5, size=64)
        assert len(synthetic) == 5
        assert describe(synthetic)["split"] == "val"

    def test_an_unknown_name_is_answered_with_the_known_ones(self):
        with pytest.raises(
            InputError, match=r"'qnrf' is unknown.*synthetic.*sha.*ucf_qnrf.*folder"
        ):
            open_dataset("qnrf")

    def test_an_option_of_another_reader(self, tmp_path):
        write_shanghaitech(tmp_path)
        with pytest.raises(InputError, match=r"'sha' does not take .*length"):
            open_dataset("sha", tmp_path, length=3)
        with pytest.raises(InputError, match=r"'synthetic' does not take .*max_side"):
            open_dataset("synthetic", max_side=3)

    def test_all_names_are_told(self, tmp_path):
        assert DATASETS[: len(DRAWN)] == tuple(DRAWN) == profiles.DRAWN
        for name in DATASETS[len(DRAWN) :]:
            with pytest.raises(MissingFileError):  # known, but not there
                open_dataset(name, tmp_path / "nowhere")


class TestHoldOut:
    @given(
        n=st.integers(2, 200),
        fraction=st.floats(0.01, 0.99),
        seed=st.integers(0, 1000),
    )
    def test_two_parts_that_share_nothing_and_leave_nothing(self, n, fraction, seed):
        train, held = hold_out(range(n), fraction=fraction, seed=seed)
        assert sorted([*train, *held]) == list(range(n))
        assert len(held) >= 1
        assert abs(len(held) - fraction * n) <= 1

    def test_the_same_seed_holds_out_the_same(self):
        assert list(hold_out(range(50))[1]) == list(hold_out(range(50))[1])
        parts = {tuple(hold_out(range(50), seed=seed)[1]) for seed in range(20)}
        assert len(parts) == 20

    @pytest.mark.parametrize(
        ("n", "fraction"), [(0, 0.1), (1, 0.1), (5, 0.0), (5, 1.0), (5, -0.1), (5, float("nan"))]
    )
    def test_what_cannot_be_split(self, n, fraction):
        with pytest.raises(InputError, match=f"{fraction} of {n} images"):
            hold_out(range(n), fraction=fraction)


class TestSelection:
    def test_images_in_the_order_given(self):
        dataset = crowds([1, 2, 3, 4])
        chosen = Selection(dataset, [3, 0, 3])
        assert len(chosen) == 3
        assert [sample.count for sample in chosen] == [4, 1, 4]

    def test_it_says_what_was_chosen(self):
        described = describe(Selection(open_dataset("synthetic", length=9), np.array([4, 2])))
        assert described["selected"] == [4, 2]
        assert described["name"] == "synthetic"
        json.dumps(described)


class TestTrueCounts:
    def test_equal_to_counting_one_by_one(self, tmp_path):
        write_shanghaitech(tmp_path)
        sha = open_dataset("sha", tmp_path)
        plain = crowds([3, 0, 7])
        for dataset in (
            sha,
            plain,
            Selection(sha, [2, 0]),
            Selection(Selection(plain, [2, 1]), [0]),
        ):
            assert true_counts(dataset).tolist() == [sample.count for sample in dataset]


def test_a_data_set_without_a_description_is_named_by_type_and_length():
    assert describe(crowds([1, 2])) == {"name": "list", "images": 2}
