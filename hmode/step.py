"""A training step with all losses, as a device computes it fastest.

The step itself is `hmode.method.training.TrainingStep`. Nothing inside it waits for the device, so
that the whole of it can be captured as a CUDA graph (`hmode.fast.graphs`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from hmode.device import make_accelerator
from hmode.fast.average import RunningAverage
from hmode.fast.batchnorm import synchronise_batch_norm
from hmode.fast.layout import lay_out
from hmode.losses import total_loss
from hmode.method import training
from hmode.method.crops import Batch
from hmode.method.network import CountingNetwork
from hmode.method.prediction import Prediction
from hmode.profiles import Schedule

__all__ = ["DEFAULT", "Compute", "TrainingStep", "make_accelerator"]


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


class TrainingStep(training.TrainingStep):
    """The step of `hmode.method.training`, with all losses there are, and fast.

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
        self.compile = compile
        self.generator = torch.Generator(accelerator.device)
        super().__init__(accelerator, network, schedule)

    def prepared(self, network: CountingNetwork) -> CountingNetwork:
        device = self.accelerator.device
        if self.accelerator.num_processes > 1:
            network = synchronise_batch_norm(network, device)
        network = lay_out(network, device)
        decay = self.schedule.average
        self.average = RunningAverage(network, decay) if decay else None  # lies on the device too
        if self.compile:
            network.compile()
        return network

    @property
    def kept(self) -> CountingNetwork:
        """The network that is validated and saved: the average of the weights, or the weights."""
        return self.network if self.average is None else self.average.module

    def begin_epoch(self, rate: float, seed: int, epoch: int) -> None:
        """Into training mode, with this learning rate and the random numbers of this epoch."""
        super().begin_epoch(rate, seed, epoch)
        stream = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
        self.generator.manual_seed(int(stream[0]) >> 1)

    def losses(self, prediction: Prediction, target: Tensor, batch: Batch) -> dict[str, Tensor]:
        return total_loss(
            prediction,
            target,
            self.schedule.loss,
            points=batch.points,
            valid=batch.valid,
            generator=self.generator,
        )

    def __call__(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        results = super().__call__(batch)
        if self.average is not None:
            self.average.update_parameters(self.network)
        return results
