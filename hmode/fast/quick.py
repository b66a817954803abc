"""Convolutions that choose on a CPU by what they are computed."""

import torch
from torch import Tensor, nn

from hmode.fast import winograd


class QuickConv2d(nn.Conv2d):
    """A convolution that `suits`; same weights, same result up to rounding.

    On a CPU in float32 by Winograd's algorithm where that is faster.
    """

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "QuickConv2d":
        """The same convolution, sharing its weights."""
        with torch.device("meta"):
            made = cls(conv.in_channels, conv.out_channels, 3, padding=1)
        made.weight, made.bias = conv.weight, conv.bias
        return made.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        full = self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        sizes = self.in_channels, self.out_channels, x.numel() // x.shape[1]
        if x.device.type == "cpu" and full and winograd.gains(*sizes, x.requires_grad):
            return winograd.winograd(x, self.weight, self.bias)
        return super().forward(x)


def suits(module: nn.Module) -> bool:
    """Whether a module is a convolution that could gain."""
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.stride == module.padding == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and winograd.gains(module.in_channels, module.out_channels, 2**20, True)
    )


def quicken(model: nn.Module) -> nn.Module:
    """Let the convolutions that `suits` names choose, in place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if suits(child) and not isinstance(child, QuickConv2d):
                setattr(module, name, QuickConv2d.of(child))
    return model
