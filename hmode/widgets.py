"""Sliders over pure drawing functions, with one picture in their place where nobody can move them.

A widget is a function `draw(...) -> Figure` and a control for each argument. In JupyterLab the
reader moves the controls; under HMODE_STATIC=1 (papermill, tests, printed pages) the middle setting
is drawn once.
"""

import os
from collections.abc import Callable

import matplotlib.pyplot as plt
from ipywidgets import interactive
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

    def show(**values) -> None:
        draw(**values)
        plt.show()

    options = {name: control for name, control in controls.items() if isinstance(control, list)}
    widget = interactive(show, **controls)
    for child in widget.kwargs_widgets:
        if child._kwarg in options:
            child.value = options[child._kwarg][len(options[child._kwarg]) // 2]
    if not static():
        return widget
    show(**{child._kwarg: child.value for child in widget.kwargs_widgets})
    return None


def static() -> bool:
    """Whether pictures stand in for widgets."""
    return os.environ.get("HMODE_STATIC", "") not in ("", "0")
