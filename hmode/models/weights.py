"""Reading weights from files, and the encoders' from torchvision."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hmode.errors import InputError, MissingFileError


def load_vgg(layers: nn.Sequential, architecture: str, weights: str | Path, width: float) -> None:
    """Fill the first layers of a VGG's `features` from the weights of the whole network.

    Args:
        layers: numbered as torchvision's `features`; those behind the last are left out.
        architecture: torchvision's name of the whole network, for example "vgg16_bn".
        weights: "imagenet" (torchvision's, downloaded) or the path of a state dict.
        width: of the layers.

    Raises:
        InputError: the width is not 1.0, or the weights are of another network or could not be
            downloaded.
        MissingFileError: there is no such file.
    """
    # Imported where it is needed: torchvision takes as long to import as torch.
    from torchvision.models import get_model

    if width != 1.0:
        raise InputError(f"weights={str(weights)!r} needs width=1.0, found width={width}")
    state = _imagenet(architecture) if weights == "imagenet" else read_state_dict(weights)
    found = {
        key.removeprefix("features."): value
        for key, value in state.items()
        if key.startswith("features.")
    }
    with torch.device("meta"):
        whole = get_model(architecture).features
    try:
        whole.load_state_dict(found, assign=True)
    except RuntimeError as error:
        raise InputError(f"{weights}: not the weights of a {architecture}: {error}") from None
    layers.load_state_dict(whole[: len(layers)].state_dict())


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
