"""Batch norm whose statistics are shared by all processes, on the CPU too.

torch's own SyncBatchNorm runs on GPUs only; a training on two CPU processes must give what one
process gives.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batches of all processes together, of equal size each."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        world = dist.get_world_size()
        n = x.numel() // x.shape[1] * world
        mean = all_reduce(x.mean(dim=(0, 2, 3))) / world
        centred = x - mean[:, None, None]
        variance = all_reduce((centred**2).mean(dim=(0, 2, 3))) / world
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def synchronise_batch_norm(model: nn.Module) -> nn.Module:
    """Replace every `BatchNorm2d` inside a model, in place, by one that shares its statistics."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm2d(
                    child.num_features, eps=child.eps, momentum=child.momentum
                )
                shared.load_state_dict(child.state_dict())
                setattr(module, name, shared)
    return model
