"""The lab of the notebooks on data sets that are unlike the synthetic one."""

import warnings

import pytest
from layouts import ucf_cc_50

from hmode.errors import InputError
from hmode.lab import Lab


@pytest.fixture
def root(tmp_path):
    return ucf_cc_50(tmp_path, size=(64, 80)).root


def names(lab):
    with warnings.catch_warnings():  # the tiny data set has other numbers than the published one
        warnings.simplefilter("ignore")
        return [sample.name for sample in lab.test]


class TestFolds:
    def test_the_first_is_taken_unless_another_is_given(self, root, monkeypatch):
        folds = [names(Lab("smoke", "ucf_cc_50", root, fold=fold)) for fold in (None, 0, 1)]
        assert folds[0] == folds[1] != folds[2]
        monkeypatch.setenv("HMODE_FOLD", "1")
        assert names(Lab("smoke", "ucf_cc_50", root)) == folds[2]

    def test_runs_lie_by_fold(self, root, tmp_path):
        lab = Lab("smoke", "ucf_cc_50", root, device="cpu", output=tmp_path / "out", fold=2)
        run_dir = lab.run("hmode").training.run_dir
        assert run_dir.relative_to(tmp_path).as_posix().endswith("ucf_cc_50/hmode-seed0/fold2")
        assert lab.run("hmode").evaluation.names == names(lab)

    def test_a_fold_that_there_is_not(self, root):
        with pytest.raises(InputError, match="fold is 7"):
            len(Lab("smoke", "ucf_cc_50", root, fold=7).test)

    def test_others_have_none(self):
        assert Lab("smoke", "synthetic", fold=3).fold is None
