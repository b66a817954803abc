"""What a training needs to go on: tensors by name, and a few plain values beside them.

A file of tensors cannot hold code, unlike pickled states. Learning rates and random numbers are
functions of seed and epoch, so they are not kept.
"""

import torch
from torch import Tensor

from hmode.errors import InputError
from hmode.step import TrainingStep


def state(step: TrainingStep) -> tuple[dict[str, Tensor], dict]:
    """A step's tensors (network, running average, Adam's moments) and plain values (fp16's loss
    scaling)."""
    tensors = {f"network.{name}": value for name, value in step.network.state_dict().items()}
    if step.average is not None:
        tensors |= {f"average.{name}": value for name, value in step.average.state_dict().items()}
    for name, parameter in step.network.named_parameters():
        for kind, value in step.optimiser.state.get(parameter, {}).items():
            tensors[f"adam.{name}.{kind}"] = value
    scaler = step.accelerator.scaler
    return tensors, {} if scaler is None else {"scaler": scaler.state_dict()}


def restore(step: TrainingStep, tensors: dict[str, Tensor], values: dict) -> None:
    """Put what `state` gave into a step that has not begun, on whatever device.

    Raises:
        InputError: it is of another network or of other settings.
    """
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "adam": {}}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    moments: dict[str, dict[str, Tensor]] = {}
    for key, value in parts["adam"].items():
        name, _, kind = key.rpartition(".")
        moments.setdefault(name, {})[kind] = value
    try:
        step.network.load_state_dict(parts["network"])
        if step.average is not None:
            step.average.load_state_dict(parts["average"])
        parameters = dict(step.network.named_parameters())
        for name, kinds in moments.items():
            parameter = parameters[name]
            step.optimiser.state[parameter] = {
                kind: _beside(parameter, value) for kind, value in kinds.items()
            }
        if step.accelerator.scaler is not None:
            step.accelerator.scaler.load_state_dict(values["scaler"])
    except (RuntimeError, KeyError) as error:
        raise InputError(f"not a checkpoint of this training: {str(error)[:200]}") from None


def _beside(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment on its parameter's device and in its layout, which Adam takes for granted."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(value)
