"""A training step and a forward pass as scripts write them: NCHW memory, torch's defaults."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.plain.density import untruncated
from benchmarks.plain.losses import total_loss
from hmode.data.crops import Batch
from hmode.models import HMoDE


class PlainStep:
    """Targets head by head, forward, loss of full-size maps, backward, torch's default Adam.

    Args:
        model: is trained in place.
        learning_rate: Adam's.
    """

    def __init__(self, model: HMoDE, learning_rate: float):
        self.model = model.train()
        self.optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def __call__(self, batch: Batch) -> Tensor:
        """One update; returns the loss. The gradients stay."""
        loss = total_loss(self.model(batch.images), targets(batch))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.detach()


def targets(batch: Batch) -> Tensor:
    """The density maps of a batch of crops, `[B, 1, H, W]`, on the device of its images."""
    size = tuple(batch.images.shape[-2:])
    crops = zip(batch.points.cpu().numpy(), batch.valid.cpu().numpy(), strict=True)
    maps = np.stack([untruncated(points[valid], size) for points, valid in crops])
    return torch.from_numpy(maps)[:, None].to(batch.images.device)


@torch.no_grad()
def count(model: HMoDE, images: Tensor) -> Tensor:
    """`[B]`, people: the network in evaluation mode as it is, its final map at full size summed."""
    return model.eval()(images).full_size().sum(dim=(1, 2, 3))
