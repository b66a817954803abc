"""hmode count, of a video, a camera or a stream."""

import csv
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from hmode.cli.options import option, options, path_option
from hmode.counting import Count, count
from hmode.errors import InputError, OutputError
from hmode.extras import need
from hmode.ground import Area, Ground
from hmode.outputs import maker, prepare
from hmode.runs import write_atomically
from hmode.video import Film, frames, running_median

VIDEO = options(
    option(
        "--every",
        metavar="SECONDS",
        default=1.0,
        type=click.FloatRange(min=0),
        help="Of a video: from one counted frame to the next.",
    ),
    option(
        "--frames",
        "most",
        type=click.IntRange(min=1),
        help="Of a video: stop after so many counted frames; a camera also stops at Ctrl-C.",
    ),
    path_option(
        "--video",
        "film",
        metavar="FILE",
        help="Of a video: write the counted frames, their density over them, as a video.",
    ),
    path_option(
        "--plot",
        metavar="FILE",
        help="Of a video: draw the counts over time, as .png, .pdf or .svg.",
    ),
)


def count_video(source, model, table, max_memory, ground, every, most, film, plot) -> int:
    """Count a video's frames, a line each, and sum up; how many could not be read.

    Raises:
        MissingFileError, InputError: it cannot be read at all, or has no frame.
        OutputError: a file cannot be written.
    """
    draw = need("hmode.overlay", "notebooks", "--video").draw_overlay if film else None
    for path, kind in ((table, "table"), (film, "film"), (plot, "picture")):
        prepare(path, kind)
    if plot:
        need("matplotlib", "notebooks", "--plot")
    rows: list[dict] = []
    damaged: list[str] = []

    def broken(line: str) -> None:
        damaged.append(line)
        click.echo(f"Error: {line}", err=True)

    written = Film(film, every) if film else None
    with rows_to(table) as add:
        try:
            for frame in frames(source, every, broken):
                counted = count(frame.pixels, model, max_memory=max_memory, name=source)
                counts = [*(row["count"] for row in rows), counted.count]
                area = measured(ground, counted, source)
                row = {"time": frame.time, "count": counted.count, "median": running_median(counts)}
                rows.append(row | (area.row if area else {}))
                add(rows[-1])
                line = "{time:9.2f} s {count:9.1f} people, median {median:.1f}".format(**row)
                click.echo(f"{line}; {area}" if area else line)
                if written:
                    figure = draw(frame.pixels, counted)
                    figure.axes[0].set_title(f"{frame.time:.1f} s: {counted.count:.1f} people")
                    written.add(figure)
                if len(rows) == most:
                    break
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
    if written:
        written.close()
    _sum_up(source, rows, len(damaged), plot)
    return len(damaged)


@contextmanager
def rows_to(path: Path | None):
    """Gives a function that adds a row to a CSV file, where it is as soon as it is added."""
    file = None

    def add(row: dict) -> None:
        nonlocal file
        try:
            if file is None:
                options = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
                file = open(path, "w", buffering=1, **options)  # noqa: SIM115
                csv.writer(file, lineterminator="\n").writerow(row)
            csv.writer(file, lineterminator="\n").writerow(row.values())
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from None

    try:
        yield add if path else lambda row: None
    finally:
        if file is not None:
            with suppress(OSError):  # of a row that was said to be lost
                file.close()


def measured(ground: Ground | None, counted: Count, name: str) -> Area | None:
    """What stands on a piece of ground in the picture of that name; None without one."""
    try:
        return ground.measure(counted) if ground else None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _sum_up(source: str, rows: list[dict], damaged: int, plot) -> None:
    if not rows:
        raise InputError(f"{source}: not one frame could be read")
    counts = sorted(row["count"] for row in rows)
    click.echo(
        f"{source}: {len(rows)} frames counted, {damaged} damaged; "
        f"{counts[0]:.1f} to {counts[-1]:.1f} people, median {counts[len(counts) // 2]:.1f}"
    )
    if plot:
        about = {"format": plot.suffix[1:].lower() or "png", "metadata": maker(plot)}
        write_atomically(plot, lambda partial: _plotted(rows).savefig(partial, **about))


def _plotted(rows: list[dict]):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    times = [row["time"] for row in rows]
    axes.plot(times, [row["count"] for row in rows], ".", label="a frame")
    axes.plot(times, [row["median"] for row in rows], label="running median")
    axes.set(xlabel="time (s)", ylabel="people", ylim=(0, None))
    axes.legend()
    return figure
