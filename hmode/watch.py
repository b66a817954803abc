"""How far the series of notebooks, or a sweep, is, read off the files that it writes as it goes."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from tqdm import tqdm

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
        started = time.time()
        with _meanwhile(lambda: self.show and self.show(self.line(path, executed, started))):
            yield

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
    except (OSError, ValueError):  # none, or just being written
        return ""
    (done, epochs), name = _epochs(newest.parent), newest.parent.relative_to(runs).parts[2]
    return f", {name}: {done} of {epochs} epochs" if done < epochs else ""


@contextmanager
def epochs_bar(folders: list[Path], epochs: int, say: Callable[[str], None]):
    """While runs are trained, by whatever process: a bar over their epochs, with the time left; in
    a log, a line a minute. Gives what says a line above the bar.

    Args:
        folders: of the runs; one that fails may be taken out.
        epochs: of a run that has not begun.
    """

    def look():
        known = [_epochs(folder, epochs) for folder in folders]
        bar.total = sum(total for _, total in known)
        bar.update(sum(done for done, _ in known) - bar.n)

    def above(line: str) -> None:
        with tqdm.external_write_mode():
            say(line)

    before = sum(_epochs(folder)[0] for folder in folders)
    how = {"initial": before, "smoothing": 0, "miniters": 0, "unit": "epoch"}
    if not sys.stderr.isatty():  # lines like all others, and none where all is soon over
        log = SimpleNamespace(write=lambda text: text.strip() and say(text.strip()), flush=int)
        how |= {"file": log, "delay": 60, "mininterval": 60}
    with tqdm(None, "epochs", len(folders) * epochs, **how) as bar, _meanwhile(look):
        yield above


def _epochs(folder: Path, expected: int = 0) -> tuple[int, int]:
    """Epochs that a run has done, and all of them, or as expected before the first."""
    try:
        done = len(read_csv(folder / "history.csv"))
        return done, int(read_json(folder / "config.json")["schedule"]["epochs"])
    except (HmodeError, LookupError, TypeError, ValueError):  # none, being written, or damaged
        return 0, expected


@contextmanager
def _meanwhile(look: Callable[[], object]):
    """Look every second while something else runs, and once more when it is over."""
    over = threading.Event()

    def loop():
        while not over.wait(1.0):
            look()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()


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
