"""A page in the browser: drop a photograph, see the count, where it comes from, and who counted.

All is computed and served by this machine; the page loads nothing from elsewhere.
"""

import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hmode.counting import Count, count
from hmode.data.pictures import to_pixels
from hmode.errors import HmodeError, InputError
from hmode.extras import need
from hmode.models import CountingNetwork
from hmode.overlay import draw_overlay

MOST_BYTES = 50 * 2**20  # of an upload
MOST_PIXELS = 50_000_000  # of a photograph
MOST_SECONDS = 120.0  # for its count
MOST_GIB = 3.0
WAITING = 8  # photographs; one is counted at a time
KEPT = 600  # seconds, before an upload is deleted
ABOUT = (
    "# Counting a crowd\nDrop a photograph: it stays on the machine that runs this page, and is "
    "deleted there within twenty minutes. The network makes a density map; its sum is the count."
)


def build(model: CountingNetwork):
    """The page, a gradio Blocks.

    Args:
        model: a trained network, as of `for_inference`.

    Raises:
        InputError: the extra "demo" is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    gradio = need("gradio", "demo", "The demo")

    def show(path: str | None):
        if path is None:
            return "", None, None, None
        try:
            return answers(Path(path), model)
        except HmodeError as error:
            said = str(error).replace(str(path), Path(path).name)
            return f"**{said}**", None, None, None

    with gradio.Blocks(title="hmode", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gradio.Markdown(ABOUT)
        picture = gradio.File(label="Photograph", type="filepath")
        text = gradio.Markdown(elem_id="count")
        overlay = gradio.Plot(label="People per pixel")
        experts = gradio.Dataframe(headers=["expert", "people"], label="What each expert counts")
        gates = gradio.Plot(label="Whom the gates trust where")
        picture.change(show, picture, [text, overlay, experts, gates], concurrency_limit=1)
    return page.queue(max_size=WAITING)


def answers(path: Path, model: CountingNetwork) -> tuple:
    """The count in words, the overlay, [expert, people] of each expert, and the gates.

    Raises:
        InputError: the file is no picture, or one that takes too much.
    """
    pixels = to_pixels(path, max_pixels=MOST_PIXELS)
    counted = count(pixels, model, max_memory=MOST_GIB, name=path.name, seconds=MOST_SECONDS)
    experts = [[f"E{k}", round(people, 1)] for k, people in enumerate(counted.experts, start=1)]
    text = f"## {counted.count:.1f} people"
    return text, draw_overlay(pixels, counted), experts, draw_gates(counted)


def draw_gates(counted: Count) -> Figure | None:
    """The weights of the last mixture, a map for each of its inputs; None without gates."""
    gate1, gate2 = counted.prediction.gate1, counted.prediction.gate2
    if gate1 is None and gate2 is None:
        return None
    maps = (gate1[0, 0] if gate2 is None else gate2[0]).numpy()
    shape = np.clip(maps.shape[1] / maps.shape[2], 0.3, 3)
    figure = Figure(figsize=(3 * len(maps) + 1, 3 * shape + 0.5), layout="constrained")
    for number, axes in enumerate(figure.subplots(1, len(maps), squeeze=False)[0]):
        shown = axes.imshow(maps[number], vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"input {number + 1}: {100 * maps[number].mean():.0f} %")
    figure.colorbar(shown, ax=figure.axes, label="weight")
    return figure


def serve(model: CountingNetwork, host: str = "127.0.0.1", port: int = 7860):
    """Show the page at http://host:port, in threads of its own; `close` of what it returns ends it.

    Args:
        model: as for `build`.
        host: 127.0.0.1 lets in who works on this machine; 0.0.0.0 everybody who can reach it.
        port: the port.

    Raises:
        InputError: the extra "demo" is not installed, or the place cannot be had.
    """
    page = build(model)
    themes = need("gradio", "demo", "The demo").themes
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            max_file_size=MOST_BYTES,
            footer_links=[],
            theme=themes.Default(font=["sans-serif"], font_mono=["monospace"]),  # none to fetch
        )
    except OSError as error:
        raise InputError(f"http://{host}:{port}: cannot be had: {error}") from None
    return page
