"""The encoder-decoder with one density head per scale (section IV-B of the paper).

The encoder is the first 13 convolutions of VGG-16 with batch norm, cut into five stages at
strides 1, 2, 4, 8, 16. Decoder block k = 1 works at stride 16; each later block takes the block
before it, upsampled twice, concatenated with the encoder stage of its own stride. Every block
ends in a density head: the density experts, coarsest first inside the decoder, E_1 = finest
outside of it.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmode.errors import InputError
from hmode.models.counter import CountingNetwork
from hmode.models.weights import load_vgg, measure_norms

# Where torchvision's `vgg16_bn().features` is cut: each stage ends before the next max-pooling.
STAGE_ENDS = (6, 13, 23, 33, 43)
STAGE_CHANNELS = (64, 128, 256, 512, 512)
# (hidden, out) channels of the decoder blocks at strides 16, 8, 4, 2, 1.
BLOCK_CHANNELS = ((1024, 512), (512, 256), (256, 128), (128, 64), (64, 32))
HEAD_CHANNELS = 64
ENCODER_STRIDE = 16
# What a new network predicts everywhere, people per pixel: 16 in a crop of 128 x 128. A head ends
# in a ReLU, and one that starts below zero everywhere has no gradient to leave it with.
INITIAL_DENSITY = 1e-3


def scaled(channels: int, width: float) -> int:
    """A channel count of the paper at a relative network width, at least 4."""
    return max(4, round(channels * width))


def conv_relu(channels: list[int], kernels: list[int]) -> nn.Sequential:
    """Convolutions of "same" size, each followed by a ReLU (He et al. 2015 initialisation)."""
    layers: list[nn.Module] = []
    for c_in, c_out, kernel in zip(channels, channels[1:], kernels, strict=False):
        conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """VGG-16-BN up to conv5_3: images `[B, 3, H, W]` → five feature maps at strides 1 … 16.

    `unmeasured` says that its weights came from a VGG-16 without batch norms, whose own are still
    to be measured (`measure`).
    """

    def __init__(self, width: float, weights: str | Path | None):
        super().__init__()
        layers: list[nn.Module] = []
        c_in = 3
        for stage, c_out in enumerate(STAGE_CHANNELS):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for _ in range(2 if stage < 2 else 3):
                layers += _conv_bn_relu(c_in, scaled(c_out, width))
                c_in = scaled(c_out, width)
        starts = (0, *STAGE_ENDS)
        self.stages = nn.ModuleList(
            nn.Sequential(*layers[a:b]) for a, b in zip(starts, STAGE_ENDS, strict=False)
        )
        self.channels = [scaled(c, width) for c in STAGE_CHANNELS]
        self.unmeasured = weights is not None and load_vgg(self.flat, "vgg16_bn", weights, width)

    @property
    def flat(self) -> nn.Sequential:
        """All layers in one row, numbered as in torchvision's `vgg16_bn().features`."""
        return nn.Sequential(*(layer for stage in self.stages for layer in stage))

    def measure(self, images: Tensor) -> None:
        """Give the batch norms the statistics of normalised images, see `measure_norms`."""
        measure_norms(self.flat, images)
        self.unmeasured = False

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs = []
        x = images
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


def _conv_bn_relu(c_in: int, c_out: int) -> list[nn.Module]:
    conv = nn.Conv2d(c_in, c_out, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)
    return [conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]


class Decoder(nn.Module):
    """K blocks from stride 16 up, with skip connections; returns each block's features."""

    def __init__(self, experts: int, encoder: Encoder, width: float):
        super().__init__()
        self.blocks = nn.ModuleList()
        self.channels: list[int] = []
        for k, (hidden, out) in enumerate(BLOCK_CHANNELS[:experts]):
            c_in = encoder.channels[-1 - k] + (self.channels[-1] if k else 0)
            channels = [c_in, scaled(hidden, width), scaled(out, width)]
            self.blocks.append(conv_relu(channels, [3, 3]))
            self.channels.append(channels[-1])

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        x = self.blocks[0](stages[-1])
        outputs = [x]
        for block, skip in zip(self.blocks[1:], stages[-2::-1], strict=False):
            x = block(torch.cat([skip, resize(x, skip.shape[-2:])], dim=1))
            outputs.append(x)
        return outputs


class EncoderDecoder(CountingNetwork):
    """The features that every network of the paper's own starts from, without density heads.

    Args:
        experts: K, 2 to 5. The finest block has stride 16 / 2^(K-1): 4 for K = 3; K = 4 adds a
            block at stride 2 with a skip from conv2_2.
        width: scales every channel count; 1.0 is the paper's network.
        weights: None (from scratch), "imagenet" (torchvision's, downloaded) or the path of a
            vgg16_bn state dict, for the encoder at width 1.0 only; or "imagenet-plain" or the path
            of a state dict of vgg16, without batch norms, after which `encoder.measure` is due.
        density_scale: what map values are multiplied by; people per pixel are small numbers.
        encoder_width: scales the encoder's channels instead of `width`: a small network can keep
            the encoder that ImageNet taught.

    Raises:
        InputError: a setting is out of its range, or the weights do not fit.
    """

    def __init__(
        self, *, experts: int, width: float, weights, density_scale: float, encoder_width=None
    ):
        if experts not in range(2, len(BLOCK_CHANNELS) + 1):
            raise InputError(f"experts is {experts!r}, expected 2 to {len(BLOCK_CHANNELS)}")
        stride = ENCODER_STRIDE // 2 ** (experts - 1)
        super().__init__(width=width, weights=weights, density_scale=density_scale, stride=stride)
        self.config["experts"] = experts
        if encoder_width is not None:
            self.config["encoder_width"] = encoder_width
            if not encoder_width > 0:
                raise InputError(f"encoder_width is {encoder_width!r}, expected a positive number")
        self.encoder = Encoder(width if encoder_width is None else encoder_width, weights)
        self.decoder = Decoder(experts, self.encoder, width)

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Images → the encoder's five stages, and the decoder's K blocks, coarsest first."""
        stages = self.encoder(images)
        return stages, self.decoder(stages)


class MultiScaleNetwork(EncoderDecoder):
    """Encoder, decoder and K density experts: what the baseline and HMoDE have in common.

    Arguments and errors as those of `EncoderDecoder`.
    """

    def __init__(self, *, width: float, **settings):
        super().__init__(width=width, **settings)
        self.heads = nn.ModuleList(  # E_1, the finest, first
            density_head(channels, width, self.scale) for channels in self.decoder.channels[::-1]
        )

    def expert_maps(self, blocks: list[Tensor]) -> Tensor:
        """The decoder's blocks, coarsest first → the experts `[B, K, h, w]` on the finest grid."""
        maps = [head(x).float() for head, x in zip(self.heads, blocks[::-1], strict=True)]
        grid = maps[0].shape[-2:]
        return torch.cat([to_grid(expert, grid) for expert in maps], dim=1)


def density_head(channels: int, width: float, scale: float) -> nn.Sequential:
    """Two 1 x 1 convolutions with ReLUs that start alive, at `INITIAL_DENSITY`."""
    return start_alive(conv_relu([channels, scaled(HEAD_CHANNELS, width), 1], [1, 1]), scale)


def start_alive(head: nn.Sequential, scale: float) -> nn.Sequential:
    """A head that ends in a convolution and a ReLU, made to begin near `INITIAL_DENSITY`."""
    last = head[-2]
    # Many inputs add up: beyond a head's usual number of them each gets less.
    fan_in = last.weight[0].numel()
    std = 1e-4 * min(1.0, (HEAD_CHANNELS / fan_in) ** 0.5)
    nn.init.normal_(last.weight, std=std * scale)
    nn.init.constant_(last.bias, INITIAL_DENSITY * scale)
    return head


def resize(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features `[B, C, ., .]` brought to `grid`, bilinear."""
    return F.interpolate(features, size=grid, mode="bilinear", align_corners=True)


def to_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps `[B, C, ., .]` brought to `grid` by the nearest neighbour, values unchanged."""
    return maps if maps.shape[-2:] == grid else F.interpolate(maps, size=grid, mode="nearest")
