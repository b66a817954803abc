"""The paper's tables with our runs beside them: printed as published, nothing left out."""

import re
from functools import cache

import numpy as np
import pandas as pd
import pytest
from helpers import IMAGES, pretend

from hmode.errors import InputError
from hmode.experiments import canonical
from hmode.lab import project_folder
from hmode.paper import published
from hmode.paper.beside import COSTS, DASH, NOT_RUN, TITLES, as_printed
from hmode.results.tables import aggregate

STORED = project_folder() / "figures"


@cache
def stored(name):
    """A table with the stored runs, and its text; they are only looked at."""
    table = as_printed(name, figures=STORED)
    return table, table.frame()


def columns(name):
    return [key for key in published(name)[0] if key not in ("method", "experiment", "venue")]


@pytest.mark.parametrize("name", TITLES)
class TestAsThePaperPrints:
    def test_every_published_number_stands_in_its_column(self, name):
        _, frame = stored(name)
        theirs = frame.loc[:, [heading != "ours" for _, heading in frame.columns]]
        assert theirs.shape == (len(published(name)), len(columns(name)))
        for i, row in enumerate(published(name)):
            assert frame.index[i].startswith(row["method"])
            expected = [row[key] or DASH for key in columns(name)]
            assert list(theirs.iloc[i]) == expected

    def test_the_best_of_each_column_is_bold(self, name):
        table, _ = stored(name)
        place = [i for i, (_, heading) in enumerate(table.columns) if heading != "ours"]
        for i, key in zip(place, columns(name), strict=True):
            bold = [cells[i][0][0].text for _, cells in table.rows if cells[i][0][0].best]
            least = min(float(row[key]) for row in published(name) if row[key])
            assert {float(text) for text in bold} == (set() if key in COSTS else {least})

    def test_a_row_of_ours_has_numbers_or_says_that_it_was_not_run(self, name):
        _, frame = stored(name)
        ours = frame.loc[:, [heading == "ours" for _, heading in frame.columns]]
        for row, cells in zip(published(name), ours.to_numpy(), strict=True):
            for text in cells:
                if row["experiment"]:
                    assert text == NOT_RUN or re.match(r"[a-z]+ \(\d+\): [\d–]", text)
                else:
                    assert text == ""

    def test_is_html_and_text(self, name):
        table, _ = stored(name)
        html = table._repr_html_()
        assert html.count("<td>") == len(table.rows) * len(table.columns)
        assert TITLES[name] in html
        assert "<b>" in html.split("<tbody>")[1]
        assert repr(table).startswith(TITLES[name])


def test_ours_are_those_of_the_stored_runs():
    runs = pd.read_csv(STORED / "full" / "sha" / "runs.csv")
    _, frame = stored("table1")
    for name in ("Baseline", "HMoDE", "HMoDE+REL"):
        own = runs[runs["experiment"] == name.lower()]
        line = f"full ({len(own)}): {own['mae'].mean():.1f} ± {own['mae'].std():.1f} / "
        assert line in frame.loc[name, ("SHA", "ours")]


class TestOnRunsMadeUp:
    @pytest.fixture
    def figures(self, tmp_path):
        for seed in range(2):
            for name, shift in (("hmode", 0.0), ("table4/moe", 3.0)):
                errors = np.full(IMAGES, 20.0 + shift + seed)
                pretend(tmp_path / "runs", name, seed, errors)
        aggregate(tmp_path / "runs", "small", "synthetic", tmp_path / "figures/small/synthetic")
        return tmp_path / "figures"

    def test_means_spreads_seeds_and_the_best(self, figures):
        table = as_printed("table4", figures=figures)
        cells = {
            name: cells[table.columns.index(("drawn crowd", "ours"))] for name, cells in table.rows
        }
        assert cells["HMoDE"][0][:2] == [("small (2): ", False), ("20.5 ± 0.7", True)]
        assert cells["MoE"][0][1] == ("23.5 ± 0.7", False)
        assert cells["Concat"] == [[(NOT_RUN, False)]]

    def test_more_folders_can_be_given(self, figures, tmp_path):
        more = figures / "small" / "synthetic"
        table = as_printed("table4", figures=tmp_path / "none", also=[more])
        assert ("drawn crowd", "ours") in table.columns

    def test_without_any_run_every_cell_of_ours_says_so(self, tmp_path):
        for name in TITLES:
            frame = as_printed(name, figures=tmp_path / "none").frame()
            ours = frame.loc[:, [heading == "ours" for _, heading in frame.columns]]
            found = {text for text in ours.to_numpy().ravel() if text}
            assert found == {NOT_RUN}


def test_rows_that_are_one_experiment_have_one_number():
    """Average in Table IV is the baseline of Table I."""
    first, fourth = (stored(name)[1] for name in ("table1", "table4"))
    first, fourth = first.loc["Baseline", ("SHA", "ours")], fourth.loc["Average", ("SHA", "ours")]
    assert re.sub(r"\*", "", first) == fourth
    assert canonical("table4/average") == "baseline"


@pytest.mark.parametrize("name", ["table13", "fig6", ""])
def test_an_unknown_table(name):
    with pytest.raises(InputError, match=r"expected one of table1, .*table12"):
        as_printed(name)
