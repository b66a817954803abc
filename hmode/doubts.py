"""What speaks against the counts of a network: that it was hardly trained, or on drawings, or that
it counts more, or fewer, or in a darker or larger picture, than it has ever seen; and how far off
its counts of test images were."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from hmode.counting import Count
from hmode.data.registry import DRAWN
from hmode.errors import InputError
from hmode.runs import RunFolder, read_json

FEW = 1000  # crops: less is a try
LARGE = 2_000_000  # pixels: in more, heads may be of a size that no training image has
LEAST_HEAD = 3  # pixels, below which heads are lost; see docs/models/photos.md
ALIKE = 40  # test images of the most similar counts, whose errors an interval is of
INSIDE = (0.1, 0.9)  # the share of them that lies below its ends


@dataclass(frozen=True, eq=False)
class Doubts:
    """Doubts about a network.

    Attributes:
        always: those that concern every count, in words.
        densest: people per pixel in the densest training image; None where that is not known.
        fewest: people in the emptiest training image, or None.
        darkest: mean grey value, 0 to 255, of the darkest training image, or None.
        seen: `[n, 2]`, true and predicted counts of test images, or None.
    """

    always: tuple[str, ...] = ()
    densest: float | None = None
    fewest: float | None = None
    darkest: float | None = None
    seen: np.ndarray | None = None

    def of(self, counted: Count, pixels: Tensor) -> str:
        """All that concern a count of a picture, uint8 `[3, H, W]`, in words; "" without any."""
        height, width = counted.size
        found = [*self.always]
        if self.densest is not None and counted.count > self.densest * height * width:
            found.append("denser than any training image")
        if self.fewest is not None and counted.count < self.fewest:
            found.append(f"fewer than the {self.fewest} of the emptiest training image")
        if self.darkest is not None and darkness(pixels) < self.darkest:
            found.append("darker than any training image")
        rows, columns = counted.picture
        if rows * columns > LARGE and rows > height:
            lost = LEAST_HEAD * rows / height
            found.append(f"of heads below {lost:.0f} pixels nothing is left at that size")
        elif rows * columns > LARGE:
            found.append("heads may be larger than in any training image; count it smaller")
        return "; ".join(found)

    def interval(self, people: float) -> tuple[float, float] | None:
        """Between which counts the truth lay in four of five of the test images with the most
        similar counts, as shares of the count; None without test images."""
        if self.seen is None:
            return None
        return interval(people, *self.seen.T)


def interval(people: float, true: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """See `Doubts.interval`; true and predicted are `[n]`."""
    predicted = np.maximum(predicted, 1.0)
    alike = np.argsort(abs(np.log(predicted / max(people, 1.0))), kind="stable")[:ALIKE]
    low, high = np.quantile(true[alike] / predicted[alike], INSIDE)
    return float(people * low), float(people * high)


def darkness(pixels: Tensor) -> float:
    """Mean grey value, 0 to 255, of some ten thousand pixels of a picture, uint8 `[3, H, W]`."""
    step = max(1, int((pixels[0].numel() / 10_000) ** 0.5))
    return pixels[:, ::step, ::step].float().mean().item()


def doubts(run_dir: str | Path) -> Doubts:
    """The doubts about a run's network.

    Raises:
        InputError: the run's files cannot be read.
    """
    folder = RunFolder(run_dir)
    config = folder.config()
    train, schedule = config.get("train") or {}, config.get("schedule") or {}
    images = train.get("selected", train.get("images", train.get("length")))
    images = len(images) if isinstance(images, list) else images
    always, epochs = [], schedule.get("epochs")
    if isinstance(images, int) and isinstance(epochs, int) and images * epochs < FEW:
        always.append(f"trained on {images * epochs} crops only")
    if train.get("name") in DRAWN:
        always.append("trained on drawings")
    path = folder.path / "result.json"
    result = read_json(path) if path.is_file() else {}
    if not isinstance(result, dict):
        raise InputError(f"{path}: not a run's result, expected an object")
    densest = result.get("densest")
    return Doubts(tuple(always), densest if isinstance(densest, (int, float)) else None)
