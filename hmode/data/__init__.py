"""Data sets: sequences of annotated images, and crops of them for training."""

from hmode.data.crops import Batch, CropSampler
from hmode.data.registry import (
    DATASETS,
    DRAWN,
    Selection,
    describe,
    hold_out,
    identify,
    open_dataset,
    true_counts,
)
from hmode.data.resident import Resident
from hmode.method.image import CrowdImage, normalise

__all__ = [
    "DATASETS",
    "DRAWN",
    "Batch",
    "CropSampler",
    "CrowdImage",
    "Resident",
    "Selection",
    "describe",
    "hold_out",
    "identify",
    "normalise",
    "open_dataset",
    "true_counts",
]
