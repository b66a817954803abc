"""Loading a checkpoint of the authors' released code into `HMoDE`.

The released network is ours at K = 3, N = 2, depth 2, width 1, with other names:
github.com/ZPDu/Redesigning-Multi-Scale-Neural-Network-for-Crowd-Counting.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hmode.errors import InputError
from hmode.models.mixture import HMoDE
from hmode.models.weights import read_state_dict

# Ours is a Sequential of conv, ReLU, conv, ReLU, …: convolution i has index 2i.
RENAMES = (
    (r"features(\d)\.(\d+)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.{m[2]}."),
    (r"de_pred(\d)\.(\d)\.conv\.", lambda m: f"decoder.blocks.{3 - int(m[1])}.{2 * int(m[2])}."),
    (r"head(\d)\.(\d)\.conv\.", lambda m: f"heads.{int(m[1]) - 1}.{2 * int(m[2])}."),
    (r"gating1\.conv(\d)\.conv\.", lambda m: f"inner_gates.0.layers.{2 * (int(m[1]) - 1)}."),
    (r"gating2\.conv(\d)\.conv\.", lambda m: f"gate2.layers.{2 * (int(m[1]) - 1)}."),
    (r"mask\.conv(\d)\.conv\.", lambda m: f"attention.layers.{2 * (int(m[1]) - 1)}."),
    (r"mask\.output\.conv\.", lambda m: "attention.output."),
)


def load_official(model: HMoDE, checkpoint: str | Path | Mapping[str, Tensor]) -> HMoDE:
    """Load a checkpoint of the released HMoDE code; returns `model`, changed in place.

    Args:
        model: `HMoDE()` of the default shape.
        checkpoint: a file or a state dict; bare or under a "model" key, names with or without
            "module." in front. Files are read without running pickled code.

    Raises:
        MissingFileError: there is no such file.
        InputError: a name is missing or unknown, a tensor has another shape, or `model` is a
            variant of equal shape.
    """
    for name, default in (("gating", "pixel"), ("gate1_input", "EB3")):
        if model.config.get(name, default) != default:
            raise InputError(f"model has {name}={model.config[name]!r}, expected {default!r}")
    if isinstance(checkpoint, Mapping):
        source = "state dict"
        state = checkpoint["model"] if isinstance(checkpoint.get("model"), Mapping) else checkpoint
        state = {name.removeprefix("module."): value for name, value in state.items()}
    else:
        source, state = str(checkpoint), read_state_dict(checkpoint)

    ours = model.state_dict()
    renamed, unknown = {}, []
    for name, value in state.items():
        new = _our_name(name)
        if new not in ours:
            unknown.append(name)
        elif ours[new].shape != value.shape:
            raise InputError(
                f"{source}: {name} has shape {list(value.shape)}, expected {list(ours[new].shape)}"
            )
        else:
            renamed[new] = value
    missing = sorted(ours.keys() - renamed.keys())
    if unknown or missing:
        raise InputError(
            f"{source}: not a checkpoint of the released HMoDE: "
            f"unknown names {unknown[:5]}, nothing for {missing[:5]}"
        )
    model.load_state_dict(renamed)
    return model


def _our_name(name: str) -> str | None:
    for pattern, rename in RENAMES:
        match = re.match(pattern, name)
        if match:
            return rename(match) + name[match.end() :]
    return None
