"""How strongly each term of the loss pulls at the network."""

from copy import deepcopy

import torch
from torch import Tensor

from hmode.errors import InputError
from hmode.losses import LossSettings, total_loss
from hmode.losses.settings import loss_settings
from hmode.models import CountingNetwork


def gradient_norms(
    model: CountingNetwork,
    images: Tensor,
    target: Tensor,
    settings: LossSettings | str = "paper",
    within: str = "",
) -> dict[str, float]:
    """Length of each term's gradient, times its weight, with respect to the network's weights.

    The network is looked at in training mode and left as it was.

    Args:
        images: float32 `[B, 3, H, W]`, normalised.
        target: density map `[B, 1, H, W]` in people per pixel.
        settings: `LossSettings` or their name; terms that need points or random regions cannot be
            looked at.
        within: how the names of the weights begin that are looked at: "" all, "inner_gates" those
            of gating net 1.

    Returns:
        For each term that takes part, and "total", the Euclidean norm over these weights. Terms may
        pull against each other, so that the norms need not add up.

    Raises:
        InputError: as `total_loss`, or no trained weight's name begins so.
    """
    settings = loss_settings(settings)
    copy = deepcopy(model).train()  # batch norms' statistics move with every pass
    named = [(name, each) for name, each in copy.named_parameters() if each.requires_grad]
    parameters = [each for name, each in named if name.startswith(within)]
    if not parameters:
        raise InputError(f"within is {within!r}, expected the beginning of a trained weight's name")
    losses = total_loss(copy(images), target, settings)
    norms = {}
    for name, loss in losses.items():
        weight = getattr(settings, f"{name}_weight", 1.0)
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        squares = sum(float(each.double().square().sum()) for each in found if each is not None)
        norms[name] = weight * squares**0.5
    return norms
