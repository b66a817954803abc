"""hmode data: what data sets there are, and whether yours is whole."""

import sys
from functools import partial
from pathlib import Path

import click
from tqdm import tqdm

from hmode.cli.options import ANNOTATIONS, option, path_option
from hmode.data.annotated import AnnotatedImages
from hmode.data.catalogue import CATALOGUE
from hmode.data.check import Report, check
from hmode.data.registry import layout, open_source
from hmode.data.source import Source
from hmode.errors import InputError
from hmode.outputs import maker, prepare
from hmode.runs import write_atomically

SHOWN = 20  # problems that are printed unless --all


@click.group()
def data():
    """Data sets: list them, check one's files."""


@data.command(name="list")
def list_datasets():
    """What each data set is, where to ask for it, its terms, and what to cite."""
    for name, entry in CATALOGUE.items():
        images = ", ".join(f"{count:,} {split}" for split, count in entry.images.items())
        _describe(
            name,
            f"{entry.title}: {entry.about}",
            images=images + (f"; {entry.people:,} people" if entry.people else ""),
            files=layout(name),
            ask=entry.where,
            terms=entry.licence,
            cite=entry.citation,
        )
    _describe("folder", "your own photographs and points", files=layout("folder"))
    _describe("synthetic", "rendered crowds, drawn on the fly: 240 train, 60 val, 60 test")
    _describe("scales", "the same where scales conflict: walls of views, large and small heads")
    _describe("order", "the same where counts conflict: veiled crowds, and heads that are masks")


@data.command(name="check")
@click.argument("name", metavar="NAME")
@path_option(
    "--root",
    "--data-root",
    envvar="HMODE_DATA",
    show_envvar=True,
    help="Folder that holds the data set.",
)
@ANNOTATIONS
@option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the first images with their points into this picture.",
)
@option("--all", "everything", is_flag=True, help="Print every problem.")
@click.pass_context
def check_dataset(context, name, root, annotations, sheet, everything):
    """Read all files of the data set NAME (see `hmode data list`) and say what is wrong.

    The exit code is 0 if nothing is, 1 if there are problems, 2 if the data set is not there.
    """
    prepare(sheet, "picture")
    source = open_source(name, root, **({"annotations": annotations} if annotations else {}))
    report = check(source, partial(tqdm, disable=not sys.stderr.isatty()))
    click.echo(f"{name} in {source.folder}\n")
    _print_table(report)
    shown = report.problems if everything else report.problems[:SHOWN]
    hidden = len(report.problems) - len(shown)
    for line in shown:
        click.echo(f"problem: {line}")
    if hidden:
        click.echo(f"problem: ... and {hidden:,} more, see them with --all")
    for line in report.notes:
        click.echo(f"note: {line}")
    if sheet:
        _draw(source, sheet)
    context.exit(1 if report.problems else 0)


def _describe(name: str, about: str, **lines: str) -> None:
    click.echo(f"{name:<10} {about}")
    for label, text in lines.items():
        click.echo(f"{'':10} {label + ':':<7} {text}")
    click.echo()


def _print_table(report: Report) -> None:
    """The numbers of a report, right-aligned; a dash where one is not known."""
    names = list(report.rows[0])
    rows = [names] + [
        ["-" if row[n] is None else _text(row[n]) for n in names] for row in report.rows
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        click.echo("  ".join([row[0].ljust(widths[0]), *cells]))
    click.echo()


def _text(value) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _draw(source: Source, path: Path, images: int = 12) -> None:
    """The first readable, annotated images of the first split, with their points."""
    try:
        from hmode.plots import sheet, use_style
    except ImportError as error:
        raise InputError(
            f"--sheet needs matplotlib: pip install 'hmode[notebooks]' ({error})"
        ) from None
    try:
        dataset = AnnotatedImages(source, source.parts[0], max_side=640, short_side=None)
    except InputError:
        click.echo(f"no picture {path}: {source.parts[0]} cannot be opened, see above")
        return
    samples = []
    for index in range(len(dataset)):
        try:
            samples.append(dataset[index])
        except InputError:
            continue  # reported above
        if len(samples) == images:
            break
    use_style()
    figure = sheet(samples, points=True)
    about = {"dpi": 120, "format": path.suffix[1:], "metadata": maker(path)}
    write_atomically(path, lambda partial: figure.savefig(partial, **about))
    click.echo(f"the first {len(samples)} images: {path}")
