"""What became of claims, in a sentence and in a table: against counts made another way."""

import re

import pandas as pd
import pytest

from hmode.lab import project_folder
from hmode.paper.said import came_out, claims_table, headline, place_name

STORED = project_folder() / "figures"
PLACES = ("paper/sha", "full/sha", "small/synthetic")
CLAIMS = {place: pd.read_csv(STORED / place / "claims.csv") for place in PLACES}


def claim(outcome, first="a/x", second="a/y", relation="better", low=-2.0, high=1.0):
    return {
        "table": "table4",
        "section": "IV",
        "wording": "x is better",
        "relation": relation,
        "first": first,
        "second": second,
        "pairs": 3,
        "difference": -0.5,
        "low": low,
        "high": high,
        "outcome": outcome,
    }


def test_a_sentence_counts_what_held_what_did_not_and_what_is_open():
    outcomes = ["held", "the opposite", "did not hold", "no difference seen", "not run"]
    rows = pd.DataFrame([claim(o, second=f"a/{i}") for i, o in enumerate(outcomes)])
    said = came_out("table4", {"full/sha": rows})
    counts = "1 held, 1 came out opposite, 1 did not hold, 1 shows no difference"
    assert said == f"SHA, full: of 4 claims {counts}."


@pytest.mark.parametrize(
    ("outcome", "says"),
    [("one seed", "one seed each, which judges nothing"), ("not run", "not run")],
)
def test_a_sentence_where_nothing_can_be_judged(outcome, says):
    assert (
        came_out("table4", {"paper/sha": pd.DataFrame([claim(outcome)])}) == f"SHA, paper: {says}."
    )


@pytest.mark.parametrize(
    "table", [f"table{n}" for n in (1, 2, 4, 5, 6, 7, 8, 9, 10, 11)] + ["fig6"]
)
def test_the_sentences_say_what_the_stored_claims_say(table):
    parts = came_out(table, CLAIMS).removesuffix(".").split("; ")
    for place, part in zip(PLACES, parts, strict=True):
        seen, pairs = [], set()
        for row in CLAIMS[place].to_dict("records"):
            pair = row["first"], row["second"]
            if row["table"] == table and pair not in pairs:
                pairs.add(pair)
                seen.append(row["outcome"])
        judged = [o for o in seen if o not in ("not run", "one seed", "few seeds")]
        if judged:
            held, open_ = judged.count("held"), judged.count("no difference seen")
            opposite = judged.count("the opposite")
            others = (
                f"{opposite} came out opposite, {len(judged) - held - open_ - opposite} did not"
            )
            others += f" hold, {open_} show{'s' if open_ == 1 else ''} no difference"
            part = re.sub(r" \(\d+ as no difference is seen\)", "", part)
            counts = f"{held} held, {others}"
            assert part == f"{place_name(place)}: of {len(judged)} claims {counts}"
        else:
            assert "claims" not in part
            assert ("not run" in part) == (set(seen) == {"not run"})


def test_a_claim_of_nothing_that_holds_as_nothing_is_seen_is_told_apart():
    rows = [claim("held", relation="no worse"), claim("held", "b/x", low=-2.0, high=-1.0)]
    said = came_out("table4", {"full/sha": pd.DataFrame(rows)})
    assert "2 held (1 as no difference is seen), 0 came out opposite" in said


def test_a_headline_is_a_line_for_each_place_that_judges_and_leaves_noughts_out():
    places = {
        "full/sha": pd.DataFrame([claim("one seed")]),
        "small/sha": pd.DataFrame([claim("held"), claim("no difference seen", "b/x")]),
        "small/synthetic": pd.DataFrame([claim("held")]),
    }
    lines = headline("table4", places).split("\n")
    assert [line.split(": ")[1] for line in lines] == [
        "of 2 claims 1 held, 1 shows no difference",
        "of 1 claim 1 held",
    ]
    wrong = {"full/sha": pd.DataFrame([claim("not held"), claim("not held", "b/x")])}
    assert headline("table4", wrong) == "SHA, full: of 2 claims, 2 did not hold"
    alike = {"full/sha": pd.DataFrame([claim("no difference seen")])}
    assert headline("table4", alike) == "SHA, full: of 1 claim, 1 shows no difference"
    assert headline("table4", {"full/sha": places["full/sha"]}) == "No claim can be judged"


class TestTable:
    def test_differences_intervals_and_verdicts(self):
        rows = pd.DataFrame(
            [
                claim("held", low=-1.0, high=-0.2),
                claim("held", second="a/z", relation="alike"),
                claim("one seed", second="a/w", low=float("nan"), high=float("nan")),
                claim("not run", second="a/v"),
            ]
        )
        table = claims_table("table4", {"full/sha": rows})
        assert list(table["SHA, full"]) == [
            "-0.5 (-1.0 to -0.2): held",
            "-0.5 (-2.0 to +1.0): held, as no difference is seen",
            "-0.5: one seed",
            "not run",
        ]
        assert table.index[0] == "x is better: x – y"

    def test_one_difference_is_not_held_against_two_claims(self):
        """Table II: better on SHA, nothing on SHB; the stored runs are neither."""
        assert len(CLAIMS["small/synthetic"].query("table == 'table2'")) == 2
        assert len(claims_table("table2", CLAIMS)) == 1
