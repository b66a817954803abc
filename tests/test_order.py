"""Regions in the order of their counts."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hmode.analysis import View, order_errors, wrong_pairs
from hmode.errors import InputError

counts = arrays(float, (2, 5), elements=st.integers(0, 6).map(lambda n: n / 2))


class TestWrongPairs:
    @given(predicted=counts, true=counts)
    def test_equal_to_looking_at_each_pair(self, predicted, true):
        wrong, pairs = 0.0, 0
        for p, t in zip(predicted, true, strict=True):
            for i, j in combinations(range(5), 2):
                if abs(t[i] - t[j]) >= 1:
                    pairs += 1
                    order = (p[i] - p[j]) * (t[i] - t[j])
                    wrong += 1.0 if order < 0 else 0.5 if order == 0 else 0.0
        assert wrong_pairs(predicted, true, gap=1) == (wrong, pairs)

    @pytest.mark.parametrize(
        ("predicted", "options", "message"),
        [
            ([1, 2, 3], {}, r"shape \[3\] and true ones \[2\]"),
            ([1, 2], {"gap": 0}, "gap is 0, expected a positive number"),
        ],
    )
    def test_bad_input(self, predicted, options, message):
        with pytest.raises(InputError, match=message):
            wrong_pairs(predicted, [1, 2], **options)


def seen(truth, final, variance=0.0) -> View:
    """Two maps of cells of 16 pixels: the truth, and `final`, from people per cell."""
    truth, final = np.asarray(truth, float) / 16, np.asarray(final, float) / 16
    return View(
        name="a",
        count=0,
        maps=np.stack([truth, final]),
        sizes=(1,),
        truth=truth,
        variance=np.full(truth.shape, variance),
        pixels=np.full(truth.shape, 16.0),
        proxies={},
    )


class TestOrderErrors:
    def test_counts_are_those_of_regions_within_a_square(self):
        """Regions of 2 x 2 cells, squares of 2 x 2 regions: one square of counts 4, 8, 0, 12."""
        truth = np.kron([[1, 2], [0, 3]], np.ones((2, 2)))
        final = truth.copy()
        final[0, 0] = 7  # the first region now has 10, which only the second (8) objects to
        exact, found = order_errors([seen(truth, final)], side=2, cells=2, regions=2)
        nothing = {"wrong": 0, "pairs": 6, "hard_wrong": 0, "hard_pairs": 1}
        assert exact == {"map": "E1"} | nothing
        assert found["map"] == "final"
        assert (found["wrong"], found["pairs"]) == (1, 6)

    def test_the_hard_regions_are_those_of_largest_error(self):
        truth, final = (
            [[9, 6], [3, 0]],
            [[9, 1], [8, 0]],
        )  # 6 and 3 have the errors, and are swapped
        _, found = order_errors([seen(truth, final, 0.3)], side=1, cells=2, regions=2)
        assert (found["hard_wrong"], found["hard_pairs"]) == (1, 1)
        assert (found["wrong"], found["pairs"]) == (1, 6)

    def test_images_add_up_and_what_is_left_over_is_not_looked_at(self):
        small, large = seen([[1, 5], [0, 9]], [[5, 1], [0, 9]]), np.zeros((3, 3))
        large[:2, :2] = [[1, 5], [0, 9]]
        one = order_errors([small], side=1, cells=2, regions=3)
        for views in ([small, small], [small, seen(large, np.pad([[5, 1], [0, 9]], (0, 1)))]):
            two = order_errors(iter(views), side=1, cells=2, regions=3)
            assert two == [
                {"map": row["map"], **{k: 2 * v for k, v in row.items() if k != "map"}}
                for row in one
            ]

    @pytest.mark.parametrize(
        ("views", "options", "message"),
        [
            ([], {}, "there are no views"),
            ([seen(np.ones((4, 7)), np.ones((4, 7)))], {}, r"a: \[4, 7\] cells .* 32 x 32"),
            ([], {"regions": 65}, "regions is 65, expected 1 to cells² = 64"),
        ],
    )
    def test_bad_input(self, views, options, message):
        with pytest.raises(InputError, match=message):
            order_errors(views, **options)

    def test_outside_a_mask_nobody_is(self):
        """Cells that cover no pixel count nothing, whatever the map says there."""
        view = seen([[0, 2], [4, 6]], [[50, 2], [4, 6]])
        view = replace(view, pixels=np.array([[0.0, 16], [16, 16]]))
        _, found = order_errors([view], side=1, cells=2, regions=4)
        assert found["wrong"] == 0
