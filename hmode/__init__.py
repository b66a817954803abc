"""HMoDE and REL: crowd counting with a hierarchical mixture of density experts.

A reproduction of Du, Shi, Deng and Zafeiriou, "Redesigning Multi-Scale Neural Network for Crowd
Counting" (IEEE Transactions on Image Processing, 2023), to read, run and change.
"""

from hmode import start  # noqa: F401 - first of all: what Ctrl-C does while torch is imported
from hmode.counting import Count, count
from hmode.data import CrowdImage, hold_out, normalise, open_dataset
from hmode.density import adaptive_sigma, density_map, local_counts
from hmode.errors import HmodeError, InputError, MissingFileError, TrainingError
from hmode.evaluation import evaluate, load_run
from hmode.experiments import EXPERIMENTS, run
from hmode.losses import (
    LossSettings,
    attention_loss,
    density_loss,
    importance_loss,
    relative_count_loss,
    total_loss,
)
from hmode.metrics import Evaluation, mae, mse
from hmode.models import Baseline, HMoDE, Prediction, for_inference, load_official
from hmode.pretrained import finetune, pretrained
from hmode.profiles import Profile, Schedule, load_profile
from hmode.step import Compute
from hmode.training import fit

__version__ = "0.1.0"

__all__ = [
    "EXPERIMENTS",
    "Baseline",
    "Compute",
    "Count",
    "CrowdImage",
    "Evaluation",
    "HMoDE",
    "HmodeError",
    "InputError",
    "LossSettings",
    "MissingFileError",
    "Prediction",
    "Profile",
    "Schedule",
    "TrainingError",
    "adaptive_sigma",
    "attention_loss",
    "count",
    "density_loss",
    "density_map",
    "evaluate",
    "finetune",
    "fit",
    "for_inference",
    "hold_out",
    "importance_loss",
    "load_official",
    "load_profile",
    "load_run",
    "local_counts",
    "mae",
    "mse",
    "normalise",
    "open_dataset",
    "pretrained",
    "relative_count_loss",
    "run",
    "total_loss",
]
