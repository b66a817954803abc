"""Counting errors: of one image, over a test set, by region and by density level."""

from hmode.metrics.counts import LEVELS, density_levels, mae, mse, nae
from hmode.metrics.evaluation import Evaluation, ImageCount
from hmode.metrics.regions import FOREGROUND, cell_people, cell_sums, game_errors, people_in

__all__ = [
    "FOREGROUND",
    "LEVELS",
    "Evaluation",
    "ImageCount",
    "cell_people",
    "cell_sums",
    "density_levels",
    "game_errors",
    "mae",
    "mse",
    "nae",
    "people_in",
]
