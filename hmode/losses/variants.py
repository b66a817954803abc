"""The paper's losses in the forms of Table IX and of the authors' released code."""

import torch
from torch import Generator, Tensor

from hmode.errors import InputError
from hmode.method import losses

MINING = ("hard", "random")
FORMS = ("paper", "official")


def relative_count_loss(
    pred: Tensor,
    target: Tensor,
    *,
    cells: int = 8,
    regions: int = 9,
    sublists: int = 3,
    mining: str = "hard",
    form: str = "paper",
    generator: Generator | None = None,
    **more,
) -> Tensor:
    """REL, L_Rel (eq. 2): a hinge on the order of the counts of hard-predicted regions.

    Args:
        pred, target, cells, regions, sublists: see `hmode.method.losses.relative_count_loss`, as
            for scale, judged and output_weights (`more`).
        mining: "hard" (largest error) or "random" (Table IX, RR).
        form: "paper" (eq. 2: next neighbours of a sub-list) or "official" (the released code: all
            pairs of a sub-list, (1,2), (2,3) and (1,3) for S = 9).
        generator: draws the random regions, on pred's device; needed for mining="random".

    Raises:
        InputError: a setting is out of its range or the grids do not fit.
    """
    losses.check_regions(cells, regions, sublists)
    if mining not in MINING:
        raise InputError(f"mining is {mining!r}, expected one of {MINING}")
    _check_form(form)
    if mining == "random":
        if generator is None:
            raise InputError("mining='random' needs a generator")
        shape = (*pred.shape[:2], cells**2)
        more["score"] = torch.rand(shape, generator=generator, device=pred.device)
    if form == "official":  # members of one sub-list lie a multiple of `sublists` apart
        more["gaps"] = tuple(range(sublists, regions, sublists))
    return losses.relative_count_loss(
        pred, target, cells=cells, regions=regions, sublists=sublists, **more
    )


def importance_loss(gate: Tensor, *, form: str = "paper") -> Tensor:
    """L_Eim (eq. 6): squared coefficient of variation of the experts' importance.

    Args:
        gate: `[B, M, N, h, w]`, weights that sum to one over N.
        form: "paper" (`hmode.method.losses.importance_loss`: per image, population variance,
            averaged over the batch) or "official" (the released code: weights summed over the
            batch first, unbiased variance, which for N = 2 is twice the population's).

    Returns:
        A scalar, zero when all members of every group weigh the same.

    Raises:
        InputError: the form is unknown.
    """
    _check_form(form)
    if form == "paper":
        return losses.importance_loss(gate)
    importance = gate.sum(dim=(-2, -1)).sum(dim=0)  # [M, N]
    variance, mean = torch.var_mean(importance, dim=-1)
    return (variance / mean**2).sum()


def _check_form(form: str) -> None:
    if form not in FORMS:
        raise InputError(f"form is {form!r}, expected one of {FORMS}")
