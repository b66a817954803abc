"""What came out for the claims of a table, in a sentence and in a table, from stored claims.csv."""

import re
from collections.abc import Mapping

import pandas as pd

from hmode.paper.beside import DATASETS, TITLES

TITLES = TITLES | {"fig6": "Fig. 6: size and number of hard regions"}
# Why nothing can be said of a claim.
UNJUDGED = ("not run", "one seed", "few seeds")


def place_name(place: str) -> str:
    """ "SHA, full" of "full/sha"."""
    profile, dataset = place.split("/")
    return f"{DATASETS.get(dataset, dataset)}, {profile}"


def came_out(table: str, claims: Mapping[str, pd.DataFrame]) -> str:
    """In one sentence: of how many claims of a table what became, on each of the stored results.

    Args:
        table: "table1" to "table11" or "fig6".
        claims: rows of claims.csv, by "profile/data set".
    """
    parts = []
    for place, every in claims.items():
        mine = _of(table, every)
        judged = mine[~mine["outcome"].isin(UNJUDGED)]
        if len(judged):
            seen = judged[~judged["outcome"].eq("no difference seen")]
            held = int((seen["outcome"] == "held").sum())
            opposite = int((seen["outcome"] == "the opposite").sum())
            wrong, open_ = len(seen) - held - opposite, len(judged) - len(seen)
            weak = sum(_weakly(claim) for claim in judged.itertuples())
            how = f"{held} held" + (f" ({weak} as no difference is seen)" if weak else "")
            counts = [how, f"{opposite} came out opposite", f"{wrong} did not hold"]
            counts += [f"{open_} show{'s' * (open_ == 1)} no difference"]
            parts.append(f"{place_name(place)}: of {len(judged)} claims {', '.join(counts)}")
        elif mine["outcome"].ne("not run").any():
            parts.append(f"{place_name(place)}: one seed each, which judges nothing")
        else:
            parts.append(f"{place_name(place)}: not run")
    return "; ".join(parts) + "."


def headline(table: str, claims: Mapping[str, pd.DataFrame]) -> str:
    """The short of `came_out`: a line for each of the stored results that judge a claim."""
    parts = [p for p in came_out(table, claims).removesuffix(".").split("; ") if " claims " in p]
    judged = [re.sub(r"\b(1 claim)s|,? 0 [^,]+", r"\1", part) for part in parts]
    return "\n".join(judged) or "No claim can be judged"


def claims_table(table: str, claims: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What became of each claim of a table: the difference in MAE of its two rows, people, with its
    95 % interval and the verdict, a column for each of the stored results."""
    columns, index = {}, None
    for place, every in claims.items():
        mine = _of(table, every)
        index = [
            f"{claim.wording}: {_short(claim.first)} – {_short(claim.second)}"
            for claim in mine.itertuples()
        ]
        columns[place_name(place)] = [_verdict(claim) for claim in mine.itertuples()]
    return pd.DataFrame(columns, pd.Index(index or [], name="claim: first row – second"))


def _of(table: str, claims: pd.DataFrame) -> pd.DataFrame:
    """A table's claims; of those about one pair of rows, by data set, that about SHA, the first:
    one difference cannot be held against two claims."""
    return claims[claims["table"] == table].drop_duplicates(["first", "second"])


def _short(name: str) -> str:
    return name.split("/")[-1]


def _verdict(claim) -> str:
    if claim.outcome == "not run":
        return "not run"
    text = f"{claim.difference:+.1f}"
    if pd.notna(claim.low):
        text += f" ({claim.low:+.1f} to {claim.high:+.1f})"
    return f"{text}: {'held, as no difference is seen' if _weakly(claim) else claim.outcome}"


def _weakly(claim) -> bool:
    """Whether a claim that something brings nothing holds because nothing can be seen."""
    return claim.outcome == "held" and claim.relation != "better" and claim.low <= 0 <= claim.high
