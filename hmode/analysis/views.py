"""What a network makes of one image beside the truth, on the network's own grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hmode.data import CrowdImage
from hmode.density import density_map
from hmode.errors import InputError
from hmode.metrics import people_in
from hmode.models import Prediction

# Side of the region, in cells, that "local density" is averaged over: 36 pixels at stride 4.
LOCAL_SIDE = 9


def map_names(sizes: Sequence[int]) -> list[str]:
    """What the maps of `Prediction.maps` and `Evaluation.by_map` are called, in their order.

    E1, E2, …; the groups Gr1, Gr2, … of the first inner level, Gr1', … of a second; "final".

    Args:
        sizes: the number of experts, then of groups on each inner level: (3, 3) for the default,
            (3,) for the baseline, (0,) for a network with one output.
    """
    experts, *levels = sizes
    names = [f"E{k + 1}" for k in range(experts)]
    for level, groups in enumerate(levels):
        names += [f"Gr{i + 1}" + "'" * level for i in range(groups)]
    return [*names, "final"]


@dataclass(frozen=True, eq=False)
class View:
    """What a network makes of one image beside the truth, on its grid of h x w cells.

    Densities are float32, in people per pixel. Cells outside the image's mask cover no pixel and
    are zero everywhere.

    Attributes:
        name: of the image.
        count: annotated people, those outside the frame included (but for a mask).
        maps: `[C, h, w]`, experts, groups of each inner level, final.
        sizes: how many of them are experts, then groups of each level, see `map_names`.
        truth: `[h, w]`, mean of the true density over the pixels of a cell.
        variance: `[h, w]`, its population variance there: what no value for the cell can mend.
        pixels: `[h, w]`, how many pixels of the image (of its mask) each cell covers.
        proxies: what might tell the best scale, `[h, w]` each: "perspective" (pixels per metre,
            where it is known), "attention" (where there is one) and "local density" (the truth
            over 9 x 9 cells: the truth of the cell itself takes part in saying who is best there).
    """

    name: str
    count: int
    maps: np.ndarray
    sizes: tuple[int, ...]
    truth: np.ndarray
    variance: np.ndarray
    pixels: np.ndarray
    proxies: dict[str, np.ndarray]

    @property
    def names(self) -> list[str]:
        """What each of `maps` is called."""
        return map_names(self.sizes)

    @property
    def experts(self) -> np.ndarray:
        """`[K, h, w]`, K = 0 for a network with one output."""
        return self.maps[: self.sizes[0]]

    @property
    def groups(self) -> np.ndarray:
        """`[M, h, w]`, the groups of the last inner level, M = 0 without a hierarchy."""
        groups = self.sizes[-1] if len(self.sizes) > 1 else 0
        return self.maps[-1 - groups : -1]

    def people(self, values: np.ndarray) -> float:
        """What a density map `[h, w]` counts."""
        return float((self.pixels * values).sum(dtype=float))

    def squares(self, values: np.ndarray) -> float:
        """Squared error of a density map `[h, w]` against the cells' means, summed over pixels."""
        return self.people((values - self.truth) ** 2)


def view(
    sample: CrowdImage, prediction: Prediction, *, sigma: float = 4.0, window: int | None = None
) -> View:
    """An image and a network's prediction for it (a batch of one) as a `View`.

    Args:
        sigma, window: of the true density map, see `density_map`.

    Raises:
        InputError: the prediction is not of one image of this size, or the image has no annotation.
    """
    if tuple(prediction.size) != tuple(sample.size) or len(prediction.density) != 1:
        raise InputError(
            f"{sample.name}: the prediction is of {len(prediction.density)} images of "
            f"{tuple(prediction.size)} pixels, expected one of {tuple(sample.size)}"
        )
    if not sample.annotated:
        raise InputError(f"{sample.name} has no annotation to compare with")
    stride = prediction.stride
    region = torch.ones(sample.size, dtype=torch.bool) if sample.mask is None else sample.mask
    density = density_map(sample.points, sample.size, sigma=sigma, window=window).double()
    pixels = _cell_sums(region.double(), stride)

    def means(values: Tensor) -> Tensor:
        """Means of `[H, W]` over each cell's pixels inside the region."""
        return _cell_sums(values.double() * region, stride) / pixels.clamp(min=1)

    truth = means(density)
    maps = prediction.maps[0].detach().cpu() / prediction.scale * (pixels > 0)  # [C, h, w]
    proxies = {"local density": _smoothed(truth)}
    if sample.perspective is not None:
        proxies["perspective"] = means(sample.perspective)
    if prediction.attention is not None:
        proxies["attention"] = prediction.attention[0, 0].detach().cpu()
    return View(
        name=sample.name,
        count=sample.count if sample.mask is None else int(people_in(region, sample.points).sum()),
        maps=_array(maps),
        sizes=tuple(each.shape[1] for each in (prediction.experts, *prediction.levels)),
        truth=_array(truth),
        variance=_array((means(density**2) - truth**2).clamp(min=0)),
        pixels=_array(pixels),
        proxies={name: _array(values) for name, values in proxies.items()},
    )


def _cell_sums(values: Tensor, stride: int) -> Tensor:
    """Sums over cells of stride x stride pixels `[H, W]` → `[h, w]`; the last may be partial."""
    return F.avg_pool2d(values[None], stride, ceil_mode=True, divisor_override=1)[0]


def _smoothed(values: Tensor) -> Tensor:
    """Means over the `LOCAL_SIDE`² cells around each cell, fewer at the border."""
    around = {"stride": 1, "padding": LOCAL_SIDE // 2, "count_include_pad": False}
    return F.avg_pool2d(values[None], LOCAL_SIDE, **around)[0]


def _array(values: Tensor) -> np.ndarray:
    return values.float().numpy()
