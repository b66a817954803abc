"""Counting whole data sets with a trained network."""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from hmode.data import CrowdImage, normalise
from hmode.density import density_map
from hmode.errors import InputError
from hmode.metrics import FOREGROUND, Evaluation, ImageCount, game_errors, people_in
from hmode.models import CountingNetwork, Prediction, build_model
from hmode.runs import RunFolder


def evaluate(
    model: CountingNetwork,
    dataset: Sequence[CrowdImage],
    *,
    sigma: float = 4.0,
    window: int | None = None,
    regions: bool = True,
    progress: bool | None = False,
) -> Evaluation:
    """Count every image of a data set, whole, one at a time, on the device the model is on.

    Under `torchrun` or `accelerate launch` every process counts its share, and all get the whole.

    Args:
        model: is put into evaluation mode and back.
        dataset: at least one image, each with sides of at least 32 pixels.
        sigma, window: of the target density maps that say what is foreground, see `density_map`.
        regions: whether to compare inside the cells of GAME and the foreground too, or only the
            counts, which takes less time.
        progress: show a bar; None: where somebody watches.

    Raises:
        InputError: the data set is empty, or an image cannot be read, is too small or does not fit
            into the device's memory.
    """
    if len(dataset) == 0:
        raise InputError("the data set to evaluate on is empty")
    rank, world = process()
    mine = count_images(
        model, dataset, sigma=sigma, window=window, regions=regions, progress=progress
    )
    rows = list(zip(range(rank, len(dataset), world), mine, strict=True))
    if world > 1:
        shares = [None] * world
        torch.distributed.all_gather_object(shares, rows)
        rows = sorted(chain(*shares), key=lambda row: row[0])
    return Evaluation.of([count for _, count in rows])


def count_images(
    model: CountingNetwork,
    dataset: Sequence[CrowdImage],
    *,
    sigma: float = 4.0,
    window: int | None = None,
    regions: bool = True,
    progress: bool | None = False,
) -> Iterator[ImageCount]:
    """Count this process's share of a data set, every world-th image from its rank on.

    What `evaluate` gathers, and what the metrics of `hmode.metrics.aggregate` are updated with.
    Arguments and errors are those of `evaluate`.
    """
    rank, world = process()
    was_training = model.training
    model.eval()
    try:
        with progress_bar(len(dataset), progress) as bar:
            for i in range(rank, len(dataset), world):
                yield count_image(model, dataset[i], sigma=sigma, window=window, regions=regions)
                bar.update()
    finally:
        model.train(was_training)


def count_image(
    model: CountingNetwork,
    sample: CrowdImage,
    *,
    sigma: float = 4.0,
    window: int | None = None,
    regions: bool = True,
) -> ImageCount:
    """Count one image with a network in evaluation mode, and compare with its annotation.

    Every number is the sum of a map at full size over a region: all of the image or its mask, the
    cells of GAME, the foreground (where the target density map is above `FOREGROUND`). The last
    two are left out, None, unless `regions`.

    Raises:
        InputError: the image is too small, or does not fit into the device's memory.
    """
    prediction = predict(model, sample)
    region, people = counted(sample)
    on_device = region.to(prediction.density.device)
    masked = prediction if sample.mask is None else prediction.masked(on_device[None, None])
    by_map = tuple(masked.counts(masked.maps)[0].tolist())
    if not sample.annotated:
        unknown = math.nan
        return ImageCount(sample.name, unknown, unknown, by_map, (unknown,) * 4, (unknown,) * 2)
    if not regions:
        return ImageCount(sample.name, sample.count, len(people), by_map)
    density = prediction.full_size()[0, 0] * on_device
    target = density_map(people.to(density.device), sample.size, sigma=sigma, window=window)
    foreground = target > FOREGROUND
    return ImageCount(
        name=sample.name,
        true=sample.count,
        inside=len(people),
        by_map=by_map,
        game=tuple(game_errors(density, people).tolist()),
        foreground=(
            int(people_in(foreground.cpu(), people).sum()),
            (density * foreground).sum().item(),
        ),
    )


def counted(sample: CrowdImage) -> tuple[Tensor, Tensor]:
    """Where people are counted, bool `[H, W]`: all of the image or its mask; and the annotated
    points there, `[n, 2]`."""
    region = torch.ones(sample.size, dtype=torch.bool) if sample.mask is None else sample.mask
    return region, sample.points[people_in(region, sample.points)]


@torch.inference_mode()
def predict(model: CountingNetwork, sample: CrowdImage) -> Prediction:
    """The network's maps of one image, whose name is in every error.

    Raises:
        InputError: as `count_image`.
    """
    height, width = sample.size
    try:
        return model(normalise(sample.image.to(next(model.parameters()).device))[None])
    except InputError as error:
        raise InputError(f"{sample.name}: {error}") from None
    except torch.OutOfMemoryError:
        raise InputError(
            f"{sample.name}: {height} x {width} pixels do not fit into the device's memory; "
            "limit the images' longer side"
        ) from None


def process() -> tuple[int, int]:
    """This process's rank and the number of processes that train together."""
    if torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def load_run(run_dir: str | Path, which: str = "best") -> CountingNetwork:
    """The network of a run folder with its "best" or "last" weights, in evaluation mode.

    Raises:
        MissingFileError: there is no run, or it has no such weights yet.
        InputError: it cannot be read, or its weights are of another network.
    """
    run = RunFolder(run_dir)
    model = build_model(run.config()["model"])
    try:
        model.load_state_dict(run.weights(which))
    except RuntimeError:
        raise InputError(
            f"{run.path}: its {which} weights are of another network than its config.json says"
        ) from None
    return model.eval()


def resolve_device(device: str) -> torch.device:
    """ "auto" is the CUDA device where there is one.

    Raises:
        InputError: the device is unknown or not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device is {device!r}, expected 'auto', 'cpu' or 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but torch finds no CUDA device")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def progress_bar(total: int, progress: bool | None) -> tqdm:
    """A bar for `total` steps; hidden if not wanted, with None where nobody watches."""
    if progress is None:  # a terminal, or a notebook that is not run in a batch
        ipython = sys.modules.get("IPython")  # imported by the plots too, outside of a notebook
        notebook = ipython is not None and ipython.get_ipython() is not None
        progress = sys.stderr.isatty() or (notebook and not os.environ.get("HMODE_STATIC"))
    return tqdm(total=total, disable=not progress or process()[0] > 0)
