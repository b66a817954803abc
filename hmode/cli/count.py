"""hmode count: the people in one's own pictures."""

import csv
import glob
import io
import os
import re
import sys
from pathlib import Path

import click
import numpy as np

from hmode.cli.options import DEVICE, printable
from hmode.cli.video import VIDEO, area_row, count_video, describe_area, measured
from hmode.counting import Count, count
from hmode.data.pictures import MAX_PIXELS, to_pixels
from hmode.data.source import hidden, natural
from hmode.doubts import Doubts, doubts
from hmode.errors import HmodeError, InputError, MissingFileError, OutputError
from hmode.evaluation import load_run, progress_bar, resolve_device
from hmode.ground import Ground
from hmode.models import CountingNetwork, HMoDE, for_inference, load_official
from hmode.outputs import FORMULA, prepare
from hmode.pretrained import Card, names, pretrained
from hmode.runs import write_atomically
from hmode.video import is_video

HOW = (
    "give --weights RUN, the folder of a trained network; `hmode train hmode+rel`, or notebook 04, "
    "makes runs/quick/synthetic/hmode+rel-seed0 in a few minutes; or leave it out"
)
USUAL = "photos"  # what counts where no network is named
LONGEST_NAME = 255  # bytes, on all usual systems


@click.command(name="count")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--weights",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Folder of a trained network, a checkpoint of the authors' code, or the name of a network "
    f"that comes with hmode, see: hmode models.  [default: {USUAL}]",
)
@click.option(
    "--csv",
    "table",
    type=click.Path(path_type=Path),
    help="Write one row an image to this file, as each is counted.",
)
@click.option(
    "--map",
    "maps",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Write each density map over its image to this folder, as .png.",
)
@click.option(
    "--npy",
    "arrays",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Write each density map, people per pixel of the size it was counted at, to this folder, "
    "as .npy.",
)
@click.option(
    "--max-memory",
    metavar="GIB",
    type=click.FloatRange(min=0, min_open=True),
    help="Most memory to take: the less, the smaller the tiles that large images are counted in.",
)
@click.option(
    "--ground",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="People per square metre on the ground that this file describes, see docs/inputs.md.",
)
@click.option(
    "--max-megapixels",
    default=MAX_PIXELS / 1e6,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Refuse larger images: a small file may unpack to more than there is memory.",
)
@VIDEO
@DEVICE
def count_pictures(
    images, weights, table, maps, arrays, max_memory, ground, max_megapixels, device, **video
):
    """Count the people in each IMAGE: a file, the images of a folder, or a pattern ("*.jpg"); or
    in a video: a file (clip.mp4), an address (rtsp://…) or the number of a camera.

    Beside a count stands what speaks against it: a network that was hardly trained, or on drawings,
    or that counts more or fewer, or in a darker picture, than it has ever seen. For networks that
    come with hmode there is an interval too: where the truth lay for four of five of the test
    images in which they counted about as many.

    An image or frame that cannot be counted, or a map that cannot be written, is named in one line,
    and the others are counted. The exit code says how many there were, up to 100.
    """
    weights = Path(USUAL) if weights is None else weights
    ground = Ground.read(ground) if ground else None
    model = for_inference(load_network(weights)).to(resolve_device(device))
    known = doubts_about(weights)
    if _comes_with(weights):
        click.echo(_introduction(Card.read(str(weights))), err=True)
    if any(map(is_video, images)):
        if len(images) > 1 or maps or arrays:
            raise InputError("a video is counted by itself, without --map and --npy; see --video")
        damaged = count_video(images[0], model, table, max_memory, ground, **video)
        click.get_current_context().exit(min(damaged, 100))
    save_overlay = _drawing() if maps else None
    paths, failed = find_images(images)
    names = _names(paths)
    prepare(table, "table")
    _prepare_folder(maps, names, ".png", "picture")
    _prepare_folder(arrays, names, ".npy", "array")
    several = len(paths) > 1
    with (
        progress_bar(len(paths), None if several else False) as bar,
        _Table(table) as rows,
    ):
        for path in paths:
            try:
                pixels = to_pixels(path, max_pixels=int(1e6 * max_megapixels))
                counted = count(
                    pixels,
                    model,
                    max_memory=max_memory,
                    progress=False if several else None,
                    name=str(path),
                )
                doubt, span = known.of(counted, pixels), known.interval(counted.count)
                area = measured(ground, counted, str(path))
                line = f"{printable(str(path))}: {counted.count:.1f} people"
                if span:
                    line += ", likely {:.0f} to {:.0f}".format(*span)
                line += f"; {describe_area(area)}" if area else ""
                bar.write(f"{line} ({doubt})" if doubt else line, file=sys.stdout)
                likely = dict(zip(("low", "high"), span or ("", ""), strict=True))
                rows.add(_row(path, counted) | {**likely, **area_row(area), "doubts": doubt})
                if maps:
                    save_overlay(_place(maps, names[path], ".png"), pixels, counted)
                if arrays:
                    _save_array(_place(arrays, names[path], ".npy"), counted)
            except (HmodeError, MemoryError) as error:
                failed += 1
                reason = str(error) or f"{path}: does not fit into memory"
                bar.write(f"Error: {printable(reason)}", file=sys.stderr)
            bar.update()
    if failed:
        click.get_current_context().exit(min(failed, 100))


class _Table:
    """A CSV file in which each row is as soon as it is known, whatever happens next."""

    def __init__(self, path: Path | None):
        self.path, self.file = path, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.file is not None:
            self.file.close()

    def add(self, row: dict) -> None:
        """Write a row, before the first the names.

        Raises:
            OutputError: it cannot be written.
        """
        if self.path is None:
            return
        text = io.StringIO(newline="")
        lines = csv.writer(text, lineterminator="\n")
        try:
            if self.file is None:
                self.file = open(self.path, "wb", buffering=0)  # noqa: SIM115
                lines.writerow(row)
            lines.writerow(row.values())
            self.file.write(text.getvalue().encode("utf-8", errors="backslashreplace"))
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from None


def _comes_with(weights: Path) -> bool:
    """Whether it is the name of a network that comes with hmode, and of nothing else."""
    return not weights.exists() and str(weights) in names()


def _introduction(card: Card) -> str:
    split, errors = max(card.errors.items(), key=lambda item: item[1]["images"])
    return (
        f"Counting with {card.name}, trained on {card.data}: mean absolute error "
        f"{errors['mae']:.0f} people on {errors['images']} images ({split}); {card.terms}"
    )


def load_network(weights: Path) -> CountingNetwork:
    """The network of a run folder, of a weights file in one, of the authors' checkpoint, or one
    that comes with hmode.

    Raises:
        MissingFileError, InputError: there is none, or it cannot be read.
    """
    if _comes_with(weights):
        return pretrained(str(weights))
    if not weights.exists():
        raise MissingFileError(f"{weights}: no such run; {HOW}")
    if weights.is_dir():
        return load_run(weights)
    if weights.suffix == ".safetensors" and (weights.parent / "config.json").is_file():
        return load_run(weights.parent, weights.stem)
    return load_official(HMoDE(), weights).eval()


def doubts_about(weights: Path) -> Doubts:
    """The doubts about a network, as far as its training is known."""
    if _comes_with(weights):
        return Card.read(str(weights)).doubts()
    run_dir = weights if weights.is_dir() else weights.parent
    return doubts(run_dir) if (run_dir / "config.json").is_file() else Doubts()


def find_images(arguments: tuple[str, ...]) -> tuple[list[Path], int]:
    """The files that files, folders and patterns name, each once; and how many named none, or are
    folders inside folders, which are not looked into. What is left out is said."""
    found, failed = [], 0
    for argument in arguments:
        try:
            files, wrong = _expand(argument)
        except InputError as error:
            files, wrong = [], [str(error)]
        for problem in wrong:
            failed += 1
            click.echo(f"Error: {printable(problem)}", err=True)
        found += files
    return list(dict.fromkeys(found)), failed


def _expand(argument: str) -> tuple[list[Path], list[str]]:
    """Files, and what is wrong: of a folder all files, but for those that systems hide in it."""
    if os.path.isdir(argument):
        try:
            entries = sorted(os.scandir(argument), key=lambda entry: natural(entry.name))
        except OSError as error:
            raise InputError(f"{argument}: cannot be listed: {error.strerror}") from None
        shown = [entry for entry in entries if not hidden(entry.name)]
        if len(shown) < len(entries):
            names = ", ".join(entry.name for entry in entries if entry not in shown)
            click.echo(f"Note: {argument}: hidden files are left out: {names[:200]}", err=True)
        folders = [entry.path for entry in shown if entry.is_dir()]
        files = [Path(entry.path) for entry in shown if not entry.is_dir()]
        if not files:
            raise MissingFileError(f"{argument}: no images in this folder")
        return files, [
            f"{path}: a folder in a folder; to count it, name it too" for path in folders
        ]
    if glob.has_magic(argument) and not os.path.exists(argument):
        files = [Path(name) for name in sorted(glob.glob(argument), key=natural)]
        if not files:
            raise MissingFileError(f"{argument}: no file matches")
        return files, []
    return [Path(argument)], []


def _names(paths: list[Path]) -> dict[Path, str]:
    """Where the outputs of each image go in their folder: as the images lie to each other."""
    whole = {path: os.path.abspath(path) for path in paths}
    try:
        common = os.path.commonpath([os.path.dirname(each) for each in whole.values()] or [""])
    except ValueError:  # on several drives
        return {path: re.sub(r"^\W*(\w+)\W+", r"\1/", each) for path, each in whole.items()}
    return {path: os.path.relpath(each, common) for path, each in whole.items()}


def _place(folder: Path, name: str, suffix: str) -> Path:
    return folder / (name + suffix)


def _prepare_folder(folder: Path | None, names: dict[Path, str], suffix: str, kind: str) -> None:
    """Make a folder for outputs, and see that they replace nothing but their like."""
    if folder is None:
        return
    for path, name in names.items():
        if os.path.abspath(path) == os.path.abspath(folder / name):
            raise InputError(f"{folder}: holds the images themselves; choose another folder")
        place = _place(folder, name, suffix)
        if len(os.fsencode(place.name)) <= LONGEST_NAME:  # else its image costs a line, later
            prepare(place, kind)


def _drawing():
    """What draws, once it is sure that it can."""
    try:
        from hmode.overlay import save_overlay
    except ImportError as error:
        raise InputError(f"--map needs {error.name}: pip install 'hmode[notebooks]'") from None
    return save_overlay


def _row(path: Path, counted: Count) -> dict:
    name = str(path)
    if name.startswith(FORMULA):
        name = os.path.join(".", name)
    height, width = counted.picture
    experts = {f"expert_{k}": value for k, value in enumerate(counted.experts, start=1)}
    return {"image": name, "count": counted.count, "width": width, "height": height} | experts


def _save_array(path: Path, counted: Count) -> None:
    """float32 [H, W], people per pixel. Row by row: a panorama's would take half a GiB."""
    (height, width), stride = counted.size, counted.prediction.stride
    header = {"descr": "<f4", "fortran_order": False, "shape": (height, width)}

    def write(partial: Path) -> None:
        with open(partial, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for top, cells in zip(range(0, height, stride), counted.density.numpy(), strict=True):
                row = np.repeat(cells, stride)[:width].astype("<f4").tobytes()
                file.write(row * min(stride, height - top))

    write_atomically(path, write)
