"""Sliders over pure drawing functions, with one picture in their place where nobody can move them.

A widget is a function `draw(...) -> Figure` and a control for each argument. In JupyterLab the
reader moves the controls; under HMODE_STATIC=1 (papermill, tests, printed pages) the middle setting
is drawn once.

The picture is an ordinary output of the cell, replaced at every move: so a saved notebook shows the
last one. A move is drawn while other cells run: with `hmode.plots.subplots`, as pyplot's state is
theirs.
"""

import base64
import inspect
import io
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import HTML, display
from ipywidgets import Dropdown, FileUpload, Text, VBox, Widget, interactive
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import flush_figures
from PIL import Image

from hmode.data.pictures import to_pixels
from hmode.errors import InputError

CLICKED = """
const box = this.getBoundingClientRect(), text = this.nextElementSibling;
const old = JSON.parse(text.value || '[]'), at = old.length < 4 ? old : [];
at.push([Math.round((event.clientX - box.left) * %(width)d / box.width),
         Math.round((event.clientY - box.top) * %(height)d / box.height)]);
text.value = JSON.stringify(at);
"""

# Below each picture. JupyterLab would take the keys of a focused menu or button for its own (it
# asks the focused element before those around it), and ipywidgets gives the handles of sliders no
# name: the script sets both right, once the controls are there.
NOTE = """<small>No controls? Run this cell for the sliders.</small>
<script>(() => {
  let tries = 0;
  const look = setInterval(() => {
    for (const row of document.querySelectorAll(".hmode-controls > *")) {
      row.querySelectorAll("*").forEach((each) =>
        each.setAttribute("data-lm-suppress-shortcuts", "true"));
      const name = row.querySelector(".widget-label")?.textContent;
      row.querySelectorAll(".noUi-handle").forEach((each, i, all) =>
        each.setAttribute("aria-label", all.length > 1 ? `${name}, ${i ? "to" : "from"}` : name));
    }
    if (++tries > 240) clearInterval(look);
  }, 250);
})();</script>"""

MOST_UPLOADED = "10 MB under plain `jupyter lab`, 250 MB under `make lab`"


class Pictured(VBox):
    """Widgets over ordinary outputs of their cell, which `put` replaces.

    Args:
        children: the widgets.
        shown: what stands below them at first, figures, texts or HTML.
    """

    def __init__(self, children: list[Widget], *shown: Figure | HTML | str):
        super().__init__(children)
        self.add_class("hmode-controls")
        self._outputs = [as_output(each) for each in shown]
        self._handles: list[list] = []  # for each time the widget was displayed, its outputs'

    def _ipython_display_(self) -> None:
        keep_figures_of_running_cells()
        display(self._repr_mimebundle_(), raw=True)
        self._handles.append(
            [
                display(content, metadata=metadata, raw=True, display_id=True)
                for content, metadata in self._outputs
            ]
        )
        display(HTML(NOTE))

    def put(self, *shown: Figure | HTML | str) -> None:
        """Replace the outputs, as many as there were."""
        self._outputs = [as_output(each) for each in shown]
        for handles in self._handles:
            for handle, (content, metadata) in zip(handles, self._outputs, strict=True):
                handle.update(content, metadata=metadata, raw=True)


class Controls(Pictured):
    """Controls over a picture that is drawn anew whenever one of them moves.

    Args:
        draw: makes the figure from the controls' values by name.
        controls: widgets by name.
    """

    def __init__(self, draw: Callable[..., Figure], controls: dict[str, Widget]):
        self._draw, self._by_name = draw, controls
        super().__init__(list(controls.values()), self._figure())
        for each in controls.values():
            each.observe(self._moved, "value")

    def _figure(self) -> Figure:
        return self._draw(**{name: each.value for name, each in self._by_name.items()})

    def _moved(self, change) -> None:
        try:
            shown = self._figure()
        except Exception as error:  # a callback has no cell to show its traceback in
            shown = f"{type(error).__name__}: {error}"
        self.put(shown)


def keep_figures_of_running_cells() -> None:
    """Have pyplot's figures shown at the end of cells only.

    The inline backend shows and closes all after each message of a widget too, and JupyterLab
    sends those to a thread of their own: a move would take a running cell's figures.
    """
    events = getattr(get_ipython(), "events", None)
    if events and flush_figures in events.callbacks["post_execute"]:
        events.unregister("post_execute", flush_figures)
        events.register("post_execute", _flush_figures_of_cells)


def _flush_figures_of_cells() -> None:
    if threading.current_thread() is threading.main_thread():
        flush_figures()


def as_output(shown: Figure | HTML | str) -> tuple[dict, dict]:
    """A figure at the resolution of a retina display, a text or HTML, as content and metadata of an
    output. A figure of pyplot's is closed: nothing else shows it. Drawn once and kept as JPEG, it
    takes half the time of IPython's way."""
    if isinstance(shown, str):
        return {"text/plain": shown}, {}
    if isinstance(shown, HTML):
        return {"text/html": shown.data}, {}
    plt.close(shown)
    if not shown.axes:
        return {"text/plain": "an empty figure"}, {}
    shown.set_dpi(2 * plt.rcParams["figure.dpi"])
    canvas = FigureCanvasAgg(shown)
    canvas.draw()
    picture, file = Image.fromarray(np.asarray(canvas.buffer_rgba())), io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=90, subsampling=0)
    content = {"image/jpeg": base64.b64encode(file.getvalue()).decode(), "text/plain": "a figure"}
    return content, {"image/jpeg": {"width": picture.width // 2, "height": picture.height // 2}}


def explore(draw: Callable[..., Figure], **controls) -> Controls | None:
    """Show `draw` with a control for each argument, or its middle setting.

    Args:
        draw: makes a figure from the controls' values, with `hmode.plots.subplots`.
        controls: ipywidgets' abbreviations by argument name: (low, high) or (low, high, step) for
            a slider, a list of options for a menu; or a widget.

    Returns:
        The widget (displayed by the cell it ends), or None when the picture was drawn.
    """
    made = {name: _control(name, control) for name, control in controls.items()}
    if not static():
        return Controls(draw, made)
    display(draw(**{name: each.value for name, each in made.items()}))
    return None


def _control(name: str, control) -> Widget:
    if isinstance(control, list):
        control = Dropdown(options=control, value=control[len(control) // 2])
    made = interactive.widget_from_abbrev(control, inspect.Parameter.empty)
    made.description = made.description or name
    made.style.description_width = "initial"
    return made


def ask_for_picture(count: Callable[[Path], tuple[str, Figure]]) -> Pictured | None:
    """A button and a field for a path; a picture given by either is counted and shown.

    Args:
        count: of a picture's file: what to say, and the figure below it. Its `InputError` is shown
            as a line, without the folder that an upload was put in.

    Returns:
        The widget, or None where nobody can press a button.
    """
    if static():
        return None
    button = FileUpload(accept="image/*", description="your picture")
    field = Text(placeholder="or the path of a file on this machine", continuous_update=False)
    box = Pictured([button, field], f"Uploads may have {MOST_UPLOADED}; a path, any size.", "")

    def look(path: Path) -> None:
        size = ""
        with suppress(OSError), Image.open(path) as picture:
            size = f", {picture.width} x {picture.height}"
        box.put(HTML(f"Counting {escape(path.name)}{size} … <progress></progress>"), "")
        try:
            box.put(*count(path))
        except InputError as error:
            box.put(str(error).replace(str(path), path.name), "")

    def uploaded(change) -> None:
        with TemporaryDirectory() as folder:
            for file in change["new"]:
                path = Path(folder, Path(file["name"]).name)
                path.write_bytes(file["content"])
                look(path)

    def named(change) -> None:
        if change["new"].strip():
            look(Path(change["new"].strip()))

    button.observe(uploaded, "value")
    field.observe(named, "value")
    return box


def static() -> bool:
    """Whether pictures stand in for widgets."""
    return os.environ.get("HMODE_STATIC", "") not in ("", "0")


def pick_corners(image, *, shown: int = 900) -> HTML:
    """A picture to click four corners on, for `hmode.ground.Ground`.

    Their coordinates, [[x, y], ...] in the picture's pixels, stand below it, to be copied; a fifth
    click begins anew.

    Args:
        image: as `hmode.count` takes it.
        shown: pixels of the longer side on the screen.
    """
    pixels = to_pixels(image)
    height, width = pixels.shape[1:]
    small = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    small.thumbnail((shown, shown))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    source = base64.b64encode(file.getvalue()).decode()
    script = CLICKED % {"width": width, "height": height}
    return HTML(
        f'<img src="data:image/jpeg;base64,{source}" onclick="{script}" style="cursor:crosshair">'
        '<input readonly style="display:block; width:40em">'
    )
