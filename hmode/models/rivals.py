"""The networks of the two pipelines that REL is put on in Table X.

CSRNet: Li et al., "CSRNet: Dilated convolutional neural networks for understanding the highly
congested scenes", CVPR 2018. DM-Count: Wang et al., "Distribution matching for crowd counting",
NeurIPS 2020; its loss is in `hmode.losses.matching`. Both have one map at stride 8, and encoders
without batch norm.
"""

from itertools import pairwise

from torch import Tensor, nn

from hmode.method.network import conv_relu, resize, scaled, start_alive
from hmode.models.network import CountingNetwork
from hmode.models.weights import label, load_vgg

# Output channels of the convolutions between max-poolings, up to the stage that a network uses.
VGG16_TO_STRIDE_8 = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3)
VGG19_TO_STRIDE_16 = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)
BACK_END = (512, 512, 512, 256, 128, 64)
REGRESSION = (256, 128)


def plain_vgg(stages: tuple[tuple[int, ...], ...], width: float) -> nn.Sequential:
    """3 x 3 convolutions with ReLUs, max-pooling between stages: images → features.

    Layers are numbered as in torchvision's `vgg16().features` and `vgg19().features`.
    """
    layers: list[nn.Module] = []
    c_in = 3
    for stage in stages:
        channels = [c_in, *(scaled(c, width) for c in stage)]
        layers += [*conv_relu(channels, [3] * len(stage)), nn.MaxPool2d(2)]
        c_in = channels[-1]
    return nn.Sequential(*layers[:-1])


class CSRNet(CountingNetwork):
    """VGG-16 up to conv4_3, six 3 x 3 convolutions of dilation 2, one 1 x 1 convolution.

    `model(images)` returns a `Prediction` with `density` at stride 8 and no experts. There is no
    ReLU behind the last convolution: a map may hold negative values.

    The published weights start from N(0, 0.01) behind an ImageNet encoder; so do ours with
    `weights`. From scratch that dies out over so many layers, and all convolutions but the last
    start as He et al. (2015) instead.

    Args:
        width: scales every channel count; 1.0 is the published network, 16.26 M parameters.
        weights: of the encoder: None (from scratch), "imagenet" (torchvision's, downloaded) or the
            path of a vgg16 state dict; width 1.0 only.
        density_scale: what map values are multiplied by; people per pixel are small numbers.

    Raises:
        InputError: a setting is out of its range, or the weights do not fit.
    """

    multiple = 8

    def __init__(self, width=1.0, weights=None, *, density_scale=100.0):
        super().__init__(width=width, density_scale=density_scale, stride=8)
        self.initial_weights = label(weights)
        self.encoder = plain_vgg(VGG16_TO_STRIDE_8, width)
        channels = [scaled(c, width) for c in (VGG16_TO_STRIDE_8[-1][-1], *BACK_END)]
        self.back_end = nn.Sequential()
        for c_in, c_out in pairwise(channels):
            conv = nn.Conv2d(c_in, c_out, 3, padding=2, dilation=2)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            self.back_end.extend([conv, nn.ReLU(inplace=True)])
        self.head = nn.Conv2d(channels[-1], 1, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        for module in (*self.back_end, self.head):
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.bias)
                if weights is not None:
                    nn.init.normal_(module.weight, std=0.01)
        if weights is not None:
            load_vgg(self.encoder, "vgg16", weights, width)

    def predict_maps(self, images: Tensor) -> dict:
        density = self.head(self.back_end(self.encoder(images))).float()
        return {"experts": density[:, :0], "density": density}


class DMCount(CountingNetwork):
    """VGG-19 up to conv5_4, upsampled twice, two 3 x 3 convolutions, one 1 x 1, each with a ReLU.

    `model(images)` returns a `Prediction` with `density` at stride 8 and no experts. The published
    network also returns the map divided by its sum; here the loss does that.

    Behind the encoder weights start as He et al. (2015), where the published ones start smaller
    (torch's default), and the last convolution like this package's density heads: its ReLU is
    alive, near 1e-3 people per pixel.

    Args:
        width: scales every channel count; 1.0 is the published network, 21.5 M parameters.
        weights, density_scale: as those of `CSRNet`, the weights of vgg19.

    Raises:
        InputError: a setting is out of its range, or the weights do not fit.
    """

    def __init__(self, width=1.0, weights=None, *, density_scale=100.0):
        super().__init__(width=width, density_scale=density_scale, stride=8)
        self.initial_weights = label(weights)
        self.encoder = plain_vgg(VGG19_TO_STRIDE_16, width)
        channels = [scaled(c, width) for c in (VGG19_TO_STRIDE_16[-1][-1], *REGRESSION)]
        self.regression = conv_relu(channels, [3, 3])
        self.head = start_alive(conv_relu([channels[-1], 1], [1]), self.scale)
        if weights is not None:
            load_vgg(self.encoder, "vgg19", weights, width)

    def predict_maps(self, images: Tensor) -> dict:
        features = self.encoder(images)  # [B, C, H/16, W/16]
        grid = (images.shape[-2] // self.stride, images.shape[-1] // self.stride)
        density = self.head(self.regression(resize(features, grid))).float()
        return {"experts": density[:, :0], "density": density}
