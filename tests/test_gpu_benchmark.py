"""The command that measures on a GPU, tried at a toy size on the CPU."""

import csv

import pytest
import torch
from click.testing import CliRunner

from benchmarks import gpu


@pytest.fixture
def quick(monkeypatch):
    """Without measuring the machine, and without a compiler."""
    monkeypatch.setattr(gpu, "product_rate", lambda *_: 1e12)
    monkeypatch.setattr(gpu, "copy_bandwidth", lambda *_: 1e9)
    parts = tuple(part for part in gpu.PARTS if part is not gpu.compiled)
    monkeypatch.setattr(gpu, "PARTS", parts)
    return parts


def run(folder, *arguments):
    return CliRunner().invoke(gpu.main, ["--tiny", "--output", str(folder), *arguments])


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_part_measures_something(quick, tmp_path):
    done = run(tmp_path)
    assert done.exit_code == 0, done.output
    rows = table(tmp_path / "gpu.csv")
    assert all(float(row["value"]) >= 0 for row in rows)
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    for start in ("limit", "step", "captured", "plain", "memory", "targets", "training", "count"):
        assert any(name.startswith(start) for name in names), start
    shares = [float(row["share"]) for row in table(tmp_path / "gpu-trace.csv")]
    assert sum(shares) == pytest.approx(2)  # of each of two precisions
    by_name = {row["name"]: row for row in rows}
    assert by_name["captured against eager, float32: largest difference"]["held"] == "True"
    assert by_name["count, ours / plain - 1"]["held"] == "True"


def test_a_part_that_fails_is_said_and_takes_no_other_with_it(quick, tmp_path, monkeypatch):
    def broken(sizes, found):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu, "PARTS", (gpu.limits, broken))
    monkeypatch.setattr(gpu, "trace", lambda sizes, output: (output / "traced").touch())
    done = run(tmp_path)
    assert done.exit_code == 1
    assert "no such kernel" in done.output
    assert (tmp_path / "traced").is_file()
    assert len(table(tmp_path / "gpu.csv")) == 4


def test_goals_are_judged():
    found = gpu.Found()
    found.add("fast", 10, "x", least=3)
    found.add("slow", 2, "x", least=3)
    found.add("large", 0.6, "", most=0.5)
    found.add("free", 1, "")
    assert [row["held"] for row in found.rows] == [True, False, False, None]
    assert found["slow"] == 2


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16", "convolution and product"),
        ("batch_norm_backward_channels_last_kernel", "batch norm"),
        ("fused_adam", "Adam"),
        ("Memcpy DtoD", "copies"),
        ("vectorized_elementwise_kernel", "elementwise and other"),
    ],
)
def test_kernels_have_kinds(kernel, kind):
    assert gpu.kind_of(kernel) == kind


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure")
def test_without_a_gpu_it_says_so(tmp_path):
    done = CliRunner().invoke(gpu.main, ["--output", str(tmp_path)])
    assert done.exit_code == 1
    assert "torch finds no CUDA device" in done.output
