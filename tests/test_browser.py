"""What only a browser can tell: widgets in JupyterLab, and the pages of the book.

Needs playwright and a chromium; is skipped without, unless HMODE_BROWSER is required. The
book's pages are those that `make book` has built last.
"""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import numpy as np
import pytest
from helpers import ipython_folder
from PIL import Image

from hmode.figure_list import cells_for, numbered
from hmode.lab import project_folder

try:
    from playwright import sync_api
except ImportError:
    sync_api = None

PROJECT = project_folder()
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = "playwright is not installed" if sync_api is None else ""
MISSING = MISSING or ("" if CHROMIUM else "there is no chromium")
REQUIRED = os.environ.get("HMODE_BROWSER") == "required"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING) and not REQUIRED, reason=f"not seen in a browser: {MISSING}"),
]
PATIENCE = 180_000  # milliseconds, for a busy machine


@pytest.fixture(scope="module")
def browser():
    assert not MISSING, MISSING
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser):
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


# Luminance contrast of an element's text with what is behind it, 1 to 21 (WCAG 2).
CONTRAST = """element => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let behind = element, colour = [0, 0, 0, 0];
  while (behind && !(colour.length === 3 || colour[3] > 0)) {
    colour = numbers(getComputedStyle(behind).backgroundColor);
    behind = behind.parentElement;
  }
  const [a, b] = [light(numbers(getComputedStyle(element).color)), light(colour)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


class TestDemos:
    @pytest.fixture
    def demo(self, page):
        """Open a demonstration by name; it stands alone, with made-up gates."""
        demos = PROJECT / "hmode" / "course" / "demos"

        def open_demo(name):
            box = re.search(r"<div.*</div>", (demos / f"{name}.md").read_text()).group()
            gate = {"name": "E1", "columns": 2, "top": 9, "words": "w", "values": [0, 9, 4, 4]}
            gates = f"const GATES = {json.dumps([gate, gate | {'name': 'E2'}])};"
            script = gates + (demos / "demos.js").read_text()
            problems = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.set_content(f"{box}<script>{script}</script>")
            assert not problems
            return page

        return open_demo

    def words(self, page):
        return page.locator("output").inner_text()

    def put(self, page, label, value):
        page.get_by_label(label, exact=True).fill(str(value))

    def test_sigma_keeps_the_people(self, demo):
        page = demo("sigma")
        peaks = []
        for sigma in (0.5, 4, 16):
            self.put(page, "σ (pixels)", sigma)
            assert "sum 40.000 people" in self.words(page)
            peaks.append(float(re.search(r"peak ([\d.]+)", self.words(page)).group(1)))
        assert peaks == sorted(peaks, reverse=True)

    def test_a_pair_of_opposite_errors_can_be_exact(self, demo):
        page = demo("pair")
        assert "best weight 0.75: 0.00" in self.words(page)
        self.put(page, "weight of the first", 0.75)
        assert "error of the mixture 0.00" in self.words(page)
        self.put(page, "error of the first expert", 2)
        assert "best weight 1.00: 2.00" in self.words(page)

    def test_the_hierarchy_is_a_mixture_of_the_three(self, demo):
        page = demo("mixture")
        assert "final 5.000 = 0.33" in self.words(page)
        self.put(page, "gate 1: weight of E1 against E3", 1)
        self.put(page, "gate 1: weight of E2 against E3", 1)
        assert "+ 0.00 · 9.0" in self.words(page)

    def test_relative_loss_of_notebook_04_by_keyboard_and_by_dragging(self, demo):
        page = demo("rel")
        assert "L_Rel = 2.5 " in self.words(page)
        bar = page.get_by_role("slider", name="predicted count of region 3", exact=True)
        bar.focus()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowUp")
        assert "L_Rel = 1.5 " in self.words(page)
        place = bar.bounding_box()
        page.mouse.move(place["x"] + 5, place["y"] + 5)
        page.mouse.down()
        page.mouse.move(place["x"] + 5, place["y"] + 500)
        page.mouse.up()
        assert bar.get_attribute("aria-valuenow") == "0"
        assert "x6 over x3: 6.0" in self.words(page)
        for name in ("perfect", "flat", "empty"):
            page.get_by_role("button", name=name).click()
            assert "L_Rel = 0.0, all in order" in self.words(page)
        assert "people predicted 0.0, true 49.5" in self.words(page)

    def test_the_scrubber_goes_through_the_maps(self, demo):
        page = demo("gates")
        assert self.words(page) == "E1: w"
        page.get_by_role("slider", name="map", exact=True).focus()
        page.keyboard.press("ArrowRight")
        assert self.words(page) == "E2: w"

    def test_game_sees_the_shift_that_the_count_does_not(self, demo):
        page = demo("game")
        self.put(page, "shift to the right (pixels)", 0)
        assert self.words(page) == "GAME(0) = 0, GAME(1) = 0, GAME(2) = 0, GAME(3) = 0"
        self.put(page, "shift to the right (pixels)", 16)
        game = [int(each) for each in re.findall(r"= (\d+)", self.words(page))]
        assert game[0] == 0 < game[3]
        assert game == sorted(game)


BOOK = PROJECT / "book" / "_build" / "html"


@pytest.mark.skipif(not BOOK.is_dir() and not REQUIRED, reason="no book here: make book")
class TestBook:
    """From files, without a server."""

    @pytest.fixture
    def visit(self, page):
        """Open a page of the book: what it loads, in bytes by address, without a complaint."""
        loaded, problems = {}, []

        def asked(request):
            address = urlparse(request.url)
            if address.scheme == "file":
                loaded[request.url] = Path(unquote(address.path)).stat().st_size
            elif address.scheme != "data":
                problems.append(request.url)

        page.on("request", asked)
        page.on("pageerror", lambda error: problems.append(str(error)))

        def open_page(path):
            loaded.clear()
            page.goto(path.as_uri(), wait_until="domcontentloaded")
            page.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager' })")
            page.wait_for_load_state()
            page.evaluate("window.MathJax?.startup?.promise.then(() => 0)")
            assert not problems, path
            return loaded

        return open_page

    def test_pages_are_below_three_megabytes_and_load_nothing_from_the_net(self, visit):
        pages = [path for path in sorted(BOOK.rglob("*.html")) if "_static" not in path.parts]
        assert len(pages) >= 20
        for path in pages:
            assert sum(visit(path).values()) < 3_000_000, path

    def test_demonstrations_work_in_the_dark(self, page, visit):
        page.emulate_media(color_scheme="dark")
        for name in ("sigma", "pair", "mixture", "rel", "gates", "game"):
            visit(BOOK / "demos" / f"{name}.html")
            before = page.locator(".demo output").inner_text()
            slider = page.locator(".demo [role=slider], .demo input[type=range]").first
            slider.focus()
            page.keyboard.press("ArrowUp")
            assert page.locator(".demo output").inner_text() != before
            assert page.locator(".demo output").evaluate(CONTRAST) > 4.5

    def test_search_finds(self, page):
        page.goto((BOOK / "search.html").as_uri() + "?q=foreground", wait_until="commit")
        page.locator("#search-results li a").first.wait_for()

    def test_solutions_are_folded(self, page, visit):
        visit(BOOK / "01-density-maps.html")
        folded = page.locator("details")
        assert folded.count() >= 3
        assert page.locator("details[open]").count() == 0
        folded.last.locator("summary").click()
        assert folded.last.locator("pre").first.is_visible()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab as `make lab` starts it, on a folder of its own: its address and the folder."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("notebooks", "figures"):
        (folder / name).symlink_to(PROJECT / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limit = re.search(r"websocket_max_message_size': \d+", (PROJECT / "Makefile").read_text())
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ip=127.0.0.1", "--ServerApp.token=", "--ServerApp.password="]
    command += [f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"]
    command += [f"--ServerApp.tornado_settings={{'{limit.group()}}}"]
    settings = {"HMODE_PROFILE": "smoke", "HMODE_OUTPUT": str(folder), "OMP_NUM_THREADS": "1"}
    settings |= {"HMODE_FIGURES": str(folder / "made")}
    settings |= {"PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, sys.path)])}
    settings |= {"JUPYTER_CONFIG_DIR": str(folder / "settings")}
    settings |= {"IPYTHONDIR": ipython_folder(folder / "ipython")}
    environment = os.environ | settings
    environment.pop("MPLBACKEND", None)  # the tests' own; a kernel shows figures in its cells
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, env=environment, **quiet)
    try:
        for _ in range(480):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api").close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", folder
    finally:
        server.terminate()
        server.wait(60)


class Desk:
    """A notebook open in JupyterLab, which is opened but once: that takes longest."""

    def __init__(self, page, address, folder):
        self.page, self.address, self.folder, self.laid = page, address, folder, 0
        page.goto(f"{address}/lab?reset")
        page.wait_for_function("window.jupyterapp?.shell?.currentWidget")

    def lay(self, *sources):
        """Open a notebook of these cells in place of the last, and run them."""
        self.laid += 1
        self.name = f"{self.laid}.ipynb"
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
        nbformat.write(notebook, self.folder / self.name)
        self.close()
        self.open()
        self.page.wait_for_function(
            "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"
            "?.connectionStatus === 'connected'"
        )
        self.command("notebook:run-all-cells")

    def close(self):
        """What is open and its kernel. The launcher stays: JupyterLab would open another, later."""
        self.page.evaluate(
            """() => {
              for (const each of [...window.jupyterapp.shell.widgets("main")])
                if (each.context) each.dispose();
              return window.jupyterapp.serviceManager.sessions.shutdownAll();
            }"""
        )

    def open(self):
        self.command("docmanager:open", path=self.name)
        self.page.wait_for_function(  # in front, whatever else comes there meanwhile
            """name => {
              const shell = window.jupyterapp.shell;
              const ours = [...shell.widgets("main")].find(each => each.context?.path === name);
              if (ours && ours !== shell.currentWidget) shell.activateById(ours.id);
              return ours && ours === shell.currentWidget;
            }""",
            arg=self.name,
            polling=100,
        )
        self.page.locator(".jp-CodeCell").first.wait_for()

    def command(self, name, **arguments):
        self.page.evaluate(
            "([name, given]) => window.jupyterapp.commands.execute(name, given) && 0",
            [name, arguments],
        )

    @property
    def picture(self):
        """The last of the first cell: its widget's, where it has one."""
        return self.page.locator(".jp-CodeCell").first.locator(".jp-OutputArea img").last

    def drawn(self):
        """Wait for a widget and its picture; the picture's source."""
        self.page.get_by_text("No controls?").wait_for()  # the last of the outputs
        self.page.wait_for_function(  # its keys are its own
            "!document.querySelector('.hmode-controls > * :not([data-lm-suppress-shortcuts])')"
        )
        return self.picture.get_attribute("src")

    def another(self, before):
        """Wait until the picture is another; its source."""
        self.page.wait_for_function(
            """old => {
              const cell = document.querySelector('.jp-CodeCell');
              return [...cell.querySelectorAll('.jp-OutputArea img')].at(-1)?.src !== old;
            }""",
            arg=before,
        )
        return self.picture.get_attribute("src")


@pytest.fixture(scope="module")
def desk(browser, lab):
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    context.set_default_navigation_timeout(PATIENCE)
    yield Desk(context.new_page(), *lab)
    context.close()


# A picture is as high as the level says, and as wide as there were moves. The second waits for a
# word from outside, so that a test can move on while it is drawn.
WIDGET = """
import time
from pathlib import Path
from hmode import plots
from hmode.widgets import explore

drawn = []

def draw(level, name):
    drawn.append(level)
    if len(drawn) == 2:
        Path("busy").touch()
        while not Path("go on").exists():
            time.sleep(0.02)
    fig, ax = plots.subplots(figsize=(2 + len(drawn) / 10, 1 + level / 10))
    ax.set_title(name)
    return fig

explore(draw, level=(0, 40), name=["first", "second", "third"])
"""
INCH = 100  # pixels on the screen: figures are drawn at twice that


class TestWidgets:
    @pytest.fixture
    def go_on(self, desk):
        word = desk.folder / "go on"
        word.touch()
        yield word
        word.unlink(missing_ok=True)
        (desk.folder / "busy").unlink(missing_ok=True)

    def test_late_moves_are_dropped_and_the_last_one_is_shown(self, desk, go_on):
        go_on.unlink()
        desk.lay(WIDGET)
        handle = desk.page.get_by_role("slider", name="level", exact=True)
        desk.drawn()
        handle.press("ArrowRight")
        while not (desk.folder / "busy").exists():
            desk.page.wait_for_timeout(50)
        for _ in range(19):
            handle.press("ArrowRight")
        go_on.touch()
        shown = "document.querySelector('.jp-OutputArea img')"
        desk.page.wait_for_function(f"{shown}.height >= {5 * INCH - 2}")
        # At 20 at first, at 21 and at 40; not at what was passed in between.
        assert abs(desk.page.evaluate(f"{shown}.width") - 2.3 * INCH) <= 2

    def test_a_move_does_not_take_the_figure_of_a_running_cell(self, desk, go_on):
        slow = """
import matplotlib.pyplot as plt
fig, ax = plt.subplots()
while len(drawn) < 6:
    time.sleep(0.1)
print(len(drawn), "drawn")
plt.show()
"""
        desk.lay(WIDGET, "")
        handle = desk.page.get_by_role("slider", name="level", exact=True)
        before = desk.drawn()
        handle.press("ArrowRight")
        before = desk.another(before)  # from now on widgets have a thread of their own
        desk.page.evaluate(
            """source => {
              const book = window.jupyterapp.shell.currentWidget.content;
              book.widgets[1].model.sharedModel.setSource(source);
              book.activeCellIndex = 1;
            }""",
            slow,
        )
        desk.command("notebook:run-cell")
        for _ in range(4):
            handle.press("ArrowRight")
            before = desk.another(before)
        first, second = (desk.page.locator(".jp-CodeCell").nth(i) for i in range(2))
        second.locator(".jp-OutputArea img").wait_for()
        assert second.locator(".jp-OutputArea img").count() == 1
        assert "6 drawn" in second.inner_text()
        assert first.locator(".jp-OutputArea img").count() == 1

    def test_by_keyboard_in_the_dark_and_after_the_kernel_is_gone(self, desk, go_on):
        page = desk.page
        desk.command("apputils:change-theme", theme="JupyterLab Dark")
        desk.lay(WIDGET, "1 + 1")
        handle = page.get_by_role("slider", name="level", exact=True)
        before = desk.drawn()
        for each in (".widget-label", ".widget-readout", ".jp-OutputArea small"):
            assert page.locator(each).first.evaluate(CONTRAST) > 4.5, each
        active = ".jp-Notebook .jp-Cell.jp-mod-active"
        handle.press("ArrowRight")
        before = desk.another(before)
        where = page.locator(active).inner_text()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")  # past the number, which can be written
        menu = page.locator(".widget-dropdown select")
        assert menu.evaluate("menu => menu === document.activeElement")
        for option, key in (("first", "ArrowUp"), ("second", "ArrowDown"), ("third", "ArrowDown")):
            page.keyboard.press(key)
            before = desk.another(before)
            assert menu.input_value() == option
        page.keyboard.press("b")
        assert page.locator(".jp-CodeCell").count() == 2
        assert page.locator(active).inner_text() == where

        desk.command("docmanager:save")
        page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")
        desk.close()
        desk.open()
        desk.picture.wait_for()
        assert desk.picture.get_attribute("src") == before
        assert page.get_by_text("Run this cell for the sliders").is_visible()


def widget_cells():
    """(notebook's number, source) of each cell with controls, before it all that it needs."""
    for path in numbered(PROJECT / "notebooks"):
        notebook = nbformat.read(path, as_version=4)
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type == "code" and cell.source.split("\n")[-1].startswith("explore("):
                needed = (notebook.cells[i].source for i in cells_for(notebook, index))
                yield path.name[:2], "\n\n".join(needed)


class TestNotebooks:
    def test_every_control_of_every_notebook_moves_its_figure(self, desk):
        moved = []
        for number, source in widget_cells():
            desk.lay(source)
            before = desk.drawn()
            handles = desk.page.locator(".hmode-controls .noUi-handle")
            for i in range(handles.count()):
                now, top = (handles.nth(i).get_attribute(f"aria-value{x}") for x in ("now", "max"))
                handles.nth(i).press("ArrowLeft" if float(now) == float(top) else "ArrowRight")
                before = desk.another(before)
                moved.append((number, handles.nth(i).get_attribute("aria-label")))
            menus = desk.page.locator(".hmode-controls select")
            for i in range(menus.count()):
                menus.nth(i).press("ArrowUp")  # it begins in the middle
                before = desk.another(before)
                moved.append((number, "a menu"))
        assert len(moved) >= 20
        assert all(name for _, name in moved)
        assert {"00", "01", "02", "03", "04", "05", "06", "07", "08", "10"} == {n for n, _ in moved}


@pytest.fixture(scope="module")
def photographs():
    """By name: a photograph, one with alpha, one of 20 megapixels and 15 MB, and a broken."""
    photo = PROJECT / "notebooks" / "photos" / "lima_market.jpg"
    files, whole = {"photo.jpg": photo.read_bytes()}, Image.open(photo)

    def encoded(picture, kind, **options):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        return file.getvalue()

    files["alpha.png"] = encoded(whole.convert("RGBA"), "PNG")
    grain = np.random.default_rng(0).integers(0, 40, (3648, 5472, 1), dtype=np.uint8)
    large = np.asarray(whole.resize((5472, 3648))) // 2 + grain
    files["large.jpg"] = encoded(Image.fromarray(large), "JPEG", quality=97)
    assert len(files["large.jpg"]) > 10 * 2**20
    return files | {"broken.jpg": files["photo.jpg"][:5000], "none.jpg": b"no picture"}


class TestUpload:
    def test_notebook_10_counts_what_is_uploaded_and_goes_on_after_what_is_none(
        self, desk, photographs, lab
    ):
        notebook = nbformat.read(PROJECT / "notebooks" / "10-your-pictures.ipynb", as_version=4)
        sources = [cell.source for cell in notebook.cells]
        asking = next(i for i, source in enumerate(sources) if "ask_for_picture(take)" in source)
        desk.lay("\n\n".join(sources[i] for i in cells_for(notebook, asking)))
        page = desk.page
        page.get_by_text("10 MB under plain").wait_for()
        pictures = desk.page.locator(".jp-OutputArea img")
        others = pictures.count()

        def upload(name):
            file = {"name": name, "mimeType": "image/jpeg", "buffer": photographs[name]}
            with page.expect_file_chooser() as chooser:
                page.get_by_role("button", name="your picture").click()
            chooser.value.set_files(file)

        for name in ("photo.jpg", "broken.jpg", "alpha.png", "none.jpg"):
            upload(name)
            page.get_by_text(re.compile(rf"^{name}: ")).wait_for()
            assert pictures.count() == others + (name not in ("broken.jpg", "none.jpg"))
        upload("large.jpg")
        page.get_by_text("Counting large.jpg, 5472 x 3648").wait_for()
        assert page.locator(".jp-OutputArea progress").is_visible()
        page.get_by_text(
            re.compile(r"^large\.jpg: .*counted at \d+ x \d+ .*heads below")
        ).wait_for()

        (lab[1] / "by-path.png").write_bytes(photographs["alpha.png"])
        page.keyboard.press("Tab")
        field = page.get_by_placeholder("or the path of a file")
        field.focus()
        page.keyboard.type(str(lab[1] / "by-path.png"))
        page.keyboard.press("Enter")
        page.get_by_text(re.compile(r"^by-path\.png: ")).wait_for()
