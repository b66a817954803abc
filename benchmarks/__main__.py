"""python -m benchmarks: run the comparisons, print them, fill docs/benchmarks.md."""

from pathlib import Path

import click

from benchmarks import page as pages
from benchmarks.cases import CASES, Case
from benchmarks.limits import machine, measure_limits
from benchmarks.running import missed, run_case
from benchmarks.scaling import measure_scaling
from benchmarks.series import GOAL, measure_series, total
from benchmarks.work import Different
from hmode.errors import HmodeError

# What is measured besides the cases: {name of its table: a function that gives its rows}.
PARTS = {"scaling": measure_scaling, "series": measure_series}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice([*(case.name for case in CASES), *PARTS]))
@click.option("--check", is_flag=True, help="Exit with 1 if a goal is missed; write nothing.")
@click.option("--cheap", is_flag=True, help="Small versions, of the cases that have one; no page.")
@click.option(
    "--slack",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Share of a goal that is enough.",
)
@click.option("--repetitions", type=click.IntRange(1), help="Pairs timed  [default: each its own]")
@click.option(
    "--output",
    default="docs",
    show_default=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of benchmarks.md and benchmarks/.",
)
def main(names, check, cheap, slack, repetitions, output):
    """Compare hmode with plain forms of what it computes, on this machine's CPU.

    NAMES are cases, "scaling" or "series" (the notebooks, a quarter of an hour); none
    means all of these, or with --check or --cheap all cases. What was measured takes the place of
    what the page had of it.
    """
    cases = [case for case in CASES if case.name in names or not names]
    if cheap:
        cases = [case for case in cases if case.cheap_goals]
    try:
        page = None if check or cheap else pages.Page(output)
    except HmodeError as error:
        raise click.ClickException(str(error)) from None
    measured, failed = run_cases(cases, cheap, slack, repetitions)
    if page and measured:
        page.write_cases(measured)
    for part in PARTS:
        if part in names or (page and not names):
            found = list(PARTS[part]())
            click.echo(pages.TABLES[part](found))
            failed |= part == "series" and total(found)["seconds"] > GOAL / slack
            if page:
                page.write(part, found)
    if check:
        raise SystemExit(failed)


def run_cases(
    cases: list[Case], cheap: bool, slack: float, repetitions: int | None
) -> tuple[list[dict], bool]:
    """Run and print each case, then the goals that were missed: rows, and whether there are any.

    Raises:
        ClickException: the two forms of a case do not give the same; it is not timed then.
    """
    if not cases:
        return [], False
    limits, measured, lines = measure_limits(), [], []
    click.echo(machine(limits))
    for case in cases:
        try:
            row = run_case(case, limits, cheap=cheap, repetitions=repetitions)
        except Different as error:
            raise click.ClickException(f"{case.name}: {error}") from None
        click.echo(" | ".join([case.name, *pages.case_line(row)[1:]]))
        measured.append(row)
        lines += missed(row, case.cheap_goals if cheap else case.goals, slack)
    click.echo("\n".join([f"{len(lines)} goals missed", *lines]))
    return measured, bool(lines)


if __name__ == "__main__":
    main()
