"""Which precision a device gets, and what is said where it would be slow."""

import warnings

import pytest
import torch

from hmode.step import computing, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "unit", "chosen"),
    [(CPU, True, "bf16"), (CPU, False, "no"), (CUDA, True, "bf16"), (CUDA, False, "tf32")],
)
def test_auto_is_bf16_where_the_device_has_a_unit_for_it(monkeypatch, device, unit, chosen):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: unit)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: unit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_precision("auto", device) == chosen
        for precision in ("no", "tf32", "fp16"):
            assert resolve_precision(precision, device) == precision


def test_bf16_without_a_unit_says_that_it_is_slow(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.warns(UserWarning, match="precision is 'bf16'.*slower.*'auto'"):
        assert resolve_precision("bf16", CPU) == "bf16"


@pytest.mark.filterwarnings("ignore:precision is 'bf16'")
@pytest.mark.parametrize(("precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_counting_is_in_the_schedules_precision(precision, dtype):
    layer = torch.nn.Conv2d(3, 4, 3)
    with computing(precision, CPU):
        assert layer(torch.randn(1, 3, 8, 8)).dtype == dtype
    assert layer(torch.randn(1, 3, 8, 8)).dtype == torch.float32
