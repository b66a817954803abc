"""Pictures show what they are given."""

import matplotlib.pyplot as plt
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
    figure = plots.dot_table(rows)
    assert len(figure.axes) == panels
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "a"]
    plt.close(figure)
