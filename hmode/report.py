"""The picture of an evaluation: counts, errors, and the density maps of the worst images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hmode.data import CrowdImage
from hmode.density import density_map
from hmode.errors import InputError
from hmode.evaluation import counted, predict
from hmode.metrics import Evaluation
from hmode.models import CountingNetwork
from hmode.outputs import maker
from hmode.plots import PALETTE, show_counts, show_map, use_style
from hmode.runs import write_atomically

WORST = 3


@dataclass(frozen=True, eq=False)
class WorstImage:
    """An image with a large error: its counts, and its maps `[H, W]` in people per pixel."""

    name: str
    true: float
    predicted: float
    target: np.ndarray
    density: np.ndarray

    @property
    def error(self) -> float:
        """Predicted minus true count."""
        return self.predicted - self.true


def worst_images(
    model: CountingNetwork,
    dataset: Sequence[CrowdImage],
    evaluation: Evaluation,
    *,
    sigma: float = 4.0,
    window: int | None = None,
    most: int = WORST,
) -> list[WorstImage]:
    """The images of the largest absolute errors, largest first, counted once more for their maps.

    `evaluation` is that of the model, in evaluation mode, on the data set; sigma and window are
    those of the target maps, see `density_map`.
    """
    error = np.abs(evaluation.predicted - evaluation.true)
    order = [i for i in np.argsort(-error, kind="stable") if evaluation.annotated[i]]
    worst = []
    for i in order[:most]:
        sample = dataset[i]
        region, people = counted(sample)
        density = predict(model, sample).full_size()[0, 0].cpu() * region
        target = density_map(people, sample.size, sigma=sigma, window=window) * region
        counts = evaluation.true[i], evaluation.predicted[i]
        worst.append(WorstImage(sample.name, *counts, target.numpy(), density.numpy()))
    return worst


def evaluation_picture(evaluation: Evaluation, worst: Sequence[WorstImage] = ()) -> Figure:
    """Predicted against true counts, error against true count, and the worst images' maps.

    Raises:
        InputError: no image has an annotation.
    """
    mae = evaluation.mae
    use_style()
    fig = Figure(figsize=(9, 3.8 + 2.8 * len(worst)), layout="constrained")
    upper, lower = fig, None
    if worst:
        upper, lower = fig.subfigures(2, 1, height_ratios=(3.8, 2.8 * len(worst)))
    left, right = upper.subplots(1, 2)
    true, predicted = evaluation.true, evaluation.predicted
    show_counts(left, evaluation, top=1.15 * max(1, np.nanmax(true), predicted.max()))
    left.set_title(f"{evaluation.annotated.sum()} images: MAE {mae:.1f}")
    left.legend()
    show_errors(right, evaluation)
    sns.despine(fig)
    if lower is not None:
        rows = lower.subplots(len(worst), 2, squeeze=False)
        for axes, image in zip(rows, worst, strict=True):
            _show_maps(axes, image)
    return fig


def show_errors(ax: Axes, evaluation: Evaluation) -> None:
    """Predicted minus annotated count against the annotated one."""
    error = evaluation.predicted - evaluation.true
    ax.axhline(0, color="grey", linewidth=1)
    ax.scatter(evaluation.true, error, s=18, alpha=0.7, color=PALETTE[1])
    ax.set(xlabel="annotated people", ylabel="predicted − annotated people", title="error")


def _show_maps(axes: Sequence[Axes], image: WorstImage) -> None:
    """Target and predicted density in the same colours."""
    top = max(image.target.max(), image.density.max())
    show_map(axes[0], image.target, title=f"{image.name}: {image.true:.0f} people", vmax=top)
    title = f"predicted {image.predicted:.1f} ({image.error:+.1f})"
    show_map(axes[1], image.density, title=title, vmax=top)


def save_picture(fig: Figure, path: Path) -> None:
    """Write a figure, in the format of the file's ending."""
    about = {"format": path.suffix[1:], "dpi": 120, "metadata": maker(path)}
    write_atomically(path, lambda partial: fig.savefig(partial, **about))


def check_picture(path: Path) -> None:
    """Refuse a file whose ending is no format that pictures can be written in.

    Raises:
        InputError: it is not.
    """
    formats = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in formats:
        raise InputError(f"{path}: ends in {path.suffix!r}, expected one of {formats}")
