"""Plain VGG encoders, without batch norm, for CSRNet and DM-Count."""

from torch import nn

from hmode.models.backbone import conv_relu, scaled

# Output channels of the convolutions between max-poolings, up to the stage that a network uses.
VGG16_TO_STRIDE_8 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))
VGG19_TO_STRIDE_16 = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)


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
