"""Which terms make up the training loss, those of variants and of other methods included."""

from dataclasses import dataclass
from typing import ClassVar

from hmode.errors import InputError
from hmode.losses.variants import FORMS, MINING
from hmode.method import losses


@dataclass(frozen=True)
class LossSettings(losses.LossSettings):
    """Which terms, in which form, with which weight; a weight of zero leaves a term out.

    The paper's terms and their scale: `hmode.method.losses.LossSettings`. Besides:

    Attributes:
        relative_form, importance_form: "paper", or "official": the released code's, see
            `relative_count_loss` and `importance_loss`.
        relative_mining: "hard", or, of Table IX, "random" regions or "matryoshka": nested squares
            (`nested_count_loss`), which have no cells, regions, sublists or form.
        importance2_weight: of the importance loss on gating net 2, which the paper has not.
        output_weights: "equal"; "official" weighs experts 1, groups 2 and the final map 4; "final"
            the final map alone, so that experts learn only what gates give them.
        ranking_weight, ranking_temperature, local_weight: of GRL and ALC (Table IX, `ranking_loss`
            and `local_count_loss`, the latter over the same `cells`). The paper gives no weights.
            Both follow L_Des's reduction (beside a sum they are multiplied by the pixels); their
            gradients are as large as L_Des's at weights of about 0.1 and 0.5.
        transport_weight, count_weight, variation_weight: of DM-Count's three terms, in people
            (`hmode.losses.matching`).

    Raises:
        InputError: a choice is unknown, a weight is negative, or the temperature not positive.
    """

    choices: ClassVar[dict[str, tuple]] = losses.LossSettings.choices | {
        "relative_form": FORMS,
        "relative_mining": (*MINING, "matryoshka"),
        "importance_form": FORMS,
        "output_weights": ("equal", "official", "final"),
    }

    relative_form: str = "paper"
    relative_mining: str = "hard"
    importance_form: str = "paper"
    importance2_weight: float = 0.0
    output_weights: str = "equal"
    ranking_weight: float = 0.0
    ranking_temperature: float = 1.0
    local_weight: float = 0.0
    transport_weight: float = 0.0
    count_weight: float = 0.0
    variation_weight: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not self.ranking_temperature > 0:
            raise InputError(
                f"ranking_temperature is {self.ranking_temperature!r}, expected a positive number"
            )


# "means" takes the three terms as means over pixels (the default before), "printed" as the
# equations do. "official" is how the authors' released code reduces and weighs its terms, with the
# hinge that it defines (there REL is commented out of the training loop); its targets are cut to
# windows of 15 x 15 pixels, which is `Schedule(window=15)`. "dmcount" is the whole loss of DM-Count
# (Wang et al., NeurIPS 2020, eq. 6).
SETTINGS = {
    "paper": LossSettings(),
    "means": LossSettings(
        density_reduction="mean", relative_reduction="mean", attention_reduction="mean"
    ),
    "printed": LossSettings(density_reduction="mean", attention_reduction="mean"),
    "official": LossSettings(
        relative_form="official",
        importance_form="official",
        output_weights="official",
    ),
    "dmcount": LossSettings(
        density_weight=0.0,
        relative_weight=0.0,
        count_weight=1.0,
        transport_weight=0.1,
        variation_weight=0.01,
    ),
}


def loss_settings(settings: losses.LossSettings | str) -> losses.LossSettings:
    """Settings by name, or as they are.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(settings, losses.LossSettings):
        return settings
    if settings not in SETTINGS:
        raise InputError(f"loss settings {settings!r}, expected one of {sorted(SETTINGS)}")
    return SETTINGS[settings]
