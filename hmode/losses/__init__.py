"""Losses on all density maps of a prediction at once, and those of other methods."""

from hmode.losses.density import attention_loss, density_loss
from hmode.losses.gates import importance_loss
from hmode.losses.local import local_count_loss, nested_count_loss
from hmode.losses.matching import count_loss, transport_loss, variation_loss
from hmode.losses.ranking import ranking_loss
from hmode.losses.relative import relative_count_loss
from hmode.losses.settings import SETTINGS, LossSettings, loss_settings
from hmode.losses.total import total_loss

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
