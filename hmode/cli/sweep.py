"""hmode sweep: many runs at once."""

import click

from hmode.cli.options import DATA, DEVICE, PROFILE, RUNS, SEED, TABLE, option, seeds
from hmode.errors import InputError
from hmode.experiments import TABLES, canonical, rows, select
from hmode.outputs import prepare


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="TABLE…")
@seeds(3)
@SEED
@PROFILE
@DATA
@DEVICE
@RUNS
@option(
    "--workers",
    type=click.IntRange(min=0),
    help="Runs at a time on this machine; 0: one after the other in this process, without Dask  "
    "[default: one a GPU, else one a core]",
)
@option(
    "--until",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --workers 0: begin no run that would not be done by then.",
)
@option(
    "--scheduler",
    metavar="ADDRESS",
    help="Use the workers of this Dask scheduler instead, as tcp://host:8786.",
)
@TABLE
def sweep(names, seed, workers, scheduler, until, table, **what):
    """Train and test all rows of each TABLE (or row; or "all"), several at a time.

    What is done is skipped, and what was interrupted goes on, so after a crash the same command
    finishes the work. Ends with the means over seeds and what can be said of their differences.
    """
    try:
        from hmode import results
        from hmode import sweep as sweeping
        from hmode.results.tables import DEFAULTS
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed; a sweep needs pip install 'hmode[sweep]'"
        ) from None
    plan = sweeping.Plan(select(names), first_seed=seed, **what)
    if table and table.suffix != ".csv":
        raise InputError(f"{table}: a table's name ends in .csv")
    prepare(table, "table")

    def runs_of(experiments):
        experiments = list(dict.fromkeys(map(canonical, experiments)))
        return results.collect(plan.runs, plan.profile, plan.dataset, experiments)

    # The tables that names of tables and rows belong to, each once, with all runs of their rows.
    tables = [name if name in TABLES else name.rpartition("/")[0] or "table1" for name in names]
    tables = TABLES if "all" in names else dict.fromkeys(tables)
    for each in tables:
        runs_of(rows(each))  # refuses a mixed table before anything is trained for it
    failures = sweeping.sweep(
        plan, workers=workers, scheduler=scheduler, until=until, say=click.echo
    )
    if table:
        results.save(runs_of(plan.experiments), table)
    for each in tables:
        frame = runs_of(rows(each))
        default = DEFAULTS.get(each) if DEFAULTS.get(each) in set(frame["experiment"]) else None
        found = results.summary(frame, default, results.image_errors(frame, plan.runs))
        click.echo(f"\n{each} on {plan.dataset}, {plan.profile}\n{results.as_text(found)}")
    if failures:
        click.echo(f"\n{len(failures)} of {len(plan.jobs)} runs failed:", err=True)
        for job, reason in failures.items():
            click.echo(f"{job}: {reason}", err=True)
        click.get_current_context().exit(1)
