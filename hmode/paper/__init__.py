"""The numbers that the paper prints, as tables, and the orderings that it claims.

Source of all of it: Du, Shi, Deng and Zafeiriou, IEEE TIP 2023. The numbers of other methods are
those of its tables too, not of their own papers. One CSV a table, one line a row:

- `method`: what the paper calls the row, without the reference; unique within the table (Table X
  prints "+REL" twice). In Table XII it is the output, E1 to Eout.
- `experiment`: the row's name in `hmode.experiments`, empty for other methods.
- `venue` (Table I): where another method was published.
- `<data set>_mae`, `<data set>_mse`: errors in people, MSE being the root of the mean square; the
  data sets are sha, shb, ucf_cc_50, jhu, nwpu and rgbd. Table XII has `jhu_low_mae` and so on by
  density level beside the overall `jhu_mae`.
- `trancos_game0` to `trancos_game3` (Table III), in vehicles.
- `memory_gb`, `epoch_seconds` (Table VIII), on SHA.

An empty cell is a dash, or a result that the paper does not give. `foreground` holds the one
number of section IV-E.1 that no table has: by how much the errors on the foreground regions of SHA
grow without attention (`sha_mae_increase`, people; the errors themselves are not printed). Fig. 6
is drawn and never printed: there are claims about it, but no numbers.
"""

import csv
from importlib.resources import files
from typing import NamedTuple

from hmode.errors import InputError

TABLES = (*(f"table{n}" for n in range(1, 13)), "foreground")


class Claim(NamedTuple):
    """An ordering of two rows that the paper's text states.

    Attributes:
        first, second: experiments; for table12, two outputs of the default.
        wording: what is claimed, in a few words of ours.
        relation: "better" (the first's errors are smaller), "no worse" (the second brings nothing
            over the first) or "alike" (neither is better by much).
        datasets: what it is claimed on; where the text does not say, those of the table.
        section: of the paper.
    """

    first: str
    second: str
    wording: str
    relation: str
    datasets: tuple[str, ...]
    section: str


def published(table: str) -> list[dict[str, str]]:
    """The rows of one of the paper's tables, values as text; see above for the columns.

    Args:
        table: "table1" to "table12", or "foreground".

    Raises:
        InputError: there is no such table.
    """
    if table not in TABLES:
        raise InputError(
            f"table is {table!r}, expected one of {', '.join(TABLES)} (the values of fig6 are "
            "drawn in the paper, not printed)"
        )
    return _read(table)


def claims(table: str) -> list[Claim]:
    """What the paper's text claims of a table's rows, pair by pair.

    Args:
        table: "table1" to "table12" or "fig6"; there is none for Table III, which orders our row
            among other methods only.

    Raises:
        InputError: there is no such table.
    """
    if table not in (*TABLES, "fig6"):
        raise InputError(f"table is {table!r}, expected one of {', '.join(TABLES)}, fig6")
    return [
        Claim(
            first=row["first"],
            second=row["second"],
            wording=row["wording"],
            relation=row["relation"],
            datasets=tuple(row["datasets"].split()),
            section=row["section"],
        )
        for row in _read("claims")
        if row["table"] == table
    ]


def _read(name: str) -> list[dict[str, str]]:
    with (files(__package__) / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
