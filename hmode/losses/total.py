"""The training loss with every term there is: the paper's, its variants', and other methods'."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from hmode.errors import InputError
from hmode.losses.local import local_count_loss, nested_count_loss
from hmode.losses.matching import count_loss, transport_loss, variation_loss
from hmode.losses.ranking import ranking_loss
from hmode.losses.settings import LossSettings, loss_settings
from hmode.losses.variants import importance_loss, relative_count_loss
from hmode.method import losses
from hmode.method.losses import TERMS, cell_side, weighted_sum
from hmode.method.prediction import Prediction


def total_loss(
    prediction: Prediction,
    target: Tensor,
    settings: losses.LossSettings | str = "paper",
    *,
    points: Tensor | None = None,
    valid: Tensor | None = None,
    generator: Generator | None = None,
) -> dict[str, Tensor]:
    """L (eq. 7), and the terms of variants and other methods: those of `ALL_TERMS`.

    REL and the absolute local counts act on all maps, the other methods' terms on the final one.
    A network with a branch of its own for local counts (`Prediction.local`; Table IX, DB) gets
    REL on that branch's map instead. The paper does not say whose errors then choose the hard
    regions: here the final density map's.

    Args:
        prediction, target: see `hmode.method.losses.total_loss`, as for what is returned.
        settings: `LossSettings` or the name of one of `SETTINGS`.
        points: `[B, N, 2]`, the heads (x, y) in pixels, inside the image and padded; for the terms
            transport, count and variation.
        valid: bool `[B, N]`, False for padding.
        generator: for `relative_mining` "random" and "matryoshka".

    Raises:
        InputError: a term lacks the points or the generator that it needs, or the grids do not
            fit.
    """
    settings = loss_settings(settings)
    if not isinstance(settings, LossSettings):
        return losses.total_loss(prediction, target, settings)
    inputs = LossInputs(prediction, target, settings, points, valid, generator)
    return weighted_sum(inputs, ALL_TERMS)


@dataclass(eq=False)
class LossInputs(losses.LossInputs):
    """The arguments of `total_loss`, and what several terms use."""

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


def _relative(inputs: LossInputs) -> Tensor:
    settings, local = inputs.settings, inputs.prediction.local
    own_branch = local is not None
    maps = local if own_branch else inputs.prediction.maps
    more = {
        "output_weights": None if own_branch else inputs.output_weights,
        "generator": inputs.generator,
    }
    if settings.relative_mining == "matryoshka":
        loss = nested_count_loss(maps, inputs.scaled, **more)
    else:
        loss = relative_count_loss(
            maps,
            inputs.target,
            scale=inputs.prediction.scale,
            judged=inputs.prediction.density if own_branch else None,
            cells=settings.cells,
            regions=settings.regions,
            sublists=settings.sublists,
            mining=settings.relative_mining,
            form=settings.relative_form,
            **more,
        )
    return loss / inputs.pixels if settings.relative_reduction == "mean" else loss


def _importance(inputs: LossInputs) -> Tensor | None:
    gates, form = inputs.prediction.gates, inputs.settings.importance_form
    return sum(importance_loss(gate, form=form) for gate in gates) if gates else None


def _importance2(inputs: LossInputs) -> Tensor | None:
    gate = inputs.prediction.gate2
    if gate is None:
        return None
    return importance_loss(gate[:, None], form=inputs.settings.importance_form)  # one group of all


def _ranking(inputs: LossInputs) -> Tensor:
    return inputs.beside_density * ranking_loss(
        inputs.people.sum(dim=(1, 2, 3)),
        inputs.target.sum(dim=(1, 2, 3)),
        temperature=inputs.settings.ranking_temperature,
    )


def _local(inputs: LossInputs) -> Tensor:
    return inputs.beside_density * local_count_loss(
        inputs.prediction.maps,
        inputs.scaled,
        cells=inputs.settings.cells,
        output_weights=inputs.output_weights,
    )


def _transport(inputs: LossInputs) -> Tensor:
    return transport_loss(inputs.people, *inputs.heads, stride=inputs.prediction.stride)


def _count(inputs: LossInputs) -> Tensor:
    _, valid = inputs.heads
    return count_loss(inputs.people, valid)


def _variation(inputs: LossInputs) -> Tensor:
    return variation_loss(inputs.people, *inputs.heads, stride=inputs.prediction.stride)


ALL_TERMS = TERMS | {
    "relative": _relative,
    "importance": _importance,
    "importance2": _importance2,
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
