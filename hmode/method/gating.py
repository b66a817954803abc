"""Gating nets and the attention net (section III-B.1).

Gating net 1, of two convolutions, and the attention net, of three, read the encoder's last feature
F, conv5_3 after its ReLU, `[B, 512, H/16, W/16]`; gating net 2, of six, reads F' = A·F. None sees
the decoder or the experts. The paper gives the number of layers and not their channels, which are
those of the released code.
"""

import math

from torch import Tensor, nn

from hmode.method.network import conv_relu, scaled, to_grid

# Channels of the 3 x 3 convolutions before the output, at width 1.
GATE1_CHANNELS = (256,)
GATE2_CHANNELS = (1024, 2048, 1024, 512, 256)
ATTENTION_CHANNELS = (256, 128)
INITIAL_STD = 0.01


def convolutions(c_in: int, hidden: tuple[int, ...], width: float) -> nn.Sequential:
    """3 x 3 convolutions with ReLUs through `hidden` channels, scaled by `width`."""
    return conv_relu([c_in, *(scaled(c, width) for c in hidden)], [3] * len(hidden))


class GatingNet(nn.Module):
    """Weights for M groups of N members each at each pixel, summing to one over a group's members.

    Some layers, then a 1 x 1 convolution with a ReLU, then a softmax over the members.

    Args:
        trunk: the layers before the output.
        c: their output channels.
        shape: (M, N).
        std: of the initial weights; None: He et al.'s. Small, as in the released code, so that a
            training begins with even weights.
    """

    def __init__(self, trunk: nn.Sequential, c: int, shape: tuple[int, ...], std=INITIAL_STD):
        super().__init__()
        self.shape = shape
        self.layers = nn.Sequential(*trunk, *conv_relu([c, math.prod(shape)], [1]))
        for module in self.layers.modules():
            if isinstance(module, nn.Conv2d) and std is not None:
                nn.init.normal_(module.weight, std=std)
        # A common shift changes no softmax, but it keeps the last ReLU from starting shut.
        nn.init.ones_(self.layers[-2].bias)

    def forward(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """Features `[B, c_in, ., .]` → `[B, M, N, h, w]`."""
        logits = self.layers(features).float().unflatten(1, self.shape)  # [B, M, N, ., .]
        weights = self.weigh(logits)
        return to_grid(weights.flatten(1, 2), grid).unflatten(1, self.shape)

    def weigh(self, logits: Tensor) -> Tensor:
        """Logits → weights, `[B, M, N, ., .]` both."""
        return logits.softmax(dim=2)


class AttentionNet(nn.Module):
    """Some layers, a 1 x 1 convolution, a sigmoid: F `[B, C, ., .]` → A `[B, 1, ., .]`.

    Args:
        trunk: the layers before the output.
        c: their output channels.
    """

    def __init__(self, trunk: nn.Sequential, c: int):
        super().__init__()
        self.layers = trunk
        self.output = nn.Conv2d(c, 1, 1)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.output(self.layers(features)).float().sigmoid()
