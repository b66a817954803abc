"""Pictures show what they are given."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from legible import faults

import hmode
from hmode import HMoDE, plots
from hmode.analysis import expert_weights
from hmode.diagram import network_diagram


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
    assert photographs.lines[0].get_color() == plots.COLOURS["truth"]  # the paper's
    changes = [np.asarray(line.get_xdata(), float) for line in difference.lines]
    assert any(np.allclose(each, 100 / 30) for each in changes)  # in % of the default's MAE
    plt.close(figure)


def test_weights_are_drawn_over_their_range_which_is_printed(ax):
    shown = plots.show_weights(ax, np.array([[0.25, 0.5], [0.3, 0.4]]), title="gate")
    assert shown.get_clim() == (0.25, 0.5)
    assert ax.get_xlabel() == "0.25 (dark) to 0.50"


def test_weights_that_hardly_vary_are_told_apart_in_print(ax):
    plots.show_weights(ax, np.array([[0.4991, 0.5004]]), title="gate")
    assert ax.get_xlabel() == "0.4991 (dark) to 0.5004"


def test_each_thing_has_a_colour_of_its_own():
    assert len({*plots.COLOURS.values(), *plots.PALETTE}) == len(plots.COLOURS) + len(plots.PALETTE)
    assert plots.colours(["E1", "something"]) == [plots.COLOURS["E1"], plots.PALETTE[1]]


class TestFaults:
    """The measure itself: it finds what it is there for, and nothing in a plain plot."""

    def test_a_plain_plot_has_none(self, ax):
        ax.plot([0, 1], [0, 1], label="a line")
        ax.figure.legend(loc="outside lower center")
        ax.set(title="title", xlabel="x", ylabel="y")
        ax.figure.set_layout_engine("constrained")
        assert faults(ax.figure) == []

    def test_texts_on_each_other(self, ax):
        ax.text(0.5, 0.5, "first")
        ax.text(0.51, 0.5, "second")
        assert faults(ax.figure) == ["'first' overlaps 'second'"]

    def test_a_legend_on_a_line_between_its_points(self, ax):
        ax.plot([0, 1], [1, 1], label="flat")
        ax.set_ylim(0, 2)
        ax.legend(loc="center")
        assert faults(ax.figure) == ["the legend ['flat'] lies on data"]

    @pytest.mark.parametrize(("size", "width"), [(8, 6), (9, 15)])
    def test_small_print(self, ax, size, width):
        ax.figure.set_figwidth(width)
        for text in (*ax.get_xticklabels(), *ax.get_yticklabels()):
            text.set_visible(False)
        ax.text(0.5, 0.5, "small", fontsize=size)
        assert any("'small' is printed at" in fault for fault in faults(ax.figure))


HISTORY = [
    {
        "epoch": epoch,
        "density": 9000 / epoch**0.1,
        "val_mae": 40 - epoch if epoch % 5 == 0 else None,
    }
    for epoch in range(1, 16)
]


def inside(points):
    torch.manual_seed(0)
    model = HMoDE(width=1 / 16).eval()
    pixels = torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8)
    counted = hmode.count(pixels, model)
    weights = expert_weights(model, counted.prediction)
    return plots.inside(pixels, counted, weights, points=points, title="a picture")


def scatter(networks):
    true = np.geomspace(14, 567, 20)
    evaluations = {
        name: SimpleNamespace(true=true, predicted=1.1 * true, mae=1.0) for name in networks
    }
    return plots.counts_scatter(evaluations)


@pytest.mark.parametrize(
    "draw",
    [
        network_diagram,
        lambda: plots.training_curves({"Baseline": HISTORY, "HMoDE": HISTORY}, mean_mae=90.0),
        lambda: scatter(["Baseline"]),
        lambda: scatter(["HMoDE", "HMoDE+REL"]),
        lambda: inside(None),
        lambda: inside([[10.0, 20.0], [50.0, 30.0]]),
    ],
    ids=["network", "training", "one scatter", "two scatters", "inside", "inside with truth"],
)
def test_drawings_are_legible(draw):
    plots.use_style()
    figure = draw()
    assert faults(figure) == []
    plt.close(figure)


def test_inside_shows_the_truth_only_where_it_is_known():
    for points, title in ((None, ""), ([[10.0, 20.0]], "truth: 1")):
        figure = inside(points)
        assert figure.axes[2].get_title() == title
        plt.close(figure)
