"""MAE, "MSE", NAE, density levels and the table of an evaluation, against numbers made by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmode.errors import InputError
from hmode.metrics import Evaluation, ImageCount, density_levels, mae, mse, nae
from hmode.runs import read_csv, write_csv

people = st.integers(0, 10**6).map(lambda n: n / 8)
counts = st.lists(st.tuples(people, people), min_size=1, max_size=30)


def test_by_hand():
    assert mae([10, 20], 12) == mae([10, 20], [12, 12])  # one number for every image
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


@pytest.mark.parametrize(
    ("true", "predicted"), [([], []), ([1, 2], [1]), ([1, 2], [[1, 2]]), ([[1], [2]], [1, 2])]
)
def test_counts_that_do_not_match(true, predicted):
    for metric in (mae, mse):
        with pytest.raises(InputError, match="same shape and at least one"):
            metric(true, predicted)


class TestNAE:
    def test_by_hand(self):
        assert nae([10, 20], [13, 16]) == pytest.approx((0.3 + 0.2) / 2)

    def test_images_without_people_are_left_out(self):
        assert nae([10, 0, 20], [13, 500, 16]) == pytest.approx(nae([10, 20], [13, 16]))
        assert math.isnan(nae([0, 0], [1, 2]))


class TestDensityLevels:
    def test_those_of_jhu(self):
        levels = density_levels()
        assert levels == {"0-50": (0, 50), "51-500": (51, 500), "501+": (501, math.inf)}

    @given(st.sets(st.integers(0, 1000), min_size=1), st.integers(0, 2000))
    def test_every_count_is_of_one_level(self, edges, count):
        levels = density_levels(sorted(edges))
        assert len(levels) == len(edges) + 1
        assert sum(low <= count <= high for low, high in levels.values()) == 1

    @pytest.mark.parametrize("edges", [[], [500, 50], [50, 50], [-1, 5], [50.5], ["50"]])
    def test_edges_that_make_no_levels(self, edges):
        with pytest.raises(InputError, match="rising whole numbers"):
            density_levels(edges)


def evaluation(true=(10.0, 20.0, 30.0), predicted=(13.0, 16.0, 30.5)):
    """Three maps; every other image has one person outside; GAME of image i is i times 1, 2, 3, 4;
    of ten people in the foreground nine are predicted."""
    n = len(true)
    return Evaluation(
        ["a", "b", "c", "d", "e"][:n],
        np.array(true),
        np.array(true) - np.arange(n) % 2,
        np.array([[1.0 + i, 2.0 + i, each] for i, each in enumerate(predicted)]),
        np.arange(n)[:, None] * np.array([1.0, 2.0, 3.0, 4.0]),
        np.array([[10.0, 9.0]] * n),
    )


class TestEvaluation:
    def test_the_final_map_counts_against_all_annotated_people(self):
        result = evaluation()
        assert result.predicted.tolist() == [13, 16, 30.5]
        assert result.mae == pytest.approx((3 + 4 + 0.5) / 3)
        assert result.mse == pytest.approx(math.sqrt((9 + 16 + 0.25) / 3))
        assert result.mean_game.tolist() == [1, 2, 3, 4]
        assert result.errors == pytest.approx({
            "mae": result.mae, "mse": result.mse, "nae": (0.3 + 0.2 + 0.5 / 30) / 3,
            "game0": 1, "game1": 2, "game2": 3, "game3": 4,
            "foreground_mae": 1, "foreground_mse": 1,
        })  # fmt: skip

    def test_one_row_an_image(self):
        assert list(evaluation().table[1].items()) == [
            ("name", "b"),
            ("true", 20),
            ("inside", 19),
            ("predicted", 16.0),
            ("error", -4.0),
            *(("game0", 1.0), ("game1", 2.0), ("game2", 3.0), ("game3", 4.0)),
            *(("foreground_true", 10), ("foreground", 9.0)),
            *(("map0", 2.0), ("map1", 3.0), ("map2", 16.0)),
        ]
        assert [row["error"] for row in evaluation().table] == [3.0, -4.0, 0.5]

    @given(
        rows=st.lists(
            st.tuples(st.integers(0, 10**6), st.lists(st.floats(0, 1e6), min_size=18, max_size=18)),
            min_size=1,
            max_size=5,
        ),
        kept=st.booleans(),
        annotated=st.booleans(),
    )
    def test_it_comes_back_from_a_file_to_the_last_bit(
        self, rows, kept, annotated, tmp_path_factory
    ):
        """Twelve maps: their order is that of their numbers, not that of the alphabet."""
        true = np.array([n for n, _ in rows], float)
        values = np.array([numbers for _, numbers in rows])
        values[:, 16] = np.floor(values[:, 16])
        if not annotated:
            true[0] = values[0, 12:] = np.nan
        rest = (values[:, 12:16], values[:, 16:]) if kept else (None, None)
        names = [f"i{i}" for i in range(len(rows))]
        result = Evaluation(names, true, true, values[:, :12], *rest)
        path = tmp_path_factory.mktemp("table") / "test.csv"
        write_csv(path, result.table)
        again = Evaluation.from_table(read_csv(path))
        assert again.names == names
        for name in ("true", "inside", "by_map", "game", "foreground"):
            ours, theirs = getattr(again, name), getattr(result, name)
            assert (ours is None) == (theirs is None)
            assert ours is None or np.array_equal(ours, theirs, equal_nan=True)
        assert again.table == result.table
        if result.annotated.any():
            assert (again.mae, again.mse) == (result.mae, result.mse)

    def test_a_table_of_before_game_was_kept(self):
        rows = [
            {name: value for name, value in row.items() if not name.startswith(("game", "fore"))}
            for row in evaluation().table
        ]
        old = Evaluation.from_table(rows)
        assert old.mae == evaluation().mae
        assert old.table == rows
        for name, error in (("game", "mean_game"), ("foreground", "errors")):
            with pytest.raises(InputError, match=f"without '{name}'"):
                getattr(old, error)

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"true": "many"}, "b: true is 'many'"),
            ({"game2": "x"}, "b: game2 is 'x'"),
            ({"map1": "?"}, r"b: map1 is '\?'"),
        ],
    )
    def test_a_value_that_is_no_number_is_named(self, change, named):
        rows = evaluation().table
        rows[1] |= change
        with pytest.raises(InputError, match=named):
            Evaluation.from_table(rows)

    def test_other_tables_are_refused(self):
        for column in ("true", "inside", "game3", "foreground_true"):
            rows = [{k: v for k, v in row.items() if k != column} for row in evaluation().table]
            with pytest.raises(InputError, match=f"column {column} is missing"):
                Evaluation.from_table(rows)
        with pytest.raises(InputError, match="column map0 is missing"):
            Evaluation.from_table([{"name": "a", "true": 1, "inside": 1, "seconds": 3}])
        with pytest.raises(InputError, match="no rows"):
            Evaluation.from_table([])

    def test_of_the_counts_of_images(self):
        counts = [
            ImageCount("a", 10, 9, (1.0, 2.0, 13.0), (3.0, 4.0, 5.0, 6.0), (7, 8.0)),
            ImageCount("b", 20, 20, (3.0, 4.0, 16.0), (4.0, 4.0, 4.0, 4.0), (7, 6.0)),
        ]
        result = Evaluation.of(counts)
        assert result.names == ["a", "b"]
        assert result.true.tolist() == [10, 20]
        assert result.inside.tolist() == [9, 20]
        assert result.by_map.tolist() == [[1, 2, 13], [3, 4, 16]]
        assert result.game.tolist() == [[3, 4, 5, 6], [4, 4, 4, 4]]
        assert result.foreground.tolist() == [[7, 8], [7, 6]]
        assert [each.error for each in counts] == (result.predicted - result.true).tolist()

    def test_joined_it_is_that_of_all_images(self):
        parts = [evaluation(), evaluation(true=(5.0,), predicted=(9.0,))]
        whole = Evaluation.joined(parts)
        assert whole.table == parts[0].table + parts[1].table
        assert whole.mae == pytest.approx((3 + 4 + 0.5 + 4) / 4)


class TestWithoutAnnotation:
    def test_an_image_takes_part_in_no_error(self):
        half = evaluation((10.0, math.nan, 30.0), (13.0, 1e6, 30.5))
        assert half.annotated.tolist() == [True, False, True]
        assert half.mae == pytest.approx((3 + 0.5) / 2)
        assert half.mse == pytest.approx(math.sqrt((9 + 0.25) / 2))
        assert half.mean_game.tolist() == [1, 2, 3, 4]
        assert [row["images"] for row in half.by_level()] == [2, 2, 0, 0]
        row = half.table[1]
        assert (row["true"], row["inside"], row["error"]) == (None, None, None)
        assert row["predicted"] == 1e6

    @pytest.mark.parametrize("error", ["mae", "mse", "mean_game", "errors"])
    def test_with_no_annotation_at_all_there_is_no_error(self, error):
        blind = evaluation((math.nan, math.nan), (13.0, 4.0))
        with pytest.raises(InputError, match="none of the 2 images has an annotation"):
            getattr(blind, error)


class TestByLevel:
    def result(self):
        return evaluation((50.0, 51.0, 500.0, 501.0, 0.0), (51.0, 53.0, 496.0, 509.0, 16.0))

    def test_an_edge_is_of_the_level_below(self):
        """Errors 1 and 16 are low, 2 and 4 medium, 8 high."""
        rows = {row["level"]: row for row in self.result().by_level()}
        assert list(rows) == ["all", "0-50", "51-500", "501+"]
        assert [row["images"] for row in rows.values()] == [5, 2, 2, 1]
        assert [row["mae"] for row in rows.values()] == pytest.approx([31 / 5, 8.5, 3, 8])
        assert rows["0-50"]["mse"] == pytest.approx(math.sqrt((1 + 256) / 2))
        assert rows["0-50"]["nae"] == pytest.approx(1 / 50)
        assert rows["all"]["mae"] == self.result().mae

    def test_a_level_without_images_has_no_errors(self):
        row = self.result().by_level([1000])[-1]
        assert row == {"level": "1001+", "images": 0, "mae": None, "mse": None, "nae": None}

    def test_each_map_has_its_errors(self):
        """Map 0 counts 1 to 5, map 1 counts 2 to 6."""
        rows = self.result().by_map_errors()
        assert [(row["level"], row["map"]) for row in rows[:4]] == [
            *(("all", 0), ("all", 1), ("all", 2)),
            ("0-50", 0),
        ]
        found = {(row["level"], row["map"]): (row["mae"], row["mse"]) for row in rows}
        assert found["0-50", 0] == pytest.approx(((49 + 5) / 2, math.sqrt((49**2 + 25) / 2)))
        assert found["501+", 1] == (496, 496)
        assert found["all", 2] == (self.result().mae, self.result().mse)
        assert all(
            row["mae"] is None for row in self.result().by_map_errors([9999]) if not row["images"]
        )
