"""Sliders over pure drawing functions, with one picture in their place where nobody can move them.

A widget is a function `draw(...) -> Figure` and a control for each argument. In JupyterLab the
reader moves the controls; under HMODE_STATIC=1 (papermill, tests, printed pages) the middle setting
is drawn once.
"""

import base64
import io
import os
from collections.abc import Callable

import matplotlib.pyplot as plt
from IPython.display import HTML
from ipywidgets import Dropdown, interactive
from matplotlib.figure import Figure
from PIL import Image

from hmode.data.pictures import to_pixels

CLICKED = """
const box = this.getBoundingClientRect(), text = this.nextElementSibling;
const old = JSON.parse(text.value || '[]'), at = old.length < 4 ? old : [];
at.push([Math.round((event.clientX - box.left) * %(width)d / box.width),
         Math.round((event.clientY - box.top) * %(height)d / box.height)]);
text.value = JSON.stringify(at);
"""


def explore(draw: Callable[..., Figure], **controls) -> interactive | None:
    """Show `draw` with a control for each argument, or its middle setting.

    Args:
        draw: makes a figure from the controls' values.
        controls: ipywidgets' abbreviations by argument name: (low, high) or (low, high, step) for
            a slider, a list of options for a menu; or a widget.

    Returns:
        The widget (displayed by the cell it ends), or None when the picture was drawn.
    """

    for name, control in controls.items():
        if isinstance(control, list):
            controls[name] = Dropdown(options=control, value=control[len(control) // 2])

    def show(**values) -> None:
        draw(**values)
        plt.show()

    if not static():
        return interactive(show, **controls)
    middle = interactive(lambda **values: None, **controls).kwargs_widgets
    show(**{child._kwarg: child.value for child in middle})
    return None


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
