"""Run folders: the configuration, history and weights of one training, safe against interruption.

Everything is written beside its place and then renamed, so that a reader, or a run that starts
again after a crash, never sees half a file. The checkpoint is renamed last: what was written
before it is written again when the epoch is repeated, and new best weights take their place only
after it, as an epoch that is repeated on a GPU need not give them again.

Whoever writes holds a lock on a file beside the folder, which the operating system releases when
the process ends, however it ends.
"""

import csv
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hmode.errors import BusyError, InputError, MissingFileError, OutputError

DATA = ("train", "validation", "test")  # the parts of a configuration that say on what
# A configuration may be a stranger's: the most that a number is, far more than in a run of ours.
MOST = {
    "model.width": 4.0,
    "model.experts": 5,
    "model.group_size": 5,
    "model.depth": 16,
    "model.density_scale": 1e6,
    "schedule.sigma": 1000,
    "working_pixels": 2**27,
}


class RunFolder:
    """One training's folder: config.json, history.csv, timing.csv, best.safetensors,
    last.safetensors (when it is finished) and checkpoint-<epochs done>.safetensors (until then)."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def claim(self, config: dict, *, resume: bool) -> None:
        """Make the folder this configuration's, emptied first if not to resume; be `alone` in it,
        unless the run is finished: then nothing is written, and the folder may be read-only.

        Raises:
            InputError: it holds a run of another configuration, or one of other data, if to
                resume, or files that are no run.
            OutputError: it cannot be written.

        Warns:
            the run is from before the data were part of a configuration.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: a run folder is wanted, found a file")
        there = (self.path / "config.json").is_file()
        if there:
            self.require_same(config, fresh=not resume)
        elif self.path.is_dir() and not all(map(_is_partial, self.path.iterdir())):
            raise InputError(f"{self.path}: not empty and not a run folder (no config.json)")
        if there and resume and self.settled:
            return
        try:
            self._clean(everything=there and not resume)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error}") from error
        if not (there and resume):
            text = json.dumps(config, indent=2) + "\n"
            write_atomically(self.path / "config.json", lambda path: path.write_text(text))

    @property
    def finished(self) -> bool:
        """Whether the training ran to its end."""
        return (self.path / "last.safetensors").is_file()

    @property
    def settled(self) -> bool:
        """Whether the training ran to its end and nothing is left to do."""
        return self.finished and not self._leftovers()

    def _leftovers(self) -> list[Path]:
        """What a killed training left: half files, weights on their way, a finished one's
        checkpoints."""
        old = self.path.glob("checkpoint-*") if self.finished else ()
        return [*filter(_is_partial, self.path.iterdir()), *self._numbered("best").values(), *old]

    def _numbered(self, kind: str) -> dict[int, Path]:
        """The files <kind>-<epochs>.safetensors, by their epochs."""
        name = re.compile(rf"{kind}-([0-9]+)\.safetensors")
        found = {path: name.fullmatch(path.name) for path in self.path.glob(f"{kind}-*")}
        return {int(match[1]): path for path, match in found.items() if match}

    def _clean(self, everything: bool) -> None:
        """Make the folder, without what a killed training left, or empty."""
        real = self._real
        aside = real.with_name(f"{real.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        if everything:  # under another name first: half of a run is no run
            os.replace(real, aside)
            shutil.rmtree(aside)
        real.mkdir(parents=True, exist_ok=True)
        self._settle_best()
        for leftover in self._leftovers():
            _remove(leftover)

    @property
    def _real(self) -> Path:
        """The folder itself, where the path is a link."""
        return Path(os.path.realpath(self.path))

    @contextmanager
    def alone(self, *, wait: bool = True) -> Iterator[None]:
        """Keep all others out; who is in already may enter again. Says for whom it waits.

        Raises:
            BusyError: another is in there, and not to wait.
            OutputError: there is no place for the lock.
        """
        path = self._real.with_name(f".{self._real.name}.lock")
        lock = FileLock(path, is_singleton=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                busy = f"{self.path}: {_holder(path) or 'another process'} is at work on this run"
                if not wait:
                    raise BusyError(f"{busy}; try again when it is done") from None
                print(f"{busy}; waiting for it", file=sys.stderr)
                lock.acquire()
        except OSError as error:
            raise OutputError(f"{path}: cannot be locked: {error}") from error
        try:
            with suppress(OSError):  # some systems let nobody write to a locked file
                if _holder(path) or not path.stat().st_size:
                    path.write_text(f"process {os.getpid()} on {platform.node()}")
            yield
        finally:
            lock.release()

    def config(self) -> dict:
        """The stored configuration; it may be a stranger's, so nothing is made of it unchecked.

        Raises:
            MissingFileError: this is no run folder.
            InputError: its configuration is unreadable, or a value is of another type or size than
                a training's.
        """
        path = self.path / "config.json"
        if not path.is_file():
            raise MissingFileError(f"{self.path}: no run there (config.json is missing)")
        config = read_json(path)
        if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
            raise InputError(f"{path}: not a run's configuration, it has no 'model'")
        for doubt in _doubts(config):
            raise InputError(f"{path}: {doubt}")
        return config

    def identity(self) -> str:
        """A short hash of the stored configuration without its seed: equal for runs of one kind."""
        config = {name: value for name, value in self.config().items() if name != "seed"}
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]

    def require_same(self, config: dict, *, fresh: bool = False) -> None:
        """See that the stored configuration is this one; with other data, if to start afresh.

        Raises:
            InputError: it is another, or of other data.

        Warns:
            the run is from before the data were part of a configuration.
        """
        there, here = _flatten(self.config()), _flatten(json.loads(json.dumps(config)))
        unknown = {key for key in here if key.endswith(".digest") and key not in there}
        if there.get("test", "noted") is None and "test.name" in here:  # it was not watched
            del there["test"]
            unknown |= {key for key in here if key.startswith("test.")}
        if unknown and not fresh:
            warnings.warn(
                f"{self.path}: made before runs noted a digest of their data, so whether it is of "
                "these data is unknown; --fresh trains it again",
                stacklevel=3,
            )
        # Settings that both have say more than those that only one network takes.
        keys = sorted(
            (there.keys() | here.keys()) - unknown,
            key=lambda k: (k not in there or k not in here, k),
        )
        pairs = {key: (there.get(key, "absent"), here.get(key, "absent")) for key in keys}
        other = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
        some = [f"{key} is {a!r} there, {b!r} here" for key, (a, b) in other.items()]
        some = "; ".join(some[:4])
        if any(key.partition(".")[0] not in DATA for key in other):
            raise InputError(
                f"{self.path}: holds a run of another configuration ({some}); choose another "
                "folder or remove it"
            )
        if other and not fresh:
            raise InputError(
                f"{self.path}: holds a run of other data ({some}); train it again with --fresh "
                "(resume=False), or choose another folder"
            )

    def checkpoint(self) -> tuple[int, Path | None]:
        """Epochs done and the newest complete checkpoint, or (0, None).

        Raises:
            InputError: there is one of an earlier version, whose pickled parts are not read.
        """
        found = [path for path in self.path.glob("checkpoint-*") if not _is_partial(path)]
        done = self._numbered("checkpoint")
        if found and not done:
            raise InputError(
                f"{found[0]}: no checkpoint of this version (pickled ones are not read, as they "
                "may hold code); start over with --fresh"
            )
        return max(done.items(), default=(0, None))

    def save_checkpoint(self, epochs: int, tensors: dict[str, Tensor], values: dict) -> None:
        """Commit a checkpoint of tensors and plain values; drop older ones."""
        path = self.path / f"checkpoint-{epochs:04d}.safetensors"
        _save_tensors(path, tensors, {"values": json.dumps(values)})
        _flush(self.path)
        self._settle_best()
        self.drop_checkpoints(but=path)

    def drop_checkpoints(self, but: Path | None = None) -> None:
        """Remove all checkpoints, or all but one."""
        for old in self.path.glob("checkpoint-*"):
            if old != but:
                _remove(old)

    def save_weights(self, which: str, state: dict[str, Tensor], epochs: int | None = None) -> None:
        """Write best.safetensors or last.safetensors, the latter of which ends the run.

        Args:
            which: "best" or "last".
            epochs: until a checkpoint of so many epochs, or the end, is there, best.safetensors
                stays what it is.
        """
        name = which if epochs is None else f"{which}-{epochs:04d}"
        _save_tensors(self.path / f"{name}.safetensors", state)
        if which == "last":
            self._settle_best()

    def _settle_best(self) -> None:
        """Put the best weights of the last checkpoint, or of the end, in their place."""
        path = self._committed_best()
        if path is not None:
            os.replace(path, self.path / "best.safetensors")

    def _committed_best(self) -> Path | None:
        """Best weights that a kill kept from their place, after what they belong to was there."""
        staged = self._numbered("best")
        if staged and not self.finished:
            done, _ = self.checkpoint()
            staged = {epochs: path for epochs, path in staged.items() if epochs <= done}
        return staged[max(staged)] if staged else None

    def weights(self, which: str = "best") -> dict[str, Tensor]:
        """The best or last weights.

        Raises:
            MissingFileError: they are not there (yet).
            InputError: they cannot be read.
        """
        path = self.path / f"{which}.safetensors"
        if which == "best":
            path = self._committed_best() or path
        if not path.is_file():
            raise MissingFileError(f"{path}: no such weights")
        return read_tensors(path)

    def save_table(self, name: str, rows: list[dict]) -> None:
        """Write a CSV file of rows with the same keys."""
        write_csv(self.path / name, rows)

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file of this folder, as text; [] when it is not there.

        Raises:
            InputError: it cannot be read.
        """
        path = self.path / name
        return read_csv(path) if path.is_file() else []

    def numbers(self, name: str) -> list[dict[str, float | None]]:
        """The rows of a CSV file of this folder, as numbers, None where there is none.

        Raises:
            InputError: it cannot be read, or a value is no number.
        """
        try:
            return [
                {key: None if text == "" else float(text) for key, text in row.items()}
                for row in self.table(name)
            ]
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.path / name}: damaged: {error}") from None


def _doubts(config: dict) -> Iterator[str]:
    """What is wrong in a configuration, before anything as large as it says is made."""
    model = config["model"]
    if "weights" in model:  # a run has its own; this would read or download others
        yield "model.weights is there, expected none"
    if not isinstance(model.get("model", ""), str):
        yield f"model.model is {model['model']!r:.40}, expected a network's name"
    for name in ("schedule", *DATA):
        if not isinstance(config.get(name, {}), dict | None):
            yield f"{name} is {config[name]!r:.40}, expected an object"
    for name, most in MOST.items():
        part, _, key = name.rpartition(".")
        place = (config.get(part) or {}) if part else config
        value = place.get(key, 1)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 < value <= most) and (part or value is not None):
            yield f"{name} is {value!r:.40}, expected more than 0, up to {most:g}"
    window = (config.get("schedule") or {}).get("window")
    if not isinstance(window, int | None):
        yield f"schedule.window is {window!r:.40}, expected a whole number or null"


def read_json(path: Path):
    """What a JSON file holds.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable JSON: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open(path, "rb"):  # of a file that may not be read, safetensors says it is not there
            pass
        return load_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable weights file: {error}") from None


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """A checkpoint's tensors and plain values.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            values = json.loads((file.metadata() or {})["values"])
            return {name: file.get_tensor(name) for name in file.keys()}, values  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"not a readable checkpoint: {error}") from None


def _save_tensors(path: Path, tensors: dict[str, Tensor], values: dict | None = None) -> None:
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=values))


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows with the same keys, atomically; numbers in full precision."""

    def write(partial: Path) -> None:
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, as text.

    Raises:
        InputError: it cannot be read, or a row has other columns than the first line.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: not a readable table: {error}") from None
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise InputError(f"{path}, row {number}: not as many cells as columns")
    return rows


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place; a pipe or a device is
    written to, and a link kept.

    Raises:
        OutputError: the disk is full, or the place cannot be written; what was there is kept.
    """
    real = Path(os.path.realpath(path))
    partial = real.with_name(f"{real.name}.partial")
    try:
        if real.exists() and not real.is_file() and not real.is_dir():
            write(real)
            return
        partial.unlink(missing_ok=True)
        partial.touch()
        mode = partial.stat().st_mode  # as the umask wants it, whatever `write` makes of it
        write(partial)
        partial.chmod(mode)
        _flush(partial)
        os.replace(partial, real)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink()
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path}: cannot be written: {reason}") from error


def _flush(path: Path) -> None:
    """Make sure that a file's or folder's content is on the disk."""
    if os.name == "nt":  # folders cannot be opened there, and files are flushed on rename
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_partial(path: Path) -> bool:
    """Whether it is what a killed process left: ours, or safetensors' own."""
    return path.name.endswith(".partial") or path.name.startswith(".tmp")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _holder(lock: Path) -> str:
    """Who noted in a lock's file that he holds it; "" where it is another's file."""
    with suppress(OSError, UnicodeDecodeError):
        text = lock.read_text()
        if text.startswith("process ") and text.isprintable():
            return text[:100]
    return ""


def _flatten(config: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
