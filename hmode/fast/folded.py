"""A network made ready to count."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval

from hmode.fast.quick import quicken
from hmode.method.network import CountingNetwork


def for_inference(model: CountingNetwork) -> CountingNetwork:
    """A copy that counts the same and faster, and can no longer be trained.

    Batch norms are folded into the convolutions before them: with fixed statistics both are
    linear, and a pass over the largest feature maps is saved for each. Weights and features lie
    channels last, the order in which convolutions read them. On a CPU convolutions with many
    channels take a quarter of their multiplications (`hmode.fast.winograd`). Layers that no
    count needs are left out (`local_head`).

    Args:
        model: any network, in training mode or not; is left as it is.

    Returns:
        A network on the same device, in evaluation mode, without gradients. Its maps equal the
        model's in evaluation mode up to rounding.
    """
    with torch.no_grad():
        folded = copy.deepcopy(model).eval().requires_grad_(False)
        if getattr(folded, "local_head", None) is not None:
            folded.local_head = None
        for module in list(folded.modules()):
            if isinstance(module, nn.Sequential):
                _fold(module)
        if next(folded.parameters()).device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            for module in folded.modules():
                if isinstance(module, nn.Conv2d):
                    module.to(torch.get_autocast_dtype("cpu"))
    return quicken(folded).to(memory_format=torch.channels_last)


def _fold(layers: nn.Sequential) -> None:
    """Fold each batch norm into the convolution before it, in place."""
    for i in range(1, len(layers)):
        if isinstance(layers[i], _BatchNorm) and isinstance(layers[i - 1], nn.Conv2d):
            layers[i - 1] = fuse_conv_bn_eval(layers[i - 1], layers[i])
            layers[i] = nn.Identity()
