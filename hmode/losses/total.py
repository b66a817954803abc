"""The training loss (eq. 7): named terms and their weighted sum."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from hmode.errors import InputError
from hmode.losses.density import attention_loss, cell_side, density_loss
from hmode.losses.gates import importance_loss
from hmode.losses.local import local_count_loss, nested_count_loss
from hmode.losses.matching import count_loss, transport_loss, variation_loss
from hmode.losses.ranking import ranking_loss
from hmode.losses.relative import relative_count_loss
from hmode.losses.settings import LossSettings, loss_settings
from hmode.models.prediction import Prediction


def total_loss(
    prediction: Prediction,
    target: Tensor,
    settings: LossSettings | str = "paper",
    *,
    points: Tensor | None = None,
    valid: Tensor | None = None,
    generator: Generator | None = None,
) -> dict[str, Tensor]:
    """L (eq. 7): L_Des + L_Rel on each of the C maps, L_Att and L_Eim where there are gates.

    REL and the absolute local counts act on all maps, the other methods' terms on the final one.
    A network with a branch of its own for local counts (`Prediction.local`; Table IX, DB) gets
    REL on that branch's map instead. The paper does not say whose errors then choose the hard
    regions: here the final density map's.

    Args:
        prediction: of a network, in training mode or not.
        target: density map `[B, 1, H, W]` in people per pixel, at the images' size.
        settings: `LossSettings` or the name of one of `SETTINGS`.
        points: `[B, N, 2]`, the heads (x, y) in pixels, inside the image and padded; for the terms
            transport, count and variation.
        valid: bool `[B, N]`, False for padding.
        generator: for `relative_mining` "random" and "matryoshka".

    Returns:
        The terms that take part, unweighted, by name (those of `TERMS`), and "total", their
        weighted sum; scalars.

    Raises:
        InputError: a term lacks the points or the generator that it needs, or the grids do not
            fit.
    """
    settings = loss_settings(settings)
    step = Step(prediction, target, settings, points, valid, generator)
    weights = {name: getattr(settings, f"{name}_weight") for name in TERMS}
    if prediction.attention is None:
        weights["attention"] = 0.0
    if not prediction.gates:
        weights["importance"] = 0.0
    if prediction.gate2 is None:
        weights["importance2"] = 0.0
    losses = {name: term(step) for name, term in TERMS.items() if weights[name] > 0}
    nothing = torch.zeros((), device=target.device)
    losses["total"] = sum((weights[name] * loss for name, loss in losses.items()), start=nothing)
    return losses


@dataclass(eq=False)
class Step:
    """What the terms are made from: the arguments of `total_loss`, and what several terms use."""

    prediction: Prediction
    target: Tensor
    settings: LossSettings
    points: Tensor | None
    valid: Tensor | None
    generator: Generator | None

    @property
    def scaled(self) -> Tensor:
        """The target in the unit of the maps."""
        return self.target * self.prediction.scale

    @property
    def output_weights(self) -> Tensor | None:
        return output_weights(self.prediction, self.settings.output_weights)

    @property
    def pixels(self) -> int:
        return self.target.shape[-2] * self.target.shape[-1]

    @property
    def beside_density(self) -> int:
        """What a term without a reduction of its own is multiplied by, to follow L_Des's."""
        return self.pixels if self.settings.density_reduction == "sum" else 1

    @property
    def people(self) -> Tensor:
        """The final map as people per cell, `[B, 1, h, w]`."""
        density = self.prediction.density
        return density * cell_side(self.target, density.shape[-2:]) ** 2 / self.prediction.scale

    @property
    def heads(self) -> tuple[Tensor, Tensor]:
        """The points and which of them are valid."""
        if self.points is None or self.valid is None:
            raise InputError(
                "points or valid is None: transport_weight, count_weight and variation_weight "
                "need the heads' points [B, N, 2] and valid [B, N]"
            )
        return self.points, self.valid


def _density(step: Step) -> Tensor:
    return density_loss(
        step.prediction.maps,
        step.target,
        scale=step.prediction.scale,
        reduction=step.settings.density_reduction,
        output_weights=step.output_weights,
    )


def _relative(step: Step) -> Tensor:
    settings, local = step.settings, step.prediction.local
    own_branch = local is not None
    maps = local if own_branch else step.prediction.maps
    weights = None if own_branch else step.output_weights
    if settings.relative_mining == "matryoshka":
        loss = nested_count_loss(
            maps, step.scaled, output_weights=weights, generator=step.generator
        )
    else:
        loss = relative_count_loss(
            maps,
            step.target,
            scale=step.prediction.scale,
            judged=step.prediction.density if own_branch else None,
            cells=settings.cells,
            regions=settings.regions,
            sublists=settings.sublists,
            mining=settings.relative_mining,
            form=settings.relative_form,
            output_weights=weights,
            generator=step.generator,
        )
    return loss / step.pixels if settings.relative_reduction == "mean" else loss


def _attention(step: Step) -> Tensor:
    return attention_loss(
        step.prediction.attention,
        step.target,
        reduction=step.settings.attention_reduction,
        threshold=step.settings.attention_threshold,
    )


def _importance(step: Step) -> Tensor:
    form = step.settings.importance_form
    return sum(importance_loss(gate, form=form) for gate in step.prediction.gates)


def _importance2(step: Step) -> Tensor:
    gate = step.prediction.gate2[:, None]  # one group of all
    return importance_loss(gate, form=step.settings.importance_form)


def _ranking(step: Step) -> Tensor:
    return step.beside_density * ranking_loss(
        step.people.sum(dim=(1, 2, 3)),
        step.target.sum(dim=(1, 2, 3)),
        temperature=step.settings.ranking_temperature,
    )


def _local(step: Step) -> Tensor:
    return step.beside_density * local_count_loss(
        step.prediction.maps,
        step.scaled,
        cells=step.settings.cells,
        output_weights=step.output_weights,
    )


def _transport(step: Step) -> Tensor:
    return transport_loss(step.people, *step.heads, stride=step.prediction.stride)


def _count(step: Step) -> Tensor:
    _, valid = step.heads
    return count_loss(step.people, valid)


def _variation(step: Step) -> Tensor:
    return variation_loss(step.people, *step.heads, stride=step.prediction.stride)


TERMS = {
    "density": _density,  # L_Des
    "relative": _relative,  # L_Rel, REL
    "attention": _attention,  # L_Att
    "importance": _importance,  # L_Eim
    "importance2": _importance2,  # the same for gating net 2
    "ranking": _ranking,  # GRL
    "local": _local,  # ALC
    "transport": _transport,  # DM-Count's three
    "count": _count,
    "variation": _variation,
}


def output_weights(prediction: Prediction, choice: str) -> Tensor | None:
    """`[C]` for the maps of `Prediction.maps`, or None for equal weights."""
    if choice == "equal":
        return None
    groups = sum(level.shape[1] for level in prediction.levels)
    new_full = prediction.density.new_full  # made on the device: a copy to a GPU makes it wait
    sizes = (prediction.experts.shape[1], groups, 1)
    values = {"official": (1.0, 2.0, 4.0), "final": (0.0, 0.0, 1.0)}[choice]
    return torch.cat([new_full((n,), value) for n, value in zip(sizes, values, strict=True)])
