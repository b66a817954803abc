"""The numbers that the paper prints, as tables."""

import csv
from importlib.resources import files


def published(table: str) -> list[dict[str, str]]:
    """The rows of one of the paper's tables, as text: "table1".

    Table I: method, venue, and MAE and MSE (root) on each data set; empty where not given.
    """
    with (files(__package__) / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
