"""hmode export: the file counts what the network counts, at any size, or is not written."""

import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import noise
from helpers import stored

import hmode
from hmode.cli import main
from hmode.errors import InputError
from hmode.export import export
from hmode.models import build_model

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def network(**config):
    torch.manual_seed(0)
    return build_model({"model": "HMoDE", "width": 0.0625, **config}).eval()


@pytest.fixture
def needed():
    return [pytest.importorskip(each, reason="extra export is not installed") for each in NEEDED]


@pytest.mark.slow
class TestExport:
    def test_hmode_at_sizes_that_were_not_traced(self, tmp_path, needed):
        """Of a run folder, by the command; sides that are multiples of nothing, too."""
        run, path = stored(tmp_path / "run"), tmp_path / "model.onnx"
        model = hmode.load_run(run)
        done = CliRunner().invoke(main, ["export", str(run), str(path)])
        assert done.exit_code == 0, done.output
        assert "differ by" in done.output
        session = needed[2].InferenceSession(path)
        assert session.get_modelmeta().custom_metadata_map["stride"] == "4"
        for size in ((33, 32), (64, 64), (117, 250)):
            pixels = noise(size, seed=sum(size)).transpose(2, 0, 1)
            count, density = session.run(None, {"image": pixels[None]})
            expected = hmode.count(torch.from_numpy(pixels.copy()), model)
            assert count[0] == pytest.approx(expected.count, rel=1e-4)
            cells = expected.density.numpy()
            np.testing.assert_allclose(density[0, 0], cells, atol=1e-4 * cells.max())

    def test_a_network_that_counts_otherwise_is_not_written(self, tmp_path, needed, monkeypatch):
        path = tmp_path / "model.onnx"
        monkeypatch.setattr("hmode.export.TOLERANCE", 0)
        with pytest.raises(InputError, match=r"model\.onnx: onnxruntime and PyTorch differ by"):
            export(network(model="CSRNet"), path)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", NEEDED)
def test_without_a_library_its_extra_is_named(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    if missing != "onnx":
        pytest.importorskip("onnx", reason="extra export is not installed")
    with pytest.raises(InputError, match=r"ONNX export needs .*pip install 'hmode\[export\]'"):
        export(network(), tmp_path / "model.onnx")
