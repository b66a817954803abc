"""Sliders over pure drawing functions, with one picture in their place where nobody can move them.

A widget is a function `draw(...) -> Figure` and a control for each argument. In JupyterLab the
reader moves the controls; under HMODE_STATIC=1 (papermill, tests, printed pages) the middle setting
is drawn once.
"""

import os
from collections.abc import Callable

import matplotlib.pyplot as plt
from ipywidgets import Dropdown, interactive
from matplotlib.figure import Figure


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
