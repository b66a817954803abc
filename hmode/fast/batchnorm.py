"""Batch norm whose statistics are shared by all processes of a training.

On GPUs it is torch's own SyncBatchNorm, which runs nowhere else. A training in several processes
on the CPU must give what one process gives, too: that is what `SharedBatchNorm2d` is for.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batches of all processes together, of equal size each."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        world = dist.get_world_size()
        n = x.numel() // x.shape[1] * world
        mean = _Sum.apply(x.mean(dim=(0, 2, 3))) / world
        centred = x - mean[:, None, None]
        variance = _Sum.apply((centred**2).mean(dim=(0, 2, 3))) / world
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes. Each one's loss depends on it, so its gradient is
    the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every `BatchNorm2d` inside a model, in place, by one that shares its statistics.

    Parameters, statistics and their names stay.

    Args:
        device: where the model will be trained.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm2d(
                    child.num_features, eps=child.eps, momentum=child.momentum
                )
                shared.load_state_dict(child.state_dict())
                setattr(module, name, shared)
    return model
