"""Table I, against values typed by hand from the paper."""

import pytest

from hmode.errors import HmodeError
from hmode.paper import published

TYPED = {
    ("CSRNet", "sha"): (68.2, 115.0),
    ("SANet", "nwpu"): (190.6, 491.4),
    ("DSSINet", "jhu"): (133.5, 416.5),
    ("LSC-CNN", "sha"): (66.4, 117.0),
    ("UEPNet", "ucf_cc_50"): (165.2, 275.9),
    ("GauNet", "shb"): (6.2, 9.9),
    ("Baseline", "sha"): (66.3, 108.4),
    ("Baseline", "nwpu"): (81.0, 376.7),
    ("HMoDE", "sha"): (56.8, 96.5),
    ("HMoDE", "ucf_cc_50"): (177.2, 229.4),
    ("HMoDE+REL", "sha"): (54.4, 87.4),
    ("HMoDE+REL", "shb"): (6.2, 9.8),
    ("HMoDE+REL", "jhu"): (55.7, 214.6),
    ("HMoDE+REL", "nwpu"): (73.4, 331.8),
}
DASHES = [
    ("ASNet", "shb"),
    ("PaDNet", "jhu"),
    ("DKPNet", "ucf_cc_50"),
    ("S-DCNet", "jhu"),
    ("GauNet", "nwpu"),
    ("CG-DRCN-CC", "nwpu"),
]
DATASETS = ("sha", "shb", "ucf_cc_50", "jhu", "nwpu")
ROWS = {row["method"]: row for row in published("table1")}


@pytest.mark.parametrize(("method", "dataset"), TYPED)
def test_numbers(method, dataset):
    row = ROWS[method]
    found = (float(row[f"{dataset}_mae"]), float(row[f"{dataset}_mse"]))
    assert found == TYPED[method, dataset]


@pytest.mark.parametrize(("method", "dataset"), DASHES)
def test_a_dash_is_an_empty_cell(method, dataset):
    assert ROWS[method][f"{dataset}_mae"] == ROWS[method][f"{dataset}_mse"] == ""


def test_every_row_and_column_is_there():
    assert len(published("table1")) == len(ROWS) == 22
    columns = [f"{dataset}_{metric}" for dataset in DATASETS for metric in ("mae", "mse")]
    assert all(list(row) == ["method", "venue", *columns] for row in ROWS.values())
    assert (ROWS["CSRNet"]["venue"], ROWS["GauNet"]["venue"]) == ("CVPR'18", "CVPR'22")


def test_errors_come_in_pairs_and_the_root_mean_square_is_the_larger():
    for row in ROWS.values():
        for dataset in DATASETS:
            low, high = row[f"{dataset}_mae"], row[f"{dataset}_mse"]
            assert bool(low) == bool(high)
            assert not low or float(low) < float(high)


def test_an_unknown_table():
    with pytest.raises((HmodeError, FileNotFoundError), match="table99"):
        published("table99")
