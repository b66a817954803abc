"""python -m hmode.course: copies of the notebooks, grading, slides, the book."""

import sys
from pathlib import Path

import click

from hmode.course import book as pages
from hmode.course import copies, grading
from hmode.errors import HmodeError
from hmode.lab import project_folder

FOLDER = click.Path(path_type=Path)


@click.group()
def course():
    """Make and grade the course."""


@course.command()
@click.argument("to", type=FOLDER, default="student")
def student(to):
    """Copies without solutions, with a cell for each answer and its check."""
    tell(copies.write(copies.for_students, notebooks(), to), to)


@course.command()
@click.argument("to", type=FOLDER, default="solutions")
def solutions(to):
    """Copies with open solutions, without empty answers."""
    tell(copies.write(copies.with_solutions, notebooks(), to), to)


@course.command()
@click.argument("to", type=FOLDER, default="slides")
def slides(to):
    """A deck for each notebook, of its own figures."""
    for path in pages.slides(notebooks(), to):
        click.echo(path)


@course.command()
@click.argument("to", type=FOLDER, default="book")
@click.option("--builder", default="jupyter-book", show_default=True, help="Where version 1 is.")
def book(to, builder):
    """A static site of all notebooks; needs the extra `course`."""
    click.echo(pages.build(project_folder(), to, builder))


@course.command()
@click.argument("submissions", type=FOLDER)
@click.option("--csv", type=FOLDER, default="grades.csv", show_default=True)
def grade(submissions, csv):
    """Grade a folder with a folder for each student."""
    click.echo(grading.collect(grading.grade_folder(submissions, csv)))
    click.echo(f"points and remarks: {csv}")


@course.command()
@click.argument("to", type=FOLDER, default="autograder.zip")
def gradescope(to):
    """An autograder for Gradescope."""
    grading.gradescope_zip(project_folder(), to)
    click.echo(to)


@course.command("gradescope-results", hidden=True)
@click.argument("submission", type=FOLDER)
@click.argument("to", type=FOLDER)
def gradescope_results(submission, to):
    grading.gradescope_results(submission, to)


def tell(copied, to) -> None:
    written, left = copied
    click.echo(f"{len(written)} notebooks in {to}")
    for path in left:
        click.echo(f"{path}: left, for it has other cells than a new copy. Move it away for one")


def notebooks() -> Path:
    return project_folder() / "notebooks"


if __name__ == "__main__":
    try:
        course(standalone_mode=True)
    except HmodeError as error:
        sys.exit(f"Error: {error}")
