"""Losses on all density maps of a prediction at once."""

from hmode.losses.density import attention_loss, density_loss
from hmode.losses.gates import importance_loss
from hmode.losses.relative import relative_count_loss
from hmode.losses.total import SETTINGS, LossSettings, loss_settings, total_loss

__all__ = [
    "SETTINGS",
    "LossSettings",
    "attention_loss",
    "density_loss",
    "importance_loss",
    "loss_settings",
    "relative_count_loss",
    "total_loss",
]
