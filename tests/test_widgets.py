"""A slider over a drawing function, or its middle setting drawn once."""

import json
import shutil

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest

from hmode.widgets import explore, pick_corners, static


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: None)
    yield
    plt.close("all")


@pytest.fixture
def drawn():
    return []


@pytest.fixture
def draw(drawn):
    def draw(**values):
        drawn.append(values)
        return plt.figure()

    return draw


CONTROLS = [
    ({"a": (0, 10)}, {"a": 5}),
    ({"a": (0.0, 1.0)}, {"a": 0.5}),
    ({"a": (2, 12, 2)}, {"a": 6}),
    ({"a": ["x", "y", "z"]}, {"a": "y"}),
    ({"a": (0, 4), "b": ["p", "q", "r"]}, {"a": 2, "b": "q"}),
    ({"a": ipywidgets.IntSlider(min=0, max=9, value=7)}, {"a": 7}),
]


@pytest.mark.parametrize(("controls", "middle"), CONTROLS)
def test_static_draws_the_middle_setting_once(monkeypatch, draw, drawn, controls, middle):
    monkeypatch.setenv("HMODE_STATIC", "1")
    assert explore(draw, **controls) is None
    assert drawn[-1] == middle
    assert len(drawn) == 1


@pytest.mark.parametrize(("controls", "middle"), CONTROLS)
def test_live_is_a_widget_at_the_middle_setting(draw, drawn, controls, middle):
    widget = explore(draw, **controls)
    assert isinstance(widget, ipywidgets.Widget)
    assert drawn[-1] == middle


def test_moving_a_slider_draws_with_its_new_value(draw, drawn):
    widget = explore(draw, a=(0, 10), b=["x", "y", "z"])
    sliders = {child.description: child for child in widget.children if hasattr(child, "value")}
    before = len(drawn)
    sliders["a"].value = 9
    assert drawn[before:] == [{"a": 9, "b": "y"}]
    sliders["b"].value = "z"
    assert drawn[-1] == {"a": 9, "b": "z"}


@pytest.mark.parametrize(
    ("value", "expected"), [("", False), ("0", False), ("1", True), ("yes", True)]
)
def test_the_switch(monkeypatch, value, expected):
    monkeypatch.setenv("HMODE_STATIC", value)
    assert static() is expected


def test_without_the_switch_it_is_live():
    assert static() is False


@pytest.mark.slow
def test_corners_are_clicked_in_the_pictures_own_pixels():
    """In a browser: a picture of 2000 x 1000 pixels, shown at half its size."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here")
    page = pick_corners(np.zeros((1000, 2000, 3), np.uint8), shown=1000).data
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.set_content(page)
        corners = [(100, 200), (900, 210), (800, 450), (150, 440)]
        for x, y in corners:
            tab.locator("img").click(position={"x": x, "y": y})
        found = json.loads(tab.locator("input").input_value())
        assert np.abs(np.array(found) - 2 * np.array(corners)).max() <= 2
        tab.locator("img").click(position={"x": 5, "y": 6})
        assert len(json.loads(tab.locator("input").input_value())) == 1
        browser.close()
