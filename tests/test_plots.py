"""Pictures show what they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hmode import HMoDE, plots


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.mark.parametrize(
    ("settings", "names", "weighed", "passed"),
    [
        ({"depth": 1}, ["E1", "E2", "E3", "Eout"], 3, 0),
        ({"groups": [[0, 2]]}, ["E1", "E2", "E3", "Gr1", "E2", "Eout"], 4, 1),
        ({}, ["E1", "E2", "E3", "Gr1", "Gr2", "Gr3", "Eout"], 9, 0),
    ],
    ids=["mixture of experts", "ordinary hierarchy", "HMoDE"],
)
def test_a_mixture_is_drawn_as_it_is_mixed(ax, settings, names, weighed, passed):
    plots.mixture_diagram(ax, HMoDE(width=1 / 16, **settings), title="")
    assert [text.get_text() for text in ax.texts if "level" not in text.get_text()] == names
    styles = [line.get_linestyle() for line in ax.lines]
    assert (styles.count("-"), styles.count("--")) == (weighed, passed)


@pytest.mark.parametrize(("printed", "panels"), [([54.4, 56.8], 3), ([None, None], 2)])
def test_a_table_without_published_numbers_has_no_panel_for_them(printed, panels):
    rows = pd.DataFrame({"title": ["a", "b"], "experiment": ["a", "b"], "mae": [30.0, 31.0]})
    rows["paper_sha_mae"] = pd.Series(printed, dtype=float)
    figure = plots.dot_table({"small/synthetic": rows})
    assert len(figure.axes) == panels
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
    plt.close(figure)


def test_a_table_of_photographs_shares_the_papers_panel_and_says_what_was_not_run():
    real = pd.DataFrame({"title": ["a", "b"], "experiment": ["a", "b"], "mae": [82.7, None]})
    real = real.assign(mae_sd=1.6, by_seed=[[81.0, 84.4], []], paper_sha_mae=56.8)
    real = real.assign(verdict=["default", None], difference=float("nan"))
    toy = real.assign(mae=[30.0, 31.0], difference=[None, 1.0], low=[None, 0.5], high=[None, 1.5])
    figure = plots.dot_table({"full/sha": real, "small/synthetic": toy}, published="sha")
    photographs, drawn, difference = figure.axes
    assert [text.get_text() for text in photographs.texts] == ["not run"]
    assert not drawn.texts
    changes = [np.asarray(line.get_xdata(), float) for line in difference.lines]
    assert any(np.allclose(each, 100 / 30) for each in changes)  # in % of the default's MAE
    plt.close(figure)


def test_weights_are_drawn_over_their_range_which_is_printed(ax):
    shown = plots.show_weights(ax, np.array([[0.25, 0.5], [0.3, 0.4]]), title="gate")
    assert shown.get_clim() == (0.25, 0.5)
    assert ax.get_xlabel() == "0.25 (dark) to 0.50"
