"""The training loss (eq. 7): named terms, their settings, one sum."""

from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from hmode.errors import InputError
from hmode.losses import gates, relative
from hmode.losses.density import REDUCTIONS, attention_loss, density_loss
from hmode.losses.gates import importance_loss
from hmode.losses.relative import relative_count_loss
from hmode.models.prediction import Prediction

CHOICES = {
    "density_reduction": REDUCTIONS,
    "attention_reduction": REDUCTIONS,
    "relative_reduction": REDUCTIONS,
    "relative_form": relative.FORMS,
    "relative_mining": relative.MINING,
    "importance_form": gates.FORMS,
    "output_weights": ("equal", "official"),
}


@dataclass(frozen=True)
class LossSettings:
    """Which terms, in which form, with which weight; a weight of zero leaves a term out.

    L_Des grows with (people per pixel x scale)², REL with people x scale, so that their reductions
    and the scale of the maps decide which of them rules. As printed (eq. 2 to 4: L_Des a mean over
    pixels, REL a sum) REL is larger by orders of magnitude, and a map that is zero or flat
    everywhere has no REL: training collapses. The default takes both as means over pixels, which
    is the balance that the released code's sums of both have. Notebook 04 shows the four.

    `relative_reduction` "mean" divides the hinges' sum by the number of pixels. `output_weights`
    "official" weighs experts 1, groups 2 and the final map 4.

    Raises:
        InputError: a choice is unknown, or a weight is negative.
    """

    density_weight: float = 1.0
    density_reduction: str = "mean"
    relative_weight: float = 1.0
    relative_reduction: str = "mean"
    relative_form: str = "paper"
    relative_mining: str = "hard"
    cells: int = 8
    regions: int = 9
    sublists: int = 3
    attention_weight: float = 1.0
    attention_reduction: str = "mean"
    attention_threshold: float = 1e-5
    importance_weight: float = 1.0
    importance_form: str = "paper"
    output_weights: str = "equal"

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            allowed = CHOICES.get(field.name)
            if allowed and value not in allowed:
                raise InputError(f"{field.name} is {value!r}, expected one of {allowed}")
            if field.name.endswith("_weight") and not value >= 0:
                raise InputError(f"{field.name} is {value!r}, expected a number of at least 0")
        relative.check_regions(self.cells, self.regions, self.sublists)


# "official" is how the authors' released code reduces and weighs its terms, with the hinge that it
# defines (there REL is commented out of the training loop); its targets are cut to windows of 15 x
# 15 pixels, which is `Schedule(window=15)`.
SETTINGS = {
    "paper": LossSettings(),
    "printed": LossSettings(relative_reduction="sum"),
    "official": LossSettings(
        density_reduction="sum",
        attention_reduction="sum",
        relative_reduction="sum",
        relative_form="official",
        importance_form="official",
        output_weights="official",
    ),
}


def loss_settings(settings: LossSettings | str) -> LossSettings:
    """Settings by name, or as they are.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(settings, LossSettings):
        return settings
    if settings not in SETTINGS:
        raise InputError(f"loss settings {settings!r}, expected one of {sorted(SETTINGS)}")
    return SETTINGS[settings]


def total_loss(
    prediction: Prediction,
    target: Tensor,
    settings: LossSettings | str = "paper",
    *,
    generator: Generator | None = None,
) -> dict[str, Tensor]:
    """L (eq. 7): L_Des + L_Rel on each of the C maps, L_Att and L_Eim where there are gates.

    Args:
        prediction: of a network, in training mode or not.
        target: density map `[B, 1, H, W]` in people per pixel, at the images' size.
        settings: `LossSettings` or the name of one, "paper", "printed" or "official".
        generator: for `relative_mining="random"`.

    Returns:
        The terms that take part, unweighted, by name ("density", "relative", "attention",
        "importance"), and "total", their weighted sum; scalars.
    """
    settings = loss_settings(settings)
    maps = prediction.maps
    scaled = target * prediction.scale
    weights = output_weights(prediction, settings.output_weights)

    def density():
        return density_loss(
            maps, scaled, reduction=settings.density_reduction, output_weights=weights
        )

    def relative():
        loss = relative_count_loss(
            maps,
            scaled,
            cells=settings.cells,
            regions=settings.regions,
            sublists=settings.sublists,
            mining=settings.relative_mining,
            form=settings.relative_form,
            output_weights=weights,
            generator=generator,
        )
        pixels = target.shape[-2] * target.shape[-1]
        return loss / pixels if settings.relative_reduction == "mean" else loss

    def attention():
        return attention_loss(
            prediction.attention,
            target,
            reduction=settings.attention_reduction,
            threshold=settings.attention_threshold,
        )

    def importance():
        return sum(
            importance_loss(gate, form=settings.importance_form) for gate in prediction.gates
        )

    terms = {"density": density, "relative": relative}
    if prediction.gates:
        terms |= {"attention": attention, "importance": importance}
    weight = {name: getattr(settings, f"{name}_weight") for name in terms}
    losses = {name: term() for name, term in terms.items() if weight[name] > 0}
    nothing = torch.zeros((), device=target.device)
    losses["total"] = sum((weight[name] * loss for name, loss in losses.items()), start=nothing)
    return losses


def output_weights(prediction: Prediction, choice: str) -> Tensor | None:
    """`[C]` for the maps of `Prediction.maps`, or None for equal weights."""
    if choice == "equal":
        return None
    groups = sum(level.shape[1] for level in prediction.levels)
    weights = [1.0] * prediction.experts.shape[1] + [2.0] * groups + [4.0]
    return torch.tensor(weights, device=prediction.density.device)
