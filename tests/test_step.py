"""The training step: it waits for nothing, goes on from its checkpoint, and in which precision."""

import json
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import crowd, crowds
from torch.utils._python_dispatch import TorchDispatchMode

import hmode
from hmode import checkpoint
from hmode.data import Batch, CropSampler
from hmode.density import batch_density_maps
from hmode.device import (
    computing,
    equal_sizes,
    float32_products,
    make_accelerator,
    resolve_precision,
)
from hmode.errors import InputError
from hmode.fast.graphs import can_be_captured, empty_like, fill, power_of_two
from hmode.losses import SETTINGS, LossSettings, total_loss
from hmode.profiles import Schedule
from hmode.step import TrainingStep

SCHEDULE = Schedule(epochs=1, batch_size=2, crop=32, learning_rate=1e-3, average=0.9)
CROWDS = crowds([3, 40, 9, 17, 0, 30, 5, 8])
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def make_step(schedule=SCHEDULE, seed=0) -> TrainingStep:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = hmode.HMoDE(width=0.0625)
    step = TrainingStep(make_accelerator("cpu", schedule.precision), network, schedule)
    step.begin_epoch(schedule.learning_rate, 0, 0)
    return step


def batches(dataset=CROWDS, crop=32):
    return list(CropSampler(dataset, crop=crop, batch_size=2, seed=0).epoch(0))


def masked(sample):
    mask = torch.rand(sample.size, generator=torch.Generator().manual_seed(1)) < 0.7
    return replace(sample, mask=mask)


class NothingRead(TorchDispatchMode):
    """Refuses what makes a program wait for its device: reading values from it, sizes that depend
    on values, and copying data of the program to it."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "lift_fresh", "unique2")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        chosen = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]
        )
        waits = chosen or name in self.WAITS
        assert not waits, f"aten::{name} waits for the device"
        return func(*args, **(kwargs or {}))


class TestNothingIsRead:
    @pytest.mark.parametrize("waits", [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: x * torch.tensor(2.0),
    ])  # fmt: skip
    def test_the_watch_notices(self, waits):
        with NothingRead(), pytest.raises(AssertionError, match="waits for the device"):
            waits(torch.ones(3))

    @pytest.mark.parametrize("settings", SETTINGS)
    @pytest.mark.parametrize("dataset", [CROWDS, [masked(crowd(9)), masked(crowd(5))]])
    def test_by_a_step(self, settings, dataset):
        """From the second on: in the first Adam makes its moments."""
        step = make_step(replace(SCHEDULE, loss=SETTINGS[settings], window=15))
        first, *others = batches(dataset) * 2
        step(first)
        with NothingRead():
            for batch in others:
                step(batch)


def test_buffers_of_a_captured_step_hold_a_batch_and_nothing_of_an_earlier_one():
    """A batch of few heads after one of many of the same shape."""
    assert set(Batch.__dataclass_fields__) == {"images", "points", "valid", "mask"}
    for mask in (lambda sample: sample, masked):
        crowded = batches([mask(crowd(50)), mask(crowd(60))], 64)[0]
        sparse = batches([mask(crowd(35)), mask(crowd(0))], 64)[0]
        buffers = empty_like(crowded, 64)
        for batch in (crowded, sparse):
            fill(buffers, batch)
            assert buffers.valid.sum() == batch.valid.sum()
            assert torch.equal(buffers.points[buffers.valid], batch.points[batch.valid])
            assert torch.equal(buffers.images, batch.images)
            assert buffers.mask is batch.mask is None or torch.equal(buffers.mask, batch.mask)
    assert [power_of_two(number) for number in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]


@pytest.mark.parametrize(
    ("device", "processes", "changes", "expected"),
    [
        ("cuda", 1, {"precision": "bf16"}, True),
        ("cuda", 1, {"precision": "fp16"}, False),
        ("cuda", 1, {"loss": LossSettings(relative_mining="random")}, True),
        ("cuda", 2, {}, False),
        ("cpu", 1, {}, False),
    ],
)
def test_what_can_be_captured(device, processes, changes, expected):
    accelerator = SimpleNamespace(device=torch.device(device), num_processes=processes)
    assert can_be_captured(accelerator, replace(SCHEDULE, **changes)) is expected


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_step_goes_on_from_its_checkpoint_as_if_nothing_had_been(average):
    """Also where it was captured: learning rates are then tensors, which no checkpoint keeps."""
    first, second = batches()[:2]
    schedule = replace(SCHEDULE, average=average)
    whole, fresh = make_step(schedule), make_step(schedule, seed=5)
    whole(first)
    tensors, values = checkpoint.state(whole)
    stored = {key: value.clone() for key, value in tensors.items()}
    for group in whole.optimiser.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    checkpoint.restore(fresh, stored, json.loads(json.dumps(values)))
    for step in (whole, fresh):
        step.begin_epoch(1e-3, 0, 0)
    assert fresh(second)[0]["total"] == whole(second)[0]["total"]
    for name, value in whole.kept.state_dict().items():
        assert torch.equal(fresh.kept.state_dict()[name], value), name
    del stored[next(iter(stored))]
    with pytest.raises(InputError, match="not a checkpoint of this training"):
        checkpoint.restore(make_step(schedule), stored, values)


def test_a_step_on_masked_crops_counts_nothing_outside_the_masks():
    (batch,) = batches([masked(crowd(9)), masked(crowd(5))])
    losses, _ = make_step()(batch)
    target = batch_density_maps(batch.points, batch.valid, (32, 32)) * batch.mask
    prediction = make_step().network(batch.images).masked(batch.mask)
    expected = total_loss(prediction, target)["total"]
    torch.testing.assert_close(losses["total"], expected.detach(), rtol=1e-4, atol=0)


def test_an_epoch_has_its_rate_and_its_own_random_numbers():
    step, seeds = make_step(), set()
    for group in step.optimiser.param_groups:
        group["lr"] = torch.tensor(5.0)  # as a captured step has it
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        step.begin_epoch(0.25, seed, epoch)
        seeds.add(step.generator.initial_seed())
    assert len(seeds) == 3
    assert {group["lr"].item() for group in step.optimiser.param_groups} == {0.25}


def test_the_running_average_follows_weights_and_statistics_by_hand():
    step, expected = make_step(replace(SCHEDULE, average=0.75)), None
    for batch in batches()[:3]:
        step(batch)
        state = {name: value.clone() for name, value in step.network.state_dict().items()}
        floating = [name for name, value in state.items() if value.is_floating_point()]
        expected = expected or state
        expected = {name: 0.75 * expected[name] + 0.25 * state[name] for name in floating}
    assert any("running_var" in name for name in floating)
    kept = step.kept.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(kept[name], value)
        assert not torch.equal(kept[name], state[name]), name


# Precision


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
    if not unit:
        with pytest.warns(UserWarning, match="precision is 'bf16'.*slower.*'auto'"):
            assert resolve_precision("bf16", device) == "bf16"


@pytest.mark.parametrize(
    ("precision", "wanted"), [("no", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")]
)
def test_float32_products_are_set_and_given_back(precision, wanted):
    def found():
        cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
        return products.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark

    def fail():
        with float32_products(precision), equal_sizes():
            assert found() == (before[0], wanted, True)
            raise ZeroDivisionError

    before = found()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert found() == before


@pytest.mark.filterwarnings("ignore:precision is 'bf16'")
def test_training_and_counting_are_in_their_precision():
    """On a CPU TF32 is float32 in full; bf16 differs from it by about its eight bits."""
    (batch, *_) = batches()
    losses = {
        precision: make_step(replace(SCHEDULE, precision=precision))(batch)[0]["total"].item()
        for precision in ("no", "tf32", "bf16")
    }
    assert losses["tf32"] == losses["no"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["no"], rel=0.02)
    layer, x = torch.nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)
    for precision, dtype in (("no", torch.float32), ("bf16", torch.bfloat16)):
        with computing(precision, CPU):
            assert layer(x).dtype == dtype
        assert layer(x).dtype == torch.float32
