"""hmode count: the people in one's own pictures."""

import glob
import os
import re
import sys
from pathlib import Path

import click
import numpy as np

from hmode.cli.options import DEVICE, option, path_option, printable
from hmode.cli.video import VIDEO, count_video, measured, rows_to
from hmode.counting import Count, count
from hmode.data.pictures import MAX_PIXELS, to_pixels
from hmode.data.source import hidden, natural
from hmode.device import progress_bar, resolve_device
from hmode.doubts import Doubts, doubts
from hmode.errors import HmodeError, InputError, MissingFileError
from hmode.evaluation import load_run
from hmode.extras import need
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
@path_option(
    "--weights",
    metavar="RUN",
    default=USUAL,
    help="Folder of a trained network, a checkpoint of the authors' code, or the name of a network "
    "that comes with hmode, see: hmode models.",
)
@path_option("--csv", "table", help="Write one row an image to this file, as each is counted.")
@path_option(
    "--map",
    "maps",
    metavar="FOLDER",
    help="Write each density map over its image to this folder, as .png.",
)
@path_option(
    "--npy",
    "arrays",
    metavar="FOLDER",
    help="Write each density map, people per pixel of the size it was counted at, to this folder, "
    "as .npy.",
)
@option(
    "--max-memory",
    metavar="GIB",
    type=click.FloatRange(min=0, min_open=True),
    help="Most memory to take: the less, the smaller the tiles that large images are counted in.",
)
@path_option(
    "--ground",
    metavar="FILE",
    help="People per square metre on the ground that this file describes, see docs/inputs.md.",
)
@option(
    "--max-megapixels",
    default=MAX_PIXELS / 1e6,
    type=click.FloatRange(min=0, min_open=True),
    help="Refuse larger images: a small file may unpack to more than there is memory.",
)
@VIDEO
@DEVICE
@click.pass_context
def count_pictures(
    context,
    images,
    weights,
    table,
    maps,
    arrays,
    max_memory,
    max_megapixels,
    ground,
    device,
    **of_video,
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
    ground = Ground.read(ground) if ground else None
    model = for_inference(load_network(weights)).to(resolve_device(device))
    known = doubts_about(weights)
    if _comes_with(weights):
        click.echo(_introduction(Card.read(str(weights))), err=True)
    if any(map(is_video, images)):
        if len(images) > 1 or maps or arrays:
            raise InputError("a video is counted by itself, without --map and --npy; see --video")
        damaged = count_video(images[0], model, table, max_memory, ground, **of_video)
        context.exit(min(damaged, 100))
    save_overlay = need("hmode.overlay", "notebooks", "--map").save_overlay if maps else None
    paths, failed = find_images(images)
    places = _places(paths)
    prepare(table, "table")
    _prepare_folder(maps, places, ".png", "picture")
    _prepare_folder(arrays, places, ".npy", "array")
    several = len(paths) > 1
    with progress_bar(len(paths), None if several else False) as bar, rows_to(table) as add:
        for path in paths:
            try:
                pixels = to_pixels(path, max_pixels=int(1e6 * max_megapixels))
                limits = {"max_memory": max_memory, "progress": False if several else None}
                counted = count(pixels, model, name=str(path), **limits)
                line, row = _told(path, counted, pixels, known, ground)
                bar.write(line, file=sys.stdout)
                add(row)
                if maps:
                    save_overlay(maps / f"{places[path]}.png", pixels, counted)
                if arrays:
                    _save_array(arrays / f"{places[path]}.npy", counted)
            except (HmodeError, MemoryError) as error:
                failed += 1
                reason = str(error) or f"{path}: does not fit into memory"
                bar.write(f"Error: {printable(reason)}", file=sys.stderr)
            bar.update()
    context.exit(min(failed, 100))


# The network, and what is known of it


def _comes_with(weights: Path) -> bool:
    """Whether it is the name of a network that comes with hmode, and no file or run of the user."""
    theirs = weights.is_file() or (weights / "config.json").exists()
    return not theirs and str(weights) in names()  # a folder of photographs may be named so


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


def _introduction(card: Card) -> str:
    split, errors = max(card.errors.items(), key=lambda item: item[1]["images"])
    return (
        f"Counting with {card.name}, trained on {card.data}: mean absolute error "
        f"{errors['mae']:.0f} people on {errors['images']} images ({split}); {card.terms}"
    )


# The images, and where what is made of them goes


def find_images(arguments: tuple[str, ...]) -> tuple[list[Path], int]:
    """The files that files, folders and patterns name, each once; and how many named none, or are
    folders inside folders, which are not looked into. What is left out is said."""
    found, wrong = [], []
    for argument in arguments:
        if os.path.isdir(argument):
            files, problems = _listed(argument)
        elif glob.has_magic(argument) and not os.path.exists(argument):
            files = sorted(glob.glob(argument), key=natural)
            problems = [] if files else [f"{argument}: no file matches"]
        else:
            files, problems = [argument], []
        found, wrong = found + files, wrong + problems
    for problem in wrong:
        click.echo(f"Error: {printable(problem)}", err=True)
    return list(dict.fromkeys(map(Path, found))), len(wrong)


def _listed(folder: str) -> tuple[list[str], list[str]]:
    """The files of a folder but for those that systems hide in it, and what is wrong."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: natural(entry.name))
    except OSError as error:
        return [], [f"{folder}: cannot be listed: {error.strerror}"]
    left_out = ", ".join(entry.name for entry in entries if hidden(entry.name))
    if left_out:
        click.echo(f"Note: {folder}: hidden files are left out: {left_out[:200]}", err=True)
    shown = [entry for entry in entries if not hidden(entry.name)]
    files = [entry.path for entry in shown if not entry.is_dir()]
    if not files:
        return [], [f"{folder}: no images in this folder"]
    inner = [entry.path for entry in shown if entry.is_dir()]
    return files, [f"{path}: a folder in a folder; to count it, name it too" for path in inner]


def _places(paths: list[Path]) -> dict[Path, str]:
    """Where the outputs of each image go in their folder: as the images lie to each other."""
    whole = {path: os.path.abspath(path) for path in paths}
    try:
        common = os.path.commonpath([os.path.dirname(each) for each in whole.values()] or [""])
    except ValueError:  # on several drives
        return {path: re.sub(r"^\W*(\w+)\W+", r"\1/", each) for path, each in whole.items()}
    return {path: os.path.relpath(each, common) for path, each in whole.items()}


def _prepare_folder(folder: Path | None, places: dict[Path, str], suffix: str, kind: str) -> None:
    """Make a folder for outputs, and see that they replace nothing but their like."""
    for path, name in places.items() if folder else ():
        if os.path.abspath(path) == os.path.abspath(folder / name):
            raise InputError(f"{folder}: holds the images themselves; choose another folder")
        place = folder / (name + suffix)
        if len(os.fsencode(place.name)) <= LONGEST_NAME:  # else its image costs a line, later
            prepare(place, kind)


# What is said and written of a count


def _told(path: Path, counted: Count, pixels, known: Doubts, ground: Ground | None):
    """What is said of a count, and its row of the table."""
    doubt, span = known.of(counted, pixels), known.interval(counted.count)
    area = measured(ground, counted, str(path))
    line = f"{printable(str(path))}: {counted.count:.1f} people"
    line += ", likely {:.0f} to {:.0f}".format(*span) if span else ""
    line += f"; {area}" if area else ""
    line += f" ({doubt})" if doubt else ""
    name = str(path)
    name = os.path.join(".", name) if name.startswith(FORMULA) else name
    height, width = counted.picture
    row = {"image": name, "count": counted.count, "width": width, "height": height}
    row |= {f"expert_{k}": value for k, value in enumerate(counted.experts, start=1)}
    row |= zip(("low", "high"), span or ("", ""), strict=True)
    return line, row | (area.row if area else {}) | {"doubts": doubt}


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
