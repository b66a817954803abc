"""MAE, "MSE" and the table of an evaluation, against numbers made by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmode.errors import InputError
from hmode.metrics import Evaluation, mae, mse
from hmode.runs import read_csv, write_csv

people = st.integers(0, 10**6).map(lambda n: n / 8)
counts = st.lists(st.tuples(people, people), min_size=1, max_size=30)


def test_by_hand():
    true, predicted = [10, 20, 30], [13, 16, 30]
    assert mae(true, predicted) == pytest.approx((3 + 4 + 0) / 3)
    assert mse(true, predicted) == pytest.approx(math.sqrt((9 + 16 + 0) / 3))


@given(counts)
def test_equal_to_a_plain_loop(pairs):
    true, predicted = zip(*pairs, strict=True)
    absolute = squared = 0.0
    for t, p in pairs:
        absolute += abs(t - p)
        squared += (t - p) ** 2
    assert mae(true, predicted) == pytest.approx(absolute / len(pairs))
    assert mse(true, predicted) == pytest.approx(math.sqrt(squared / len(pairs)))


@given(counts)
def test_mse_is_never_below_mae(pairs):
    true, predicted = zip(*pairs, strict=True)
    assert mse(true, predicted) >= mae(true, predicted) * (1 - 1e-12)
    assert mae(true, true) == mse(true, true) == 0


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=20), st.floats(0, 1e4))
def test_one_number_is_predicted_for_every_image(true, constant):
    assert mae(true, constant) == mae(true, [constant] * len(true))
    assert mse(true, constant) == mse(true, [constant] * len(true))


@pytest.mark.parametrize(
    ("true", "predicted"), [([], []), ([1, 2], [1]), ([1, 2], [[1, 2]]), ([[1], [2]], [1, 2])]
)
def test_counts_that_do_not_match(true, predicted):
    for metric in (mae, mse):
        with pytest.raises(InputError, match="same shape and at least one"):
            metric(true, predicted)


def evaluation():
    return Evaluation(
        ["a", "b", "c"],
        np.array([10.0, 20.0, 30.0]),
        np.array([9.0, 20.0, 28.0]),
        np.array([[1.0, 2.0, 13.0], [3.0, 4.0, 16.0], [5.0, 6.0, 30.5]]),
    )


class TestEvaluation:
    def test_the_final_map_counts_against_all_annotated_people(self):
        result = evaluation()
        assert result.predicted.tolist() == [13, 16, 30.5]
        assert result.mae == pytest.approx((3 + 4 + 0.5) / 3)
        assert result.mse == pytest.approx(math.sqrt((9 + 16 + 0.25) / 3))

    def test_one_row_an_image(self):
        assert evaluation().table[0] == {
            "name": "a",
            "true": 10,
            "inside": 9,
            "predicted": 13.0,
            "error": 3.0,
            "map0": 1.0,
            "map1": 2.0,
            "map2": 13.0,
        }
        assert [row["error"] for row in evaluation().table] == [3.0, -4.0, 0.5]

    @given(
        rows=st.lists(
            st.tuples(st.integers(0, 10**6), st.lists(st.floats(0, 1e6), min_size=12, max_size=12)),
            min_size=1,
            max_size=5,
        )
    )
    def test_it_comes_back_from_a_file_to_the_last_bit(self, rows, tmp_path_factory):
        """Twelve maps: their order is that of their numbers, not that of the alphabet."""
        true = np.array([n for n, _ in rows], float)
        by_map = np.array([maps for _, maps in rows])
        result = Evaluation([f"i{i}" for i in range(len(rows))], true, true, by_map)
        path = tmp_path_factory.mktemp("table") / "test.csv"
        write_csv(path, result.table)
        again = Evaluation.from_table(read_csv(path))
        assert np.array_equal(again.by_map, by_map)
        assert np.array_equal(again.true, true)
        assert again.names == result.names
        assert (again.mae, again.mse) == (result.mae, result.mse)
