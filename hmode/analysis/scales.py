"""Which expert each head gets, beside the one that its size asks for."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hmode.data import CrowdImage
from hmode.data.camera import HEAD_WIDTH
from hmode.errors import InputError
from hmode.method.image import inside
from hmode.models import HMoDE, Prediction


def expert_weights(model: HMoDE, prediction: Prediction) -> np.ndarray:
    """`Prediction.expert_weights` of one image, float32 `[K, h, w]`.

    Args:
        prediction: of that model for one image (a batch of one).
    """
    return prediction.expert_weights()[0].detach().cpu().float().numpy()


def head_sizes(sample: CrowdImage) -> np.ndarray:
    """Pixels across each head inside the frame, `[n]`, by the perspective that is known there.

    Raises:
        InputError: the image has no perspective.
    """
    if sample.perspective is None:
        raise InputError(f"{sample.name} has no perspective, so the sizes of its heads are unknown")
    rows, columns = _pixels(sample)
    return HEAD_WIDTH * sample.perspective.numpy()[rows, columns]


def right_expert(sizes, edges) -> np.ndarray:
    """The expert for heads of these sizes: int64, 0 (finest) for the smallest … len(edges).

    Args:
        sizes: in pixels, of any shape: of heads, or `HEAD_WIDTH` times the perspective of pixels.
        edges: rising, in pixels; a size equal to an edge is on its upper side.

    Raises:
        InputError: the edges do not rise.
    """
    edges = np.asarray(edges, dtype=float)
    if edges.ndim != 1 or not (np.diff(edges) > 0).all():
        raise InputError(f"edges are {edges.tolist()}, expected rising numbers")
    return np.digitize(sizes, edges)


@dataclass(frozen=True, eq=False)
class Confusion:
    """Heads by the expert that their size asks for (rows) and the one that they got (columns).

    Attributes:
        heads: float64 `[K, K]`.
        edges: `[K - 1]`, sizes in pixels between which heads belong to one expert.
    """

    heads: np.ndarray
    edges: np.ndarray

    @property
    def agreement(self) -> float:
        """Share of heads that got their expert; nan where none got any."""
        return float(np.trace(self.heads) / self.heads.sum()) if self.heads.any() else float("nan")

    @property
    def chance(self) -> float:
        """The same for experts dealt to heads without looking, as often as they were given."""
        total = self.heads.sum()
        if not total:
            return float("nan")
        return float((self.heads.sum(axis=0) / total) @ (self.heads.sum(axis=1) / total))


def confusion(
    chosen: Iterable[np.ndarray],
    samples: Iterable[CrowdImage],
    *,
    experts: int = 3,
    edges=None,
    stride: int = 4,
) -> Confusion:
    """Does the chosen expert follow the true scale? One count for each head inside the frame.

    Args:
        chosen: of each image int `[h, w]`, an expert from 0 or -1 where none is: for the gates'
            choice `expert_weights(…).argmax(axis=0)`, for the best `best_scale(…)`. Or shares
            `[K, h, w]`: with `expert_weights(…)` a head counts for each expert by its weight.
        samples: the images, with perspective.
        edges: `[K - 1]`, see `right_expert`; None: such that each expert is to get as many heads,
            for K = 3 a third of them all.
        stride: pixels per cell of `chosen`.

    Raises:
        InputError: an image has no perspective, a map does not cover its image or names another
            expert, there are no heads, they are all of one size, or edges do not fit experts.
        ValueError: there are more or fewer images than maps.
    """
    sizes, found = [], []
    for each, sample in zip(chosen, samples, strict=True):
        rows, columns = _pixels(sample)
        each = np.asarray(each)
        if each.shape[-2:] != tuple(-(-side // stride) for side in sample.size):
            raise InputError(
                f"{sample.name}: the chosen experts are {list(each.shape)} cells of {stride} "
                f"pixels, and the image has {list(sample.size)} pixels"
            )
        sizes.append(head_sizes(sample))
        if each.ndim == 2:
            if len(rows) and not -1 <= each.min() <= each.max() < experts:
                raise InputError(
                    f"{sample.name}: experts from {each.min()} to {each.max()}, expected -1 to "
                    f"{experts - 1}"
                )
            each = each == np.arange(experts)[:, None, None]
        found.append(each[:, rows // stride, columns // stride])  # [K, heads]
    size = np.concatenate(sizes)
    if not len(size):
        raise InputError("no image has a head inside its frame")
    if edges is None:
        edges = np.quantile(size, np.arange(1, experts) / experts)
    if len(edges) != experts - 1:
        raise InputError(f"edges are {list(edges)}, expected {experts - 1} for {experts} experts")
    asked = right_expert(size, edges) == np.arange(experts)[:, None]  # [K, heads]
    heads = asked.astype(float) @ np.concatenate(found, axis=1).T
    return Confusion(heads, np.asarray(edges))


def _pixels(sample: CrowdImage) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels in which the heads inside the frame lie."""
    points = sample.points.numpy()
    columns, rows = np.floor(points[inside(points, sample.size)]).astype(int).T
    return rows, columns
