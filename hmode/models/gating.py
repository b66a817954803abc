"""The designs of gating and attention nets in Tables IV, V and VII."""

import torch
from torch import Tensor, nn

from hmode.method import gating
from hmode.method.gating import ATTENTION_CHANNELS, GATE1_CHANNELS, INITIAL_STD
from hmode.method.network import conv_relu, scaled

# What a gating net's weights are weights of (Table IV); see `GatingNet`.
GATINGS = ("pixel", "image", "hard", "channel")

# A design's layers before its output: the channels of 3 x 3 convolutions, or of one block that
# stands in their place. The paper gives no channels: in the designs that are not its default each
# width is repeated, and a block has the channels of the last convolution that it replaces.
GATE1_DESIGNS = {
    "conv2": GATE1_CHANNELS,
    "conv4": (256,) * 3,
    "conv6": (256,) * 5,
    "resblock": (256,),
    "msblock": (256,),
}
ATTENTION_DESIGNS = {
    "conv3": ATTENTION_CHANNELS,
    "conv6": (256,) * 3 + (128,) * 2,
    "conv9": (256,) * 5 + (128,) * 3,
    "resblock": (128,),
    "msblock": (128,),
}


class GatingNet(gating.GatingNet):
    """A gating net of any design, whose weights are, by `gating`, weights of

    - "pixel": each member at each pixel (the paper).
    - "image": all pixels; the logits are averaged over the image, as it is padded.
    - "hard": one member chosen at each pixel, weight one; its gradient is the softmax's
      ("straight-through"; Bengio et al. 2013), since the choice has none.
    - "channel": each of C channels of a member's features, averaged as for "image".

    Args:
        c_in: channels of the features that it reads.
        hidden: channels of the layers before the output, at width 1.
        shape: (M, N), or (M, N, C) for "channel".
        width: scales `hidden`.
        design: as `trunk` takes it.
        gating: one of `GATINGS`.
        std: of the initial weights; None: He et al.'s.
        relu: whether the last convolution, too, is followed by a ReLU (the paper).
    """

    def __init__(
        self,
        c_in: int,
        hidden: tuple[int, ...],
        shape: tuple[int, ...],
        width: float,
        *,
        design: str = "conv",
        gating: str = "pixel",
        std: float | None = INITIAL_STD,
        relu: bool = True,
    ):
        channels = [c_in, *(scaled(c, width) for c in hidden)]
        super().__init__(trunk(design, channels), channels[-1], shape, std)
        self.gating = gating
        if not relu:
            self.layers[-1] = nn.Identity()

    def forward(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """Features `[B, c_in, ., .]` → `[B, M, N, h, w]`; `[B, M, N, C, 1, 1]` for "channel"."""
        if self.gating == "channel":
            return self.weigh(self.layers(features).float().unflatten(1, self.shape))
        return super().forward(features, grid)

    def weigh(self, logits: Tensor) -> Tensor:
        if self.gating in ("image", "channel"):
            logits = logits.mean(dim=(-2, -1), keepdim=True)
        weights = super().weigh(logits)
        return straight_through(weights) if self.gating == "hard" else weights


def straight_through(weights: Tensor) -> Tensor:
    """Weights `[B, M, N, h, w]` → one for the largest of N, else zero, with the same gradient."""
    largest = weights.argmax(dim=2, keepdim=True)
    chosen = torch.zeros_like(weights).scatter_(2, largest, 1.0)
    return chosen + (weights - weights.detach())


def trunk(design: str, channels: list[int]) -> nn.Sequential:
    """3 x 3 convolutions with ReLUs through `channels`, or the block that `design` names."""
    if design == "resblock":
        return nn.Sequential(residual_block(*channels))
    if design == "msblock":
        return nn.Sequential(MultiScaleBlock(*channels))
    return conv_relu(channels, [3] * (len(channels) - 1))


def residual_block(c_in: int, c_out: int) -> nn.Module:
    """The basic block of He et al. 2016 with a 1 x 1 convolution as its shortcut.

    Without batch norm, as the convolutions in whose place it stands have none.
    """
    # Imported where it is needed: torchvision takes as long to import as torch.
    from torchvision.models.resnet import BasicBlock

    shortcut = nn.Conv2d(c_in, c_out, 1, bias=False)
    block = BasicBlock(c_in, c_out, downsample=shortcut, norm_layer=nn.Identity)
    for conv in (block.conv1, block.conv2, shortcut):
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return block


class MultiScaleBlock(nn.Module):
    """The scale aggregation of SANet (Cao et al. 2018), without its normalisation.

    Four branches, 1 x 1, 3 x 3, 5 x 5 and 7 x 7, of a quarter of the output channels each, side by
    side; before the larger kernels a 1 x 1 convolution halves the channels. ReLU after each.
    """

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        quarter, half = c_out // 4, c_in // 2
        self.branches = nn.ModuleList([conv_relu([c_in, c_out - 3 * quarter], [1])])
        self.branches.extend(conv_relu([c_in, half, quarter], [1, k]) for k in (3, 5, 7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)
