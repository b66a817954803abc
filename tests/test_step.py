"""The training step: it waits for nothing, and its captured form computes the same."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import crowd, crowds
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

import hmode
from hmode import checkpoint
from hmode import step as module
from hmode.data import Batch, CropSampler
from hmode.errors import InputError
from hmode.losses import SETTINGS, LossSettings
from hmode.profiles import Schedule
from hmode.step import (
    RunningAverage,
    TrainingStep,
    can_be_captured,
    equal_sizes,
    float32_products,
    make_accelerator,
    power_of_two,
)

SCHEDULE = Schedule(epochs=1, batch_size=2, crop=64, learning_rate=1e-3, average=0.9)
CROWDS = crowds([3, 40, 9, 17, 0, 30, 5, 8, 16, 33, 12, 1])


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return hmode.HMoDE(width=0.0625)


def make_step(schedule=SCHEDULE, seed=0) -> TrainingStep:
    step = TrainingStep(make_accelerator("cpu", schedule.precision), network(seed), schedule)
    step.begin_epoch(schedule.learning_rate, 0, 0)
    return step


def batches(dataset=CROWDS):
    return list(CropSampler(dataset, crop=64, batch_size=2, seed=0).epoch(0))


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


class TestBuffers:
    """What a captured step reads its batches from; `benchmarks.gpu` compares the step itself."""

    def test_no_head_of_an_earlier_batch_stays(self):
        """A batch of few heads after one of many of the same shape."""
        many, few = batches([crowd(50), crowd(60)])[0], batches([crowd(35), crowd(0)])[0]
        buffers = module.empty_like(many, 64)
        for batch in (many, few):
            module.fill(buffers, batch)
            assert buffers.valid.sum() == batch.valid.sum()
            assert torch.equal(buffers.points[buffers.valid], batch.points[batch.valid])
            assert torch.equal(buffers.images, batch.images)
        assert buffers.mask is None

    def test_a_mask_is_copied(self):
        (batch,) = batches([masked(crowd(9)), masked(crowd(5, seed=3))])
        buffers = module.empty_like(batch, 16)
        module.fill(buffers, batch)
        assert torch.equal(buffers.mask, batch.mask)
        assert buffers.mask is not batch.mask

    @pytest.mark.parametrize(("number", "power"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
    def test_powers_of_two(self, number, power):
        assert power_of_two(number) == power


@pytest.mark.parametrize(
    ("device", "processes", "changes", "expected"),
    [
        ("cuda", 1, {}, True),
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
    assert {key.partition(".")[0] for key in tensors} == {"network", "adam"} | (
        {"average"} if average else set()
    )
    stored = {key: value.clone() for key, value in tensors.items()}
    for group in whole.optimiser.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    checkpoint.restore(fresh, stored, json.loads(json.dumps(values)))
    for step in (whole, fresh):
        step.begin_epoch(1e-3, 0, 0)
    assert fresh(second)[0]["total"] == whole(second)[0]["total"]
    for name, value in whole.kept.state_dict().items():
        assert torch.equal(fresh.kept.state_dict()[name], value), name


def test_a_checkpoint_of_another_network_is_refused():
    tensors, values = checkpoint.state(make_step())
    del tensors[next(iter(tensors))]
    with pytest.raises(InputError, match="not a checkpoint of this training"):
        checkpoint.restore(make_step(), tensors, values)


def test_the_running_average_is_torchs():
    ours, theirs = network(), network()
    average = RunningAverage(ours, 0.8)
    library = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            noise = torch.randn(a.shape, generator=generator)
            a.data += noise
            b.data += noise
        average.update_parameters(ours)
        library.update_parameters(theirs)
    assert average.n_averaged == library.n_averaged == 3
    for a, b in zip(average.parameters(), library.parameters(), strict=True):
        assert torch.equal(a, b)


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


def test_tf32_and_bf16_train_in_their_precision():
    """On a CPU TF32 is float32 in full; bf16 differs from it by about its eight bits."""
    (batch, *_) = batches()
    losses = {
        precision: make_step(replace(SCHEDULE, precision=precision))(batch)[0]["total"].item()
        for precision in ("no", "tf32", "bf16")
    }
    assert losses["tf32"] == losses["no"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["no"], rel=0.02)


def test_a_batch_has_no_fields_that_are_not_copied():
    """`fill` and `empty_like` know them all."""
    assert set(Batch.__dataclass_fields__) == {"images", "points", "valid", "mask"}
