"""The expert importance loss L_Eim (eq. 6)."""

import torch
from torch import Tensor

from hmode.errors import InputError

FORMS = ("paper", "official")


def importance_loss(gate: Tensor, *, form: str = "paper") -> Tensor:
    """Squared coefficient of variation of the experts' importance, summed over groups (eq. 6).

    An expert's importance is the sum of its weights over the pixels of an image.

    Args:
        gate: `[B, M, N, h, w]`, weights that sum to one over N.
        form: "paper" (per image, population variance, averaged over the batch) or "official" (the
            released code: weights summed over the batch first, unbiased variance, which for N = 2
            is twice the population's).

    Returns:
        A scalar, zero when all members of every group weigh the same.

    Raises:
        InputError: the form is unknown.
    """
    if form not in FORMS:
        raise InputError(f"form is {form!r}, expected one of {FORMS}")
    importance = gate.sum(dim=(-2, -1))  # [B, M, N]
    if form == "official":
        importance = importance.sum(dim=0, keepdim=True)
    variance, mean = torch.var_mean(importance, dim=-1, correction=int(form == "official"))
    return (variance / mean**2).sum(dim=-1).mean()
