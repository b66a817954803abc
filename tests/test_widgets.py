"""A slider over a drawing function, or its middle setting drawn once."""

import base64
import io
import json
import shutil
from datetime import datetime

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from hmode import InputError, widgets
from hmode.data.pictures import to_pixels
from hmode.widgets import ask_for_picture, explore, pick_corners, static


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
        fig, ax = plt.subplots(figsize=(1, 1))
        ax.set_title(str(values))
        return fig

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


@pytest.fixture
def outputs(monkeypatch):
    """What is displayed below widgets: content by display id, the last one each."""
    kept = {}

    class Handle:
        def __init__(self, content):
            self.id = len(kept)
            self.update(content)

        def update(self, content, **_):
            kept[self.id] = content

    def display(content, *, display_id=False, **_):
        return Handle(content) if display_id else None

    monkeypatch.setattr(widgets, "display", display)
    return kept


def test_the_picture_is_an_output_of_the_cell_and_no_widgets(draw, outputs):
    widget = explore(draw, a=(0, 10))
    widget._ipython_display_()
    before = outputs[0]["image/jpeg"]
    widget.children[0].value = 7
    assert list(outputs) == [0]
    assert outputs[0]["image/jpeg"] != before
    picture = Image.open(io.BytesIO(base64.b64decode(before)))
    assert picture.size == (2 * plt.rcParams["figure.dpi"],) * 2  # an inch, for retina displays


def test_a_move_leaves_the_figures_of_others_alone(draw, outputs):
    widget = explore(draw, a=(0, 10))
    mine = plt.figure()
    widget.children[0].value = 7
    assert plt.get_fignums() == [mine.number]
    assert plt.gcf() is mine


def test_what_a_drawing_says_when_it_fails_stands_in_its_place(outputs):
    def draw(a):
        if a > 5:
            raise ValueError("too far")
        return plt.subplots(figsize=(1, 1))[0]

    widget = explore(draw, a=(0, 10))
    widget._ipython_display_()
    widget.children[0].value = 6
    assert outputs[0] == {"text/plain": "ValueError: too far"}
    widget.children[0].value = 4
    assert "image/jpeg" in outputs[0]


def uploaded(content):
    """As FileUpload hands it on."""
    about = {"name": "x.png", "type": "image/png", "size": len(content)}
    return about | {"content": memoryview(content), "last_modified": datetime.now()}


class TestAsking:
    @pytest.fixture
    def box(self, outputs):
        def count(path):
            if path.suffix == ".txt":
                raise InputError(f"{path}: no picture")
            return f"{path.name}: {to_pixels(path).shape[-1]} people", plt.subplots(figsize=(1, 1))[
                0
            ]

        box = ask_for_picture(count)
        box._ipython_display_()
        return box

    def test_an_upload_is_counted_and_shown(self, box, outputs):
        file = io.BytesIO()
        Image.new("RGBA", (12, 8)).save(file, "PNG")
        box.children[0].value = (uploaded(file.getvalue()),)
        assert outputs[0] == {"text/plain": "x.png: 12 people"}
        assert "image/jpeg" in outputs[1]

    def test_a_path_is_as_good(self, box, outputs, tmp_path):
        Image.new("L", (9, 9)).save(tmp_path / "big.png")
        box.children[1].value = f" {tmp_path / 'big.png'} "
        assert outputs[0] == {"text/plain": "big.png: 9 people"}

    @pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG broken"])
    def test_a_broken_file_gets_a_line(self, box, outputs, content):
        box.children[0].value = (uploaded(content),)
        assert "x.png" in outputs[0]["text/plain"]
        assert "\n" not in outputs[0]["text/plain"]
        assert "/" not in outputs[0]["text/plain"].replace("and/or", "")
        assert outputs[1] == {"text/plain": ""}

    def test_while_it_counts_it_says_what_and_how_large(self, outputs, tmp_path):
        said = []

        def count(path):
            said.append(dict(outputs[0]))
            return "counted", plt.subplots(figsize=(1, 1))[0]

        box = ask_for_picture(count)
        box._ipython_display_()
        Image.new("L", (30, 20)).save(tmp_path / "a & b.png")
        box.children[1].value = str(tmp_path / "a & b.png")
        (words,) = said
        assert words["text/html"].startswith("Counting a &amp; b.png, 30 x 20 …")
        assert "<progress>" in words["text/html"]

    def test_a_missing_file_gets_a_line(self, box, outputs, tmp_path):
        box.children[1].value = str(tmp_path / "nowhere.jpg")
        assert "nowhere.jpg" in outputs[0]["text/plain"]

    def test_printed_pages_have_no_button(self, monkeypatch):
        monkeypatch.setenv("HMODE_STATIC", "1")
        assert ask_for_picture(None) is None


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
