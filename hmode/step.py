"""One training step, and how a device computes it.

Nothing inside a step waits for the device: no value is read back, nothing is copied to it. A GPU's
queue then stays full, and the whole step can be captured as a CUDA graph.
"""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hmode.data import Batch
from hmode.density import batch_density_maps
from hmode.evaluation import resolve_device
from hmode.losses import total_loss
from hmode.models import CountingNetwork
from hmode.models.batchnorm import synchronise_batch_norm
from hmode.models.layout import lay_out
from hmode.profiles import Schedule


@dataclass(frozen=True)
class Compute:
    """How a device computes: settings of speed and memory, which change results by rounding only.

    Attributes:
        graphs: on a CUDA device, capture the step as a CUDA graph and replay it, where the step
            allows that (see `can_be_captured`).
        compile: compile the network with torch.compile. It needs a C++ compiler and a minute or
            more before the first step, which only long trainings win back.
        memory: GiB of decoded images to keep on the device, see `hmode.data.Resident`.
    """

    graphs: bool = True
    compile: bool = False
    memory: float | None = None


DEFAULT = Compute()


class TrainingStep:
    """Targets, forward pass, losses, backward pass, Adam and running average of one batch.

    Args:
        accelerator: of `make_accelerator`; says on which device, with which others, how precisely.
        network: is trained in place, moved to the device, laid out for it (`lay_out`), and its
            batch norms are shared by all processes.
        schedule: learning rate, targets, losses, averaging.
        compile: see `Compute`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        network: CountingNetwork,
        schedule: Schedule,
        *,
        compile: bool = False,
    ):
        self.accelerator, self.schedule = accelerator, schedule
        device = accelerator.device
        if accelerator.num_processes > 1:
            network = synchronise_batch_norm(network, device)
        # Moved before it is copied: the running average lies where the network does.
        self.network = network = lay_out(network.to(device), device)
        self.average = None
        if schedule.average:
            self.average = RunningAverage(network, schedule.average)
        if compile:
            network.compile()
        optimiser = torch.optim.Adam(
            network.parameters(), lr=schedule.learning_rate, fused=device.type in ("cpu", "cuda")
        )
        self.model, self.optimiser = accelerator.prepare(network, optimiser)
        self.generator = torch.Generator(device)

    @property
    def kept(self) -> CountingNetwork:
        """The network that is validated and saved: the average of the weights, or the weights."""
        return self.network if self.average is None else self.average.module

    def begin_epoch(self, rate: float, seed: int, epoch: int) -> None:
        """Into training mode, with this learning rate and the random numbers of this epoch."""
        self.model.train()
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # a captured step reads it there
            else:
                group["lr"] = rate
        stream = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
        self.generator.manual_seed(int(stream[0]) >> 1)

    def __call__(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Train on one batch.

        Returns:
            The losses of `total_loss` by name, scalars, and `[C]`, the highest value of each map;
            on the device, without gradients.
        """
        schedule = self.schedule
        images = batch.images.contiguous(memory_format=torch.channels_last)
        target = batch_density_maps(
            batch.points,
            batch.valid,
            images.shape[-2:],
            sigma=schedule.sigma,
            window=schedule.window,
        )
        prediction = self.model(images)
        if batch.mask is not None:
            prediction, target = prediction.masked(batch.mask), target * batch.mask
        losses = total_loss(
            prediction,
            target,
            schedule.loss,
            points=batch.points,
            valid=batch.valid,
            generator=self.generator,
        )
        self.optimiser.zero_grad()
        self.accelerator.backward(losses["total"])
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        highest = prediction.maps.detach().amax(dim=(0, 2, 3))
        return {name: loss.detach() for name, loss in losses.items()}, highest


class RunningAverage(AveragedModel):
    """torch's exponential average of a network's weights and statistics, which however asks the
    device at every update whether it is the first."""

    def __init__(self, network: CountingNetwork, decay: float):
        follow = get_ema_multi_avg_fn(decay)
        device = next(network.parameters()).device
        super().__init__(network, device, multi_avg_fn=follow, use_buffers=True)
        self.begun: bool | None = None

    def update_parameters(self, network: CountingNetwork) -> None:
        """Take in the network's weights and statistics; the first time, copy them."""
        if self.begun is None:  # at first, and after a checkpoint was loaded
            self.begun = bool(self.n_averaged > 0)
        if not self.begun:
            super().update_parameters(network)
            self.begun = True
            return
        pairs = [
            (ours, theirs.detach())
            for ours, theirs in zip(_state(self.module), _state(network), strict=True)
            if ours.is_floating_point()
        ]
        self.multi_avg_fn(*map(list, zip(*pairs, strict=True)), None)
        self.n_averaged += 1


def _state(network: CountingNetwork) -> list[Tensor]:
    return [*(p.detach() for p in network.parameters()), *network.buffers()]


def can_be_captured(accelerator: Accelerator, schedule: Schedule) -> bool:
    """Whether a training's steps can be captured as a CUDA graph: on one GPU, without fp16 (its
    loss scaling asks the device about overflow)."""
    return (
        accelerator.device.type == "cuda"
        and accelerator.num_processes == 1
        and schedule.precision != "fp16"
    )


class CapturedStep:
    """A training step captured as CUDA graphs, one for each shape of batch, and replayed.

    A step is hundreds of short kernels. Launched one by one they keep a GPU waiting where the
    batch is small; a replay launches all at once. The numbers are those of the step itself.

    The first steps run as they are, on a stream of their own: in them cuDNN chooses its algorithms
    and Adam makes its moments. Batches differ in the number of heads, which is filled up to the
    next power of two; a graph of another shape is captured when it is first met.

    Args:
        step: of a training for which `can_be_captured`, its state loaded.
    """

    BEFORE = 3  # steps that are not captured

    def __init__(self, step: TrainingStep):
        self.step, self.device = step, step.accelerator.device
        self.stream = torch.cuda.Stream(self.device)
        self.done, self.pool, self.captured = 0, None, {}
        for group in step.optimiser.param_groups:
            rate = torch.tensor(float(group["lr"]), device=self.device)
            group |= {"capturable": True, "lr": rate}

    def __call__(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        if self.done < self.BEFORE:
            self.done += 1
            return self._aside(batch)
        heads = power_of_two(batch.points.shape[1])
        if heads not in self.captured:
            self.captured[heads] = self._capture(empty_like(batch, heads))
        buffers, graph, results = self.captured[heads]
        fill(buffers, batch)
        graph.replay()
        losses, highest = results
        return {name: loss.clone() for name, loss in losses.items()}, highest.clone()

    def _aside(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The step as it is, on the stream on which graphs are captured afterwards."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            results = self.step(batch)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return results

    def _capture(self, buffers: Batch):
        self.step.optimiser.zero_grad()  # the graph makes its own gradients, in its own memory
        gc.collect()  # what an earlier training left must not be freed while one is captured
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.step.generator)
        # Threads that decode images ahead pin memory, which may go on beside the capture.
        with torch.cuda.graph(
            graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
        ):
            results = self.step(buffers)
        self.pool = graph.pool()
        return buffers, graph, results


def power_of_two(number: int) -> int:
    """The least power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()


def empty_like(batch: Batch, heads: int) -> Batch:
    """Buffers for batches of this shape with at most so many heads in a crop."""
    crops = len(batch.points)
    return replace(
        batch,
        images=torch.empty_like(batch.images),
        points=batch.points.new_zeros(crops, heads, 2),
        valid=batch.valid.new_zeros(crops, heads),
        mask=None if batch.mask is None else torch.empty_like(batch.mask),
    )


def fill(buffers: Batch, batch: Batch) -> None:
    """Copy a batch into buffers that have room for at least its heads."""
    heads = batch.points.shape[1]
    buffers.valid.zero_()
    for field in fields(batch):
        value, buffer = getattr(batch, field.name), getattr(buffers, field.name)
        if field.name in ("points", "valid"):
            buffer[:, :heads].copy_(value)
        elif value is not None:
            buffer.copy_(value)


def make_accelerator(device: str, precision: str) -> Accelerator:
    """accelerate's handle on devices, processes and precision, one of `hmode.profiles.PRECISIONS`.

    Raises:
        InputError: the device is unknown or not there.
    """
    chosen = resolve_device(device)
    on_cpu = chosen.type == "cpu"
    precision = resolve_precision(precision, chosen)
    # It is a process-wide singleton; each training decides its precision and device anew.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    mixed = precision if precision in ("bf16", "fp16") else "no"
    return Accelerator(cpu=on_cpu, mixed_precision=mixed)


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" is "bf16" where the device multiplies it in units of its own, else "no" on a CPU and
    "tf32" on a GPU; all others are themselves."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_amx_tile_supported()
    if precision == "bf16" and not fast:
        warnings.warn(
            "precision is 'bf16', but this processor has no unit for it and will be slower than "
            "with 'no' (float32); 'auto' chooses by the device",
            stacklevel=2,
        )
    if precision != "auto":
        return precision
    return "bf16" if fast else "tf32" if device.type == "cuda" else "no"


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Inside, a CUDA device's convolutions of float32 are rounded to TF32 if `precision` is "tf32"
    (torch's own default), else computed in full. Other products, those of the density maps among
    them, are in full, torch's default."""
    products = torch.backends.cudnn.conv
    before = products.fp32_precision
    products.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        products.fp32_precision = before


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """Inside, a network counts in a schedule's precision: float32, TF32, or in 16 bits."""
    precision = resolve_precision(precision, device)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with float32_products(precision), torch.autocast(device.type, half, enabled=half is not None):
        yield


@contextmanager
def equal_sizes() -> Iterator[None]:
    """Inside, all batches are of one size: cuDNN may try its algorithms out on the first."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
