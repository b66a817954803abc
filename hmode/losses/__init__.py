"""The losses of `hmode.method.losses` in all their variants, and those of other methods."""

from hmode.losses.local import local_count_loss, nested_count_loss
from hmode.losses.matching import count_loss, transport_loss, variation_loss
from hmode.losses.ranking import ranking_loss
from hmode.losses.settings import SETTINGS, LossSettings, loss_settings
from hmode.losses.total import total_loss
from hmode.losses.variants import importance_loss, relative_count_loss
from hmode.method.losses import attention_loss, density_loss

__all__ = [
    "SETTINGS",
    "LossSettings",
    "attention_loss",
    "count_loss",
    "density_loss",
    "importance_loss",
    "local_count_loss",
    "loss_settings",
    "nested_count_loss",
    "ranking_loss",
    "relative_count_loss",
    "total_loss",
    "transport_loss",
    "variation_loss",
]
