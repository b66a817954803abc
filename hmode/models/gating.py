"""Gating nets and the attention net (section III-B.1): all read the encoder's last feature F."""

from torch import Tensor, nn

from hmode.models.backbone import conv_relu, scaled, to_grid

GATE1_CHANNELS = (256,)
GATE2_CHANNELS = (1024, 2048, 1024, 512, 256)
ATTENTION_CHANNELS = (256, 128)


class GatingNet(nn.Module):
    """Pixel-wise soft weights for `groups` groups of `members` maps each.

    3 x 3 convolutions and a last 1 x 1 one, each with a ReLU, then a softmax over the members.
    F `[B, C, H/16, W/16]` and a grid (h, w) → `[B, groups, members, h, w]`, summing to one over
    members; nearest upsampling keeps that sum.
    """

    def __init__(self, c_in: int, hidden: tuple[int, ...], groups: int, members: int, width: float):
        super().__init__()
        self.shape = (groups, members)
        channels = [c_in, *(scaled(c, width) for c in hidden), groups * members]
        self.layers = conv_relu(channels, [3] * len(hidden) + [1])
        # A common shift changes no softmax, but it keeps the last ReLU from starting shut.
        nn.init.ones_(self.layers[-2].bias)

    def forward(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        logits = self.layers(features).float().unflatten(1, self.shape)  # [B, M, N, H/16, W/16]
        weights = logits.softmax(dim=2).flatten(1, 2)
        return to_grid(weights, grid).unflatten(1, self.shape)  # [B, M, N, h, w]


class AttentionNet(nn.Module):
    """Three convolutions and a sigmoid: F `[B, C, H/16, W/16]` → A `[B, 1, H/16, W/16]`."""

    def __init__(self, c_in: int, width: float):
        super().__init__()
        channels = [c_in, *(scaled(c, width) for c in ATTENTION_CHANNELS)]
        self.layers = conv_relu(channels, [3, 3])
        self.output = nn.Conv2d(channels[-1], 1, 1)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.output(self.layers(features)).float().sigmoid()
