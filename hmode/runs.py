"""Run folders: the configuration, history and weights of one training, safe against interruption.

Everything is written beside its place and then renamed, so that a reader, or a run that starts
again after a crash, never sees half a file. The checkpoint is renamed last: what was written
before it is written again, with the same bytes, when the epoch is repeated.
"""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hmode.errors import InputError, MissingFileError, OutputError


class RunFolder:
    """One training's folder: config.json, history.csv, timing.csv, best.safetensors,
    last.safetensors (when it is finished) and checkpoint-<epochs done> (until then)."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def claim(self, config: dict, *, resume: bool) -> None:
        """Make the folder this configuration's, emptied first if not to resume.

        Raises:
            InputError: it holds a run of another configuration, or files that are no run.
        """
        config = json.loads(json.dumps(config))
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: a run folder is wanted, found a file")
        if (self.path / "config.json").is_file():
            self._require_same(config)
            if not resume:
                self._remove()
        elif self.path.is_dir() and any(not _is_partial(each) for each in self.path.iterdir()):
            raise InputError(f"{self.path}: not empty and not a run folder (no config.json)")
        self.path.mkdir(parents=True, exist_ok=True)
        for leftover in filter(_is_partial, self.path.iterdir()):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        write_atomically(
            self.path / "config.json",
            lambda path: path.write_text(json.dumps(config, indent=2) + "\n"),
        )

    def _remove(self) -> None:
        """Take the folder away under another name first: half of a run is no run."""
        aside = self.path.with_name(self.path.name + ".partial")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(self.path, aside)
        shutil.rmtree(aside)

    def config(self) -> dict:
        """The stored configuration.

        Raises:
            MissingFileError: this is no run folder.
            InputError: its configuration is unreadable.
        """
        path = self.path / "config.json"
        if not path.is_file():
            raise MissingFileError(f"{self.path}: no run there (config.json is missing)")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not readable JSON: {error}") from None
        if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
            raise InputError(f"{path}: not a run's configuration, it has no 'model'")
        return config

    def identity(self) -> str:
        """A short hash of the stored configuration without its seed: equal for runs of one kind."""
        config = {name: value for name, value in self.config().items() if name != "seed"}
        text = json.dumps(config, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _require_same(self, config: dict) -> None:
        there, here = _flatten(self.config()), _flatten(config)
        # Settings that both have say more than those that only one network takes.
        keys = sorted(
            there.keys() | here.keys(), key=lambda k: (k not in there or k not in here, k)
        )
        differences = [
            f"{key} is {there.get(key, 'absent')!r} there, {here.get(key, 'absent')!r} here"
            for key in keys
            if there.get(key, "absent") != here.get(key, "absent")
        ]
        if differences:
            raise InputError(
                f"{self.path}: holds a run of another configuration "
                f"({'; '.join(differences[:4])}); choose another folder or remove it"
            )

    @property
    def finished(self) -> bool:
        """Whether the training ran to its end."""
        return (self.path / "last.safetensors").is_file()

    def checkpoint(self) -> tuple[int, Path | None]:
        """Epochs done and the newest complete checkpoint, or (0, None)."""
        found = [path for path in self.path.glob("checkpoint-*") if not _is_partial(path)]
        if not found:
            return 0, None
        newest = max(found, key=_epochs_done)
        return _epochs_done(newest), newest

    def save_checkpoint(self, epochs: int, save: Callable[[Path], None]) -> None:
        """Commit a checkpoint that `save` writes into the folder it is given; drop older ones."""
        path = self.path / f"checkpoint-{epochs:04d}"
        partial = path.with_suffix(".partial")
        partial.mkdir()
        save(partial)
        for each in partial.rglob("*"):
            _flush(each)
        os.replace(partial, path)
        _flush(self.path)
        self.drop_checkpoints(but=path)

    def drop_checkpoints(self, but: Path | None = None) -> None:
        """Remove all checkpoints, or all but one."""
        for old in self.path.glob("checkpoint-*"):
            if old != but:
                shutil.rmtree(old)

    def save_weights(self, which: str, state: dict[str, Tensor]) -> None:
        """Write best.safetensors or last.safetensors."""
        state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        write_atomically(self.path / f"{which}.safetensors", lambda path: save_file(state, path))

    def weights(self, which: str = "best") -> dict[str, Tensor]:
        """The best or last weights.

        Raises:
            MissingFileError: they are not there (yet).
            InputError: they cannot be read.
        """
        path = self.path / f"{which}.safetensors"
        if not path.is_file():
            raise MissingFileError(f"{path}: no such weights")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path}: not a readable weights file: {error}") from None

    def save_table(self, name: str, rows: list[dict]) -> None:
        """Write a CSV file of rows with the same keys."""
        write_csv(self.path / name, rows)

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file of this folder, as text; [] when it is not there."""
        path = self.path / name
        return read_csv(path) if path.is_file() else []


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows with the same keys, atomically; numbers in full precision."""

    def write(partial: Path) -> None:
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file, fieldnames=list(rows[0]) if rows else [], lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, as text."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place.

    Raises:
        OutputError: the disk is full, or the place cannot be written; what was there is kept.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        _flush(partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink()
        raise OutputError(f"{path}: cannot be written: {error}") from error


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
    return path.name.endswith(".partial")


def _epochs_done(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def _flatten(config: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
