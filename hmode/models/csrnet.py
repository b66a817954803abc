"""CSRNet (Li et al., "CSRNet: Dilated convolutional neural networks for understanding the highly
congested scenes", CVPR 2018), the first of the two pipelines that REL is put on in Table X."""

from itertools import pairwise

from torch import Tensor, nn

from hmode.models.backbone import scaled
from hmode.models.counter import CountingNetwork
from hmode.models.vgg import VGG16_TO_STRIDE_8, plain_vgg
from hmode.models.weights import load_vgg

BACK_END = (512, 512, 512, 256, 128, 64)


class CSRNet(CountingNetwork):
    """VGG-16 up to conv4_3, six 3 x 3 convolutions of dilation 2, one 1 x 1 convolution.

    `model(images)` returns a `Prediction` with `density` at stride 8 and no experts. There is no
    ReLU behind the last convolution: a map may hold negative values.

    The published weights start from N(0, 0.01) behind an ImageNet encoder; so do ours with
    `weights`. From scratch that dies out over so many layers, and all convolutions but the last
    start as He et al. (2015) instead.

    Args:
        width: scales every channel count; 1.0 is the published network, 16.26 M parameters.
        weights: None (from scratch), "imagenet" (torchvision's, downloaded) or the path of a
            vgg16 state dict, for the encoder; width 1.0 only.
        density_scale: what map values are multiplied by; people per pixel are small numbers.

    Raises:
        InputError: a setting is out of its range, or the weights do not fit.
    """

    multiple = 8

    def __init__(self, width=1.0, weights=None, *, density_scale=100.0):
        super().__init__(width=width, weights=weights, density_scale=density_scale, stride=8)
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
