"""Reading weights from files, and the encoders' from torchvision."""

import hashlib
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hmode.errors import InputError, MissingFileError

# What `weights` may be beside a file, and torchvision's name of the network for an encoder with
# batch norm; "imagenet-plain" are the weights of the network without.
DOWNLOADS = ("imagenet", "imagenet-plain")


def load_vgg(layers: nn.Sequential, architecture: str, weights: str | Path, width: float) -> bool:
    """Fill the first layers of a VGG's `features` from the weights of the whole network.

    Args:
        layers: numbered as torchvision's `features`; those behind the last are left out.
        architecture: torchvision's name of the whole network, for example "vgg16_bn".
        weights: "imagenet" (torchvision's, downloaded), "imagenet-plain" (those of the network
            without batch norm) or the path of a state dict of either; 16-bit numbers are widened.
        width: of the layers.

    Returns:
        Whether the weights are of the network without batch norm and the layers have some, which
        then need `measure_norms`.

    Raises:
        InputError: the width is not 1.0, or the weights are of another network, damaged, not
            finite, or could not be downloaded.
        MissingFileError: there is no such file.
    """
    # Imported where it is needed: torchvision takes as long to import as torch.
    from torchvision.models import get_model

    if width != 1.0:
        raise InputError(f"weights={str(weights)!r} needs width=1.0, found width={width}")
    plain = architecture.removesuffix("_bn")
    if weights in DOWNLOADS:
        state = _imagenet(architecture if weights == "imagenet" else plain)
    else:
        state = read_state_dict(weights)
    found = {
        key.removeprefix("features."): value.float() if value.is_floating_point() else value
        for key, value in state.items()
        if key.startswith("features.")
    }
    with_norms = any(key.endswith("running_mean") for key in found)
    norms = architecture != plain and "28.weight" in found and not with_norms
    architecture = plain if norms else architecture
    with torch.device("meta"):
        whole = get_model(architecture).features
    require_fit(found, whole.state_dict(), f"{weights}: not the weights of a {architecture}")
    if norms:
        _load_convolutions(layers, found)
    else:
        whole.load_state_dict(found, assign=True)
        layers.load_state_dict(whole[: len(layers)].state_dict())
    return norms


def _load_convolutions(layers: nn.Sequential, found: dict[str, Tensor]) -> None:
    """A plain network's convolutions, in their order, into a network with batch norms."""
    names = sorted({key.rpartition(".")[0] for key in found}, key=int)
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    for conv, name in zip(convolutions, names, strict=False):
        conv.load_state_dict({part: found[f"{name}.{part}"] for part in ("weight", "bias")})


@torch.no_grad()
def measure_norms(layers: nn.Sequential, images: Tensor) -> None:
    """Give batch norms that were never trained the statistics of images, in place.

    Features of a network without batch norm can be hundreds large; behind them new layers do not
    learn. Here each batch norm gets the channels' means and variances over the images as its
    statistics, and weights and biases that divide its input by one number, r: the root of the mean
    square of what the following ReLU lets through. Biases of the later convolutions are divided
    by all r so far. In evaluation mode the features then are those of the network without batch
    norms up to one constant for each layer (ReLU and pooling do not mind), and as large as those
    of a network from scratch.

    Args:
        layers: convolutions, each with a batch norm behind it, ReLUs and poolings.
        images: normalised, `[B, 3, h, w]`, some dozens of training crops.
    """
    x, divided = images, 1.0
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.bias /= divided
        if isinstance(layer, nn.BatchNorm2d):
            variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
            size = x.relu().square().mean().sqrt()
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(variance)
            layer.weight.copy_((variance + layer.eps).sqrt() / size)
            layer.bias.copy_(mean / size)
            x, divided = x / size, divided * size
        else:
            x = layer(x)


def require_fit(found: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    """Refuse tensors that are not those expected, by name and shape, or hold NaN or infinity.

    Raises:
        InputError: begins with `what`, and names the first such tensor, what it is and what was
            expected.
    """
    for name, wanted in expected.items():
        shape = list(wanted.shape)
        if name not in found:
            missing = len(expected.keys() - found.keys())
            raise InputError(
                f"{what}: {name} is missing, expected {shape} ({missing} of {len(expected)} "
                "tensors are missing)"
            )
        value = found[name]
        if list(value.shape) != shape:
            raise InputError(f"{what}: {name} is {list(value.shape)}, expected {shape}")
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{what}: {name} holds values that are not finite")
    for name in sorted(found.keys() - expected.keys()):
        raise InputError(f"{what}: {name} is there, and no such tensor is expected")


def label(weights: str | Path | None) -> str | None:
    """What a run's configuration calls its initial weights: of a file its content, not its path."""
    if weights is None or weights in DOWNLOADS or not Path(weights).is_file():
        return None if weights is None else str(weights)
    with open(weights, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def _imagenet(architecture: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    try:
        return get_model_weights(architecture).IMAGENET1K_V1.get_state_dict(progress=False)
    except OSError as error:
        raise InputError(
            f"weights='imagenet': torchvision could not download them ({error}); give the "
            f"path of a {architecture} state dict, or weights=None to train from scratch"
        ) from None


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or a torch.save file, without running pickled code.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is not a file of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such weights file")
    try:
        with path.open("rb"):  # of a file that may not be read, safetensors says it is not there
            pass
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise InputError(
            f"{path}: not a readable weights file: it holds more than tensors, or damaged ones "
            "(pickled code is not run)"
        ) from None
    except Exception as error:
        raise InputError(f"{path}: not a readable weights file: {error}") from None
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise InputError(f"{path}: expected a state dict (names to tensors), bare or under 'model'")
    return {key.removeprefix("module."): value for key, value in state.items()}
