"""The network of DM-Count (Wang et al., "Distribution matching for crowd counting", NeurIPS 2020),
the second of the two pipelines that REL is put on in Table X. Its loss: `hmode.losses.matching`."""

from torch import Tensor

from hmode.models.backbone import conv_relu, resize, scaled, start_alive
from hmode.models.counter import CountingNetwork
from hmode.models.vgg import VGG19_TO_STRIDE_16, plain_vgg
from hmode.models.weights import load_vgg

REGRESSION = (256, 128)


class DMCount(CountingNetwork):
    """VGG-19 up to conv5_4, upsampled twice, two 3 x 3 convolutions, one 1 x 1, each with a ReLU.

    `model(images)` returns a `Prediction` with `density` at stride 8 and no experts. The published
    network also returns the map divided by its sum; here the loss does that.

    Behind the encoder weights start as He et al. (2015), where the published ones start smaller
    (torch's default), and the last convolution like this package's density heads: its ReLU is
    alive, near 1e-3 people per pixel.

    Args:
        width: scales every channel count; 1.0 is the published network, 21.5 M parameters.
        weights: None (from scratch), "imagenet" (torchvision's, downloaded) or the path of a
            vgg19 state dict, for the encoder; width 1.0 only.
        density_scale: what map values are multiplied by; people per pixel are small numbers.

    Raises:
        InputError: a setting is out of its range, or the weights do not fit.
    """

    multiple = 16

    def __init__(self, width=1.0, weights=None, *, density_scale=100.0):
        super().__init__(width=width, weights=weights, density_scale=density_scale, stride=8)
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
