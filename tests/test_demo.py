"""hmode demo in a real browser: a photograph dropped on the page, and what must not get in."""

import shutil
import socket
import sys

import pytest
import torch
from click.testing import CliRunner
from conftest import noise
from PIL import Image

import hmode
from hmode.cli import main
from hmode.errors import InputError
from hmode.models import build_model

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def network():
    torch.manual_seed(0)
    return build_model({"model": "HMoDE", "width": 0.0625}).eval()


def test_without_the_extra(monkeypatch):
    from hmode.demo import build

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"The demo needs gradio: pip install 'hmode\[demo\]'"):
        build(network())


def test_answers_are_those_of_count(tmp_path):
    from hmode.demo import answers

    path, model = tmp_path / "a.png", network()
    Image.fromarray(noise((64, 96))).save(path)
    text, overlay, experts, gates = answers(path, model)
    counted = hmode.count(path, model)
    assert text == f"## {counted.count:.1f} people"
    assert [people for _, people in experts] == pytest.approx(counted.experts, abs=0.051)
    assert len(gates.axes) == 4  # three groups and a colour bar
    assert overlay.axes[0].get_title() == f"{counted.count:.1f} people"


def test_what_takes_too_long_or_is_too_large_is_refused(tmp_path, monkeypatch):
    from hmode import demo

    path, model = tmp_path / "a.png", network()
    Image.fromarray(noise((64, 96))).save(path)
    monkeypatch.setattr(demo, "MOST_SECONDS", -1.0)
    with pytest.raises(InputError, match=r"a\.png: counting takes longer"):
        demo.answers(path, model)
    monkeypatch.setattr(demo, "MOST_PIXELS", 64 * 96 - 1)
    with pytest.raises(InputError, match="expected 1 to 6,143 in all"):
        demo.answers(path, model)


def test_a_run_that_is_not_there(tmp_path):
    pytest.importorskip("gradio", reason="extra demo is not installed")
    result = CliRunner().invoke(main, ["demo", str(tmp_path / "gone")])
    assert result.exit_code == 2
    assert "gone: no such run" in result.output


@pytest.fixture(scope="module")
def served():
    pytest.importorskip("gradio", reason="extra demo is not installed")
    from hmode import demo

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = network()
    page = demo.serve(model, port=port)
    yield port, model
    page.close()


@pytest.mark.slow
class TestPage:
    @pytest.fixture
    def browser(self):
        sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
        if CHROMIUM is None:
            pytest.skip("no chromium here")
        with sync_api.sync_playwright() as playwright:
            opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            yield opened.new_page()
            opened.close()

    def test_a_photograph_is_counted_with_no_line_to_the_outside(self, served, browser, tmp_path):
        port, model = served
        here = f"http://127.0.0.1:{port}"
        browser.route(
            "**/*",
            lambda route: (
                route.continue_() if route.request.url.startswith(here) else route.abort()
            ),
        )
        path = tmp_path / "crowd.png"
        Image.fromarray(noise((64, 96))).save(path)
        browser.goto(here)
        browser.set_input_files("input[type=file]", str(path), timeout=60_000)
        expected = f"{hmode.count(path, model).count:.1f} people"
        browser.get_by_role("heading", name=expected).wait_for(timeout=120_000)
        browser.locator("img").nth(1).wait_for(timeout=60_000)  # overlay and gates
        assert browser.get_by_text("E3").first.is_visible()

    def test_what_is_no_photograph_is_named(self, served, browser, tmp_path):
        path = tmp_path / "notes.png"
        path.write_text("no picture")
        browser.goto(f"http://127.0.0.1:{served[0]}")
        browser.set_input_files("input[type=file]", str(path), timeout=60_000)
        browser.get_by_text("notes.png: not a readable image").first.wait_for(timeout=120_000)
        assert not browser.get_by_text(str(tmp_path)).count()

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems have 127.0.0.1 only")
    def test_it_listens_on_this_machine_alone(self, served):
        with socket.socket() as line:
            line.settimeout(5)
            assert line.connect_ex(("127.0.0.2", served[0])) != 0

    def test_a_port_that_is_taken(self, served):
        from hmode import demo

        with pytest.raises(InputError, match=f":{served[0]}: cannot be had"):
            demo.serve(served[1], port=served[0])
