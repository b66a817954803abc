"""The encoder-decoder with one density head per scale (section IV-B of the paper).

The encoder is the first 13 convolutions of VGG-16 with batch norm, cut into five stages at
strides 1, 2, 4, 8, 16. The first decoder block works at stride 16; each later one takes the block
before it, enlarged to twice its sides, concatenated with the encoder stage of its own stride. Every
block ends in a density head, an expert: coarsest first inside the decoder; outside E_1 is finest.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmode.errors import InputError
from hmode.method.prediction import Prediction

MIN_SIDE = 32  # pixels: two cells of the coarsest stage
# The encoder's stages: channels and number of convolutions; a max-pooling stands between two.
STAGE_CHANNELS = (64, 128, 256, 512, 512)
STAGE_LAYERS = (2, 2, 3, 3, 3)
# (hidden, out) channels of the decoder blocks at strides 16, 8, 4, 2, 1.
BLOCK_CHANNELS = ((1024, 512), (512, 256), (256, 128), (128, 64), (64, 32))
HEAD_CHANNELS = 64
ENCODER_STRIDE = 16
# What a new network predicts everywhere, people per pixel: 16 in a crop of 128 x 128. A head ends
# in a ReLU, and one that starts below zero everywhere has no gradient to leave it with.
INITIAL_DENSITY = 1e-3


class CountingNetwork(nn.Module):
    """What every counting network has in common: padded images in, a `Prediction` out.

    Subclasses say on which grid (`stride`, and `multiple`, what image sides are padded to) and
    define `predict_maps`.

    Attributes:
        config: arguments of `hmode.models.build_model` that make this network again.
        stride: pixels per cell side of the maps.
        scale: what map values are multiplied by.

    Raises:
        InputError: width or density_scale is not positive.
    """

    multiple = 16

    def __init__(self, *, width: float, density_scale: float, stride: int):
        super().__init__()
        for name, value in (("width", width), ("density_scale", density_scale)):
            if not value > 0:
                raise InputError(f"{name} is {value!r}, expected a positive number")
        self.config = {
            "model": type(self).__name__,
            "width": width,
            "density_scale": density_scale,
        }
        self.scale = float(density_scale)
        self.stride = stride

    def forward(self, images: Tensor) -> Prediction:
        """Normalised images `[B, 3, H, W]`, sides ≥ 32 → `Prediction`.

        Sides that are not multiples of `multiple` are padded with zeros (the mean colour) at the
        bottom and right, and the maps are cropped back.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[-2:]) < MIN_SIDE:
            raise InputError(
                f"images have shape {list(images.shape)}, expected [B, 3, H, W] with "
                f"sides of at least {MIN_SIDE} pixels"
            )
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple))
        # Not -(-height // stride): ONNX, to which this is exported, divides towards zero.
        rows, columns = ((side + self.stride - 1) // self.stride for side in (height, width))

        def cropped(value):
            if isinstance(value, tuple):
                return tuple(map(cropped, value))
            return value[..., :rows, :columns] if isinstance(value, Tensor) else value

        maps = {name: cropped(value) for name, value in self.predict_maps(images).items()}
        return Prediction(size=(height, width), stride=self.stride, scale=self.scale, **maps)

    def predict_maps(self, images: Tensor) -> dict[str, Tensor | tuple | None]:
        """The maps of a `Prediction` for images whose sides are multiples of `multiple`."""
        raise NotImplementedError(f"{type(self).__name__} defines no maps")


class Encoder(nn.Module):
    """VGG-16-BN up to conv5_3: images `[B, 3, H, W]` → five feature maps at strides 1 … 16."""

    def __init__(self, width: float):
        super().__init__()
        self.stages = nn.ModuleList()
        self.channels = [scaled(c, width) for c in STAGE_CHANNELS]
        c_in = 3
        for c, convolutions in zip(self.channels, STAGE_LAYERS, strict=True):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if self.stages else []
            for _ in range(convolutions):
                conv, relu = conv_relu([c_in, c], [3])
                layers += [conv, nn.BatchNorm2d(c), relu]
                c_in = c
            self.stages.append(nn.Sequential(*layers))

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs = []
        x = images
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


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
        weights: None (from scratch), or where the encoder's initial weights come from, see
            `make_encoder`.
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
        super().__init__(width=width, density_scale=density_scale, stride=stride)
        self.config["experts"] = experts
        if encoder_width is not None:
            self.config["encoder_width"] = encoder_width
            if not encoder_width > 0:
                raise InputError(f"encoder_width is {encoder_width!r}, expected a positive number")
        self.encoder = self.make_encoder(width if encoder_width is None else encoder_width, weights)
        self.decoder = Decoder(experts, self.encoder, width)

    def make_encoder(self, width: float, weights) -> Encoder:
        """The encoder with its initial weights. What reads ImageNet's is in `hmode.models`."""
        if weights is not None:
            raise InputError(f"weights is {weights!r}, which only hmode.models' networks read")
        return Encoder(width)

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
