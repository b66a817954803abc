"""Which expert each head gets, beside the one that its size asks for."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hmode.data import CrowdImage
from hmode.data.camera import HEAD_WIDTH
from hmode.errors import InputError
from hmode.models import HMoDE, Prediction


def expert_weights(model: HMoDE, prediction: Prediction) -> np.ndarray:
    """What each expert weighs in the final map, all levels of gates taken together.

    Args:
        prediction: of that model for one image (a batch of one).

    Returns:
        float32 `[K, h, w]`, summing to one over experts; Σ_k weight x expert is the final map
        (but with `gating="channel"`, which mixes features).
    """
    experts = prediction.experts.shape[1]
    shares = np.eye(experts, dtype=np.float32)[:, :, None, None]  # [inputs of a level, K, h, w]
    for level, gate in zip(model.levels, prediction.gates, strict=True):
        mixed = [
            (_array(weights)[:, None] * shares[list(group)]).sum(axis=0)  # [N, 1, h, w] x [N, K, …]
            for group, weights in zip(level.groups, gate[0], strict=True)
        ]
        passed = [np.broadcast_to(shares[i], mixed[0].shape) for i in level.passed]
        shares = np.stack([*mixed, *passed])
    if prediction.gate2 is None:
        return shares[0]
    return (_array(prediction.gate2[0])[:, None] * shares).sum(axis=0)


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
        heads: int64 `[K, K]`.
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
            choice `expert_weights(…).argmax(axis=0)`, for the best `best_scale(…)`.
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
        if np.shape(each) != tuple(-(-side // stride) for side in sample.size):
            raise InputError(
                f"{sample.name}: the chosen experts are {list(np.shape(each))} cells of {stride} "
                f"pixels, and the image has {list(sample.size)} pixels"
            )
        sizes.append(head_sizes(sample))
        found.append(np.asarray(each)[rows // stride, columns // stride])
    size, expert = np.concatenate(sizes), np.concatenate(found)
    if len(expert) and not -1 <= expert.min() <= expert.max() < experts:
        raise InputError(
            f"experts from {expert.min()} to {expert.max()}, expected -1 to {experts - 1}"
        )
    if not len(size):
        raise InputError("no image has a head inside its frame")
    if edges is None:
        edges = np.quantile(size, np.arange(1, experts) / experts)
    if len(edges) != experts - 1:
        raise InputError(f"edges are {list(edges)}, expected {experts - 1} for {experts} experts")
    heads = np.zeros((experts, experts), dtype=np.int64)
    known = expert >= 0
    np.add.at(heads, (right_expert(size[known], edges), expert[known]), 1)
    return Confusion(heads, np.asarray(edges))


def _pixels(sample: CrowdImage) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels in which the heads inside the frame lie."""
    columns, rows = np.floor(sample.points.numpy()).astype(int).T
    inside = (rows >= 0) & (rows < sample.size[0]) & (columns >= 0) & (columns < sample.size[1])
    return rows[inside], columns[inside]


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().float().numpy()
