"""hmode sweep: many runs at once."""

from pathlib import Path

import click

from hmode.cli.options import DATA, DEVICE, PROFILE, RUNS, SEED
from hmode.errors import InputError
from hmode.experiments import TABLES, canonical, rows, select
from hmode.outputs import prepare


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="TABLE…")
@click.option(
    "--seeds",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many seeds to train with, counted up from --seed.",
)
@SEED
@PROFILE
@DATA
@DEVICE
@RUNS
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Runs at a time on this machine; 0: one after the other in this process, without Dask  "
    "[default: one a GPU, else one a core]",
)
@click.option(
    "--until",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --workers 0: begin no run that would not be done by then.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Use the workers of this Dask scheduler instead, as tcp://host:8786.",
)
@click.option(
    "--csv",
    "table",
    type=click.Path(path_type=Path),
    help="Write one row a run to this file, .csv or .parquet.",
)
def sweep(
    names,
    seeds,
    seed,
    profile,
    dataset,
    data_root,
    device,
    runs,
    workers,
    scheduler,
    until,
    table,
):
    """Train and test all rows of each TABLE (or row; or "all"), several at a time.

    What is done is skipped, and what was interrupted goes on, so after a crash the same command
    finishes the work. Ends with the means over seeds and what can be said of their differences.
    """
    try:
        from hmode import results
        from hmode import sweep as sweeping
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed; a sweep needs pip install 'hmode[sweep]'"
        ) from None
    experiments = select(names)
    plan = sweeping.Plan(experiments, seeds, seed, dataset, profile, data_root, device, runs)
    if table:
        results.check_ending(table)
        prepare(table, "table")
    shown = _tables(names)
    for name in shown:
        _runs(name, plan)  # refuses a mixed table before anything is trained for it
    failures = sweeping.sweep(
        plan, workers=workers, scheduler=scheduler, until=until, say=click.echo
    )
    if table:
        results.save(results.collect(plan.runs, profile, dataset, plan.experiments), table)
    for name in shown:
        click.echo(_text(name, plan))
    if failures:
        click.echo(f"\n{len(failures)} of {len(plan.jobs)} runs failed:", err=True)
        for job, reason in failures.items():
            click.echo(f"{job}: {reason}", err=True)
        click.get_current_context().exit(1)


def _tables(names):
    """The tables that names of tables and rows belong to, each once."""
    if "all" in names:
        return list(TABLES)
    tables = [name if name in TABLES else name.rpartition("/")[0] or "table1" for name in names]
    return list(dict.fromkeys(tables))


def _runs(table, plan):
    """All runs that there are of a table's rows."""
    from hmode.results import collect

    experiments = dict.fromkeys(map(canonical, rows(table)))
    return collect(plan.runs, plan.profile, plan.dataset, list(experiments))


def _text(table, plan):
    """A table as lines to print, compared with its default where that was run."""
    from hmode.results import as_text, image_errors, summary
    from hmode.results.tables import DEFAULTS

    frame = _runs(table, plan)
    default = DEFAULTS.get(table)
    default = default if default in set(frame["experiment"]) else None
    lines = as_text(summary(frame, default, image_errors(frame, plan.runs)))
    return f"\n{table} on {plan.dataset}, {plan.profile}\n{lines}"
