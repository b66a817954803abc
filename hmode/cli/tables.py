"""hmode tables: what the finished runs say, beside the paper's numbers."""

from pathlib import Path

import click

from hmode.cli.options import DATA, RUNS, option, path_option
from hmode.profiles import PROFILES


@click.command()
@option("--profile", default="small", type=click.Choice(PROFILES), help="Profile of the runs.")
@DATA
@RUNS
@path_option(
    "--to",
    "folder",
    help="Folder of runs.csv, tables.csv and claims.csv  [default: figures/PROFILE/DATASET, or "
    "RUNS/PROFILE/DATASET where the former has runs that are not among yours]",
)
def tables(profile, dataset, data_root, runs, folder):
    """Sum up all finished runs of a profile and a data set, training nothing.

    Writes a table of runs, the paper's tables with our means, spreads and differences, and what
    became of the paper's claims; prints the claims.
    """
    from hmode.results import collect  # pandas is no requirement of hmode
    from hmode.results.tables import aggregate, lacking, stored

    if folder is None:
        folder = Path("figures") / profile / dataset
        others = lacking(collect(runs, profile, dataset), folder)
        if others:
            kept, folder = folder, runs / profile / dataset
            click.echo(
                f"{kept} is kept: {len(others)} of its runs are not in {runs}. Written to {folder}"
            )
    aggregate(runs, profile, dataset, folder)
    for claim in stored(folder, "claims").itertuples():
        difference = "" if claim.outcome == "not run" else f"  ({claim.difference:+.2f})"
        click.echo(f"{claim.table:8s} {claim.outcome:18s} {claim.wording}{difference}")
