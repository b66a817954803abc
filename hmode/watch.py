"""How far the series of notebooks is, read off the files that it writes as it goes."""

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from hmode.errors import HmodeError
from hmode.runs import read_csv, read_json


class Watch:
    """Says every second which notebook, cell and epoch is being run, and how long it still takes.

    Args:
        paths: the notebooks, in order.
        copies: folder of executed copies; those of an earlier time say how long one takes.
        runs: the folder of trained runs.
        show: is told; None: nobody is.
    """

    def __init__(
        self, paths: list[Path], copies: Path, runs: Path, show: Callable[[str], None] | None
    ):
        self.paths, self.runs, self.show = paths, runs, show
        self.expected: dict[Path, float] = {}  # seconds
        for path in paths if show else ():
            known = _papermill(copies / path.name).get("duration")
            self.expected[path] = known or 2.0 * len(_code(path))

    @contextmanager
    def of(self, path: Path, executed: Path):
        """While this notebook runs."""
        started, over = time.time(), threading.Event()

        def look():
            while not over.wait(1.0):
                self.show(self.line(path, executed, started))

        thread = threading.Thread(target=look, daemon=True)
        if self.show:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if self.show:
                thread.join()

    def line(self, path: Path, executed: Path, started: float) -> str:
        """What is being done now."""
        spent, number = time.time() - started, self.paths.index(path) + 1
        cells = [cell["metadata"].get("papermill", {}).get("status") for cell in _code(executed)]
        at = min(cells.count("completed") + 1, len(cells))
        where = f": cell {at} of {len(cells)}" if cells else ""
        left = sum(self.expected[each] for each in self.paths[number:])
        left += max(self.expected[path] - spent, 0)
        return (
            f"[{number}/{len(self.paths)}] {path.stem}{where}{training(self.runs, started)}, "
            f"{spent:.0f} s, about {left:.0f} s left"
        )


def training(runs: Path, since: float) -> str:
    """The epoch of the training that writes into a folder of runs, if one does."""
    try:
        tables = {path.stat().st_mtime: path for path in runs.glob("*/*/*/**/history.csv")}
        newest = tables[max(time for time in tables if time > since)]
        done = len(read_csv(newest))
        epochs = read_json(newest.parent / "config.json")["schedule"]["epochs"]
    except (OSError, HmodeError, LookupError, ValueError):  # none, or just being written
        return ""
    name = newest.parent.relative_to(runs).parts[2]
    return f", {name}: {done} of {epochs} epochs" if done < epochs else ""


def _papermill(path: Path) -> dict:
    """What papermill noted of an executed copy; nothing while it is being written."""
    try:
        return read_json(path)["metadata"]["papermill"]
    except (HmodeError, LookupError):
        return {}


def _code(path: Path) -> list[dict]:
    """The code cells of a notebook; none while it is being written."""
    try:
        return [cell for cell in read_json(path)["cells"] if cell["cell_type"] == "code"]
    except (HmodeError, LookupError):
        return []
