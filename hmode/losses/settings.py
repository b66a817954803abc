"""Which terms make up the training loss, in which form and with which weight."""

from dataclasses import dataclass, fields

from hmode.errors import InputError
from hmode.losses import gates, relative
from hmode.losses.density import REDUCTIONS

CHOICES = {
    "density_reduction": REDUCTIONS,
    "attention_reduction": REDUCTIONS,
    "relative_reduction": REDUCTIONS,
    "relative_form": relative.FORMS,
    "relative_mining": (*relative.MINING, "matryoshka"),
    "importance_form": gates.FORMS,
    "output_weights": ("equal", "official", "final"),
}


@dataclass(frozen=True)
class LossSettings:
    """Which terms, in which form, with which weight; a weight of zero leaves a term out.

    L_Des grows with (people per pixel x scale)², REL with people x scale, so that their reductions
    and the scale of the maps decide which of them rules. As printed (eq. 2 to 4: L_Des a mean over
    pixels, REL a sum) REL is larger by orders of magnitude, and a map that is zero or flat
    everywhere has no REL: training collapses. Notebook 04 shows it.

    The default sums L_Des, REL and L_Att over an image's pixels, as the released code does, and
    averages over the batch. L_Eim is a number of an image, whatever its size. Only beside sums do
    the paper's weights of 1 make it what it is meant to be, a nudge: beside means over the pixels
    of a crop of 128 x 128 it weighs 16,384 times as much and keeps gating net 1 exactly even
    ("means", the default before; notebook 06 shows both).

    `relative_reduction` "mean" divides the hinges' sum by the number of pixels. `relative_mining`
    "matryoshka" replaces REL's regions by nested squares (`nested_count_loss`), which have no
    cells, regions, sublists or form. `output_weights` "official" weighs experts 1, groups 2 and
    the final map 4; "final" the final map alone, so that experts learn only what gates give them.

    The paper has no importance loss for gating net 2: `importance2_weight` is of the same for it.

    The terms of other methods are off by default: the global ranking loss with its temperature
    and the absolute local counts of Table IX (`ranking_loss`, `local_count_loss`, the latter over
    the same `cells`), and the three terms of DM-Count (`transport_loss`, `count_loss`,
    `variation_loss`). The paper gives no weight for the first two, which follow L_Des's reduction
    (beside a sum they are multiplied by the pixels); their gradients are as large as L_Des's at
    weights of about 0.1 and 0.5. DM-Count's terms are in people.

    Raises:
        InputError: a choice is unknown, a weight is negative, or the temperature not positive.
    """

    density_weight: float = 1.0
    density_reduction: str = "sum"
    relative_weight: float = 1.0
    relative_reduction: str = "sum"
    relative_form: str = "paper"
    relative_mining: str = "hard"
    cells: int = 8
    regions: int = 9
    sublists: int = 3
    attention_weight: float = 1.0
    attention_reduction: str = "sum"
    attention_threshold: float = 1e-5
    importance_weight: float = 1.0
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
        for field in fields(self):
            value = getattr(self, field.name)
            allowed = CHOICES.get(field.name)
            if allowed and value not in allowed:
                raise InputError(f"{field.name} is {value!r}, expected one of {allowed}")
            if field.name.endswith("_weight") and not value >= 0:
                raise InputError(f"{field.name} is {value!r}, expected a number of at least 0")
        if not self.ranking_temperature > 0:
            raise InputError(
                f"ranking_temperature is {self.ranking_temperature!r}, expected a positive number"
            )
        relative.check_regions(self.cells, self.regions, self.sublists)


# "means" takes the three terms as means over pixels, "printed" as the equations do. "official" is
# how the authors' released code reduces and weighs its terms, with the hinge that it defines (there
# REL is commented out of the training loop); its targets are cut to windows of 15 x 15 pixels,
# which is `Schedule(window=15)`. "dmcount" is the whole loss of DM-Count (Wang et al., NeurIPS
# 2020, eq. 6).
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
