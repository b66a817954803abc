"""Plain VGG encoders, without batch norm, for CSRNet and DM-Count."""

from pathlib import Path

import torch.nn as nn
from torchvision.models import get_model_weights

from hmode.errors import InputError
from hmode.models.backbone import conv_relu, read_state_dict, scaled

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


def load_vgg(encoder: nn.Sequential, architecture: str, weights: str | Path, width: float) -> None:
    """Fill a `plain_vgg` from a torchvision VGG's weights; layers behind its last are left out.

    Args:
        encoder: of width 1.0.
        architecture: torchvision's name of the whole network, "vgg16" or "vgg19".
        weights: "imagenet" (torchvision's, downloaded) or the path of a state dict.
        width: of the encoder.

    Raises:
        InputError: the width is not 1.0, or the weights are not of this architecture or cannot be
            downloaded.
        MissingFileError: there is no such file.
    """
    if width != 1.0:
        raise InputError(f"weights={str(weights)!r} needs width=1.0, found width={width}")
    if weights == "imagenet":
        try:
            state = get_model_weights(architecture).IMAGENET1K_V1.get_state_dict(progress=False)
        except OSError as error:
            raise InputError(
                f"weights='imagenet': torchvision could not download them ({error}); give the "
                f"path of a {architecture} state dict, or weights=None to train from scratch"
            ) from None
    else:
        state = read_state_dict(weights)
    wanted = encoder.state_dict().keys()
    found = {key.removeprefix("features."): value for key, value in state.items()}
    try:
        encoder.load_state_dict({key: found[key] for key in wanted if key in found})
    except RuntimeError as error:
        raise InputError(f"{weights}: not the weights of a {architecture}: {error}") from None
