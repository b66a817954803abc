"""How a network is trained (section IV-B.2): Adam on random crops, the learning rate halved.

Nothing inside a step waits for the device: no value is read back, nothing is copied to it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from hmode.errors import InputError, TrainingError
from hmode.method.crops import Batch, CropSampler
from hmode.method.density import batch_density_maps, check_window
from hmode.method.losses import LossSettings, total_loss
from hmode.method.network import CountingNetwork
from hmode.method.prediction import Prediction


@dataclass(frozen=True)
class Schedule:
    """How to train a network; the default is the paper's, with losses as in `LossSettings`.

    Attributes:
        epochs: passes over the training set, one crop of every image each.
        batch_size: crops per step, over all processes.
        crop: side of the square crops in pixels, a multiple of 32.
        learning_rate: Adam's.
        halve_after: epochs after which the learning rate is halved.
        sigma, window: of the target density maps, see `density_map`; pixels.
        loss: the loss settings.

    Raises:
        InputError: a value is out of its range.
    """

    epochs: int = 200
    batch_size: int = 8
    crop: int = 256
    learning_rate: float = 2e-5
    halve_after: tuple[int, ...] = (100,)
    sigma: float = 4.0
    window: int | None = None
    loss: LossSettings = field(default_factory=LossSettings)

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            require_positive(self, name)
        if not isinstance(self.crop, int) or self.crop < 32 or self.crop % 32:
            raise InputError(f"crop is {self.crop!r}, expected a positive multiple of 32")
        for name in ("learning_rate", "sigma"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)!r}, expected a positive number")
        check_window(self.window)

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return self.learning_rate * 0.5 ** sum(epoch >= after for after in self.halve_after)


def require_positive(settings, name: str) -> None:
    """Refuse a field that is no whole number of at least 1."""
    value = getattr(settings, name)
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}, expected a positive whole number")


class TrainingStep:
    """Targets, forward pass, losses, backward pass and Adam for one batch.

    Args:
        accelerator: says on which device, with which others, how precisely.
        network: is trained in place, moved to the device.
        schedule: learning rate, targets, losses.
    """

    def __init__(self, accelerator: Accelerator, network: CountingNetwork, schedule: Schedule):
        self.accelerator, self.schedule = accelerator, schedule
        self.network = network = self.prepared(network.to(accelerator.device))
        optimiser = torch.optim.Adam(
            network.parameters(),
            lr=schedule.learning_rate,
            fused=accelerator.device.type in ("cpu", "cuda"),
        )
        self.model, self.optimiser = accelerator.prepare(network, optimiser)

    def prepared(self, network: CountingNetwork) -> CountingNetwork:
        """The network in the form in which it is trained: room for what makes it faster."""
        return network

    def losses(self, prediction: Prediction, target: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The losses by name, "total" among them: room for those of other methods."""
        return total_loss(prediction, target, self.schedule.loss)

    def begin_epoch(self, rate: float, seed: int, epoch: int) -> None:
        """Into training mode, with this learning rate."""
        self.model.train()
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # where the step is captured, it reads it there
            else:
                group["lr"] = rate

    def __call__(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Train on one batch.

        Returns:
            The losses by name, scalars, and `[C]`, the highest value of each map; on the device,
            without gradients.
        """
        images = batch.images.contiguous(memory_format=torch.channels_last)
        size, sigma, window = images.shape[-2:], self.schedule.sigma, self.schedule.window
        target = batch_density_maps(batch.points, batch.valid, size, sigma=sigma, window=window)
        prediction = self.model(images)
        if batch.mask is not None:
            prediction, target = prediction.masked(batch.mask), target * batch.mask
        losses = self.losses(prediction, target, batch)
        self.optimiser.zero_grad()
        self.accelerator.backward(losses["total"])
        self.optimiser.step()
        highest = prediction.maps.detach().amax(dim=(0, 2, 3))
        return {name: loss.detach() for name, loss in losses.items()}, highest


def run_epoch(
    step: TrainingStep,
    sampler: CropSampler,
    epoch: int,
    *,
    seed: int = 0,
    take: Callable | None = None,
    done: Callable[[], object] = lambda: None,
) -> dict:
    """One pass over the training set. A training is one for each epoch of the schedule.

    Args:
        step: is taken on every batch.
        sampler: gives the batches.
        epoch: from 0.
        seed: of what is random in losses.
        take: what to call instead of `step`, for example its captured form.
        done: is called after each step.

    Returns:
        epoch (from 1), learning_rate, and each loss, averaged over all batches.

    Raises:
        TrainingError: a loss or a weight is not a number, or a density map is dead.
    """
    accelerator, rate = step.accelerator, step.schedule.rate(epoch)
    step.begin_epoch(rate, seed, epoch)
    sums: dict[str, Tensor] = {}
    highest = torch.zeros((), device=accelerator.device)
    for batch in sampler.epoch(epoch):
        losses, values = (take or step)(batch)
        # Watched on the device: reading a value back would make it wait, step by step.
        sums = {name: sums.get(name, 0) + loss for name, loss in losses.items()}
        highest = torch.maximum(highest, values)
        done()
    means = accelerator.reduce(torch.stack([*sums.values()]), "mean") / sampler.steps
    highest = accelerator.gather(highest[None]).amax(dim=0).tolist()
    row = {"epoch": epoch + 1, "learning_rate": rate}
    row |= dict(zip(sums, means.tolist(), strict=True))
    weights = sum(p.detach().sum() for p in step.network.parameters()).item()
    require_finite(row | {"weights": weights})
    dead = [c for c, value in enumerate(highest) if value <= 0]
    if dead:
        raise TrainingError(
            f"density maps {dead} of {len(highest)} (experts, groups, final) were zero "
            f"everywhere in all of epoch {epoch + 1}. A map that ends in a ReLU cannot recover "
            "from that. Check the scale of the losses, or lower the learning rate"
        )
    return row


def require_finite(row: dict) -> None:
    """Refuse a row of a history that holds NaN or infinity.

    Raises:
        TrainingError: names them.
    """
    bad = [name for name, value in row.items() if value is not None and not math.isfinite(value)]
    if bad:
        raise TrainingError(
            f"{', '.join(bad)} not finite in epoch {row['epoch']}; lower the learning rate "
            f"({row['learning_rate']:g}) or use precision='no'. The last good checkpoint is kept"
        )
