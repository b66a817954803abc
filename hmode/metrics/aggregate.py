"""The errors as torchmetrics metrics: sums over images, added up over processes.

`Evaluation` holds every image of a test set and gives the same errors; these are for loops that
keep no images:

    metrics = crowd_metrics().to(device)
    for count in count_images(model, dataset):  # this process's share
        metrics.update(count)
    errors = metrics.compute()  # of all processes
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from hmode.metrics.counts import LEVELS, density_levels
from hmode.metrics.evaluation import ImageCount
from hmode.metrics.regions import GAME_LEVELS


class ImageMean(Metric):
    """The mean of one number over the images with annotation; not a number without any.

    Args:
        low, high: only images with so many true people, both included.
        options: of `torchmetrics.Metric`.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    def __init__(self, low: float = 0, high: float = math.inf, **options):
        super().__init__(**options)
        self.low, self.high = low, high
        for name in ("total", "images"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, count: ImageCount) -> None:
        """Take in one image."""
        if self.low <= count.true <= self.high:  # never so without annotation
            self.total += self.value(count)
            self.images += 1

    def compute(self) -> Tensor:
        """float64 scalar."""
        return self.total / self.images

    def value(self, count: ImageCount) -> float:
        """The number of one image that the mean is over."""
        raise NotImplementedError


class MAE(ImageMean):
    """`mae`, people."""

    def value(self, count):
        return abs(count.error)


class MSE(ImageMean):
    """`mse`, the ROOT of the mean squared error, people."""

    def value(self, count):
        return count.error**2

    def compute(self):
        return super().compute().sqrt()


class NAE(ImageMean):
    """`nae`, over images with people."""

    def __init__(self, low: float = 0, high: float = math.inf, **options):
        super().__init__(max(low, 1), high, **options)

    def value(self, count):
        return abs(count.error) / count.true


class GAME(ImageMean):
    """GAME at one level, 0 to 3, people; see `game_errors`."""

    def __init__(self, level: int, **options):
        super().__init__(**options)
        self.level = level

    def value(self, count):
        return count.game[self.level]


class ForegroundMAE(ImageMean):
    """Mean absolute error of the counts inside the foreground (section IV-E), people."""

    def value(self, count):
        true, predicted = count.foreground
        return abs(predicted - true)


class ForegroundMSE(ForegroundMAE):
    """Root of the mean squared error of the counts inside the foreground, people."""

    def value(self, count):
        return super().value(count) ** 2

    def compute(self):
        return super().compute().sqrt()


def crowd_metrics(edges: Sequence[int] = LEVELS) -> MetricCollection:
    """All of them: mae, mse, nae, game0 to game3, foreground_mae, foreground_mse, and by density
    level mae/0-50, mse/0-50 and so on.

    Args:
        edges: of the density levels, see `density_levels`.
    """
    metrics: dict[str, Metric] = {"mae": MAE(), "mse": MSE(), "nae": NAE()}
    metrics |= {f"game{level}": GAME(level) for level in range(GAME_LEVELS)}
    metrics |= {"foreground_mae": ForegroundMAE(), "foreground_mse": ForegroundMSE()}
    for name, (low, high) in density_levels(edges).items():
        metrics |= {f"mae/{name}": MAE(low, high), f"mse/{name}": MSE(low, high)}
    # Compute groups would merge metrics whose sums agree after the first image.
    return MetricCollection(metrics, compute_groups=False)
