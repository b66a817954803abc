"""A training step captured as CUDA graphs, and how many steps a GPU takes without waiting."""

import gc
from dataclasses import fields, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from hmode.method.crops import Batch
from hmode.method.training import TrainingStep


def can_be_captured(accelerator: Accelerator, schedule) -> bool:
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
