"""Counting whole data sets with a trained network."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from hmode.data import CrowdImage, normalise
from hmode.device import process, progress_bar, resolve_device
from hmode.errors import InputError
from hmode.fast.memory import kept_memory
from hmode.method.density import density_map
from hmode.metrics import FOREGROUND, Evaluation, ImageCount, game_errors, people_in
from hmode.models import CountingNetwork, Prediction, for_inference, outline
from hmode.models.weights import require_fit
from hmode.runs import RunFolder

__all__ = ["count_images", "counted", "evaluate", "load_run", "predict", "resolve_device"]

# Pixels that are counted at once: more no longer fit into a processor's cache; a GPU has room.
BATCH = {"cpu": 2**18, "cuda": 2**23}


def evaluate(
    model: CountingNetwork,
    dataset: Sequence[CrowdImage],
    *,
    sigma: float = 4.0,
    window: int | None = None,
    regions: bool = True,
    progress: bool | None = False,
) -> Evaluation:
    """Count every image of a data set, whole, on the device the model is on.

    Neighbours of equal size are counted together, which changes no count beyond rounding. Under
    `torchrun` or `accelerate launch` every process counts its share, and all get the whole.

    Args:
        model: in training mode or not; is left as it is.
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
    with kept_memory():
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
    progress: bool | None = False,
    **compared,
) -> Iterator[ImageCount]:
    """Count this process's share of a data set, every world-th image from its rank on.

    What `evaluate` gathers. Arguments, those of `compare` among them, and errors are its own.
    """
    rank, world = process()
    folded = for_inference(model)
    mine = (dataset[i] for i in range(rank, len(dataset), world))
    with progress_bar(len(dataset), progress, type(model).__name__) as bar:
        for samples in together(mine, BATCH.get(next(model.parameters()).device.type, 2**18)):
            for sample, prediction in zip(samples, predictions(folded, samples), strict=True):
                yield compare(prediction, sample, **compared)
                bar.update()


def together(images: Iterable[CrowdImage], most: int) -> Iterator[list[CrowdImage]]:
    """Neighbours of equal size as batches of at most so many pixels, or of one image."""
    batch: list[CrowdImage] = []
    for sample in images:
        height, width = sample.size
        if batch and (sample.size != batch[0].size or (len(batch) + 1) * height * width > most):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def compare(
    prediction: Prediction,
    sample: CrowdImage,
    *,
    sigma: float = 4.0,
    window: int | None = None,
    regions: bool = True,
) -> ImageCount:
    """What a prediction counts in one image, compared with its annotation.

    Every number is the sum of a map at full size over a region: all of the image or its mask, the
    cells of GAME, the foreground (where the target density map is above `FOREGROUND`). The last
    two are left out, None, unless `regions`.

    Args:
        prediction: of that image alone, a batch of one.
        sample, sigma, window, regions: see `evaluate`.
    """
    region, people = counted(sample)
    masked = prediction
    if sample.mask is not None:
        region = region.to(prediction.density.device)
        masked = prediction.masked(region[None, None])
    by_map = tuple(masked.counts(masked.maps)[0].tolist())
    if not sample.annotated:
        unknown = math.nan
        return ImageCount(sample.name, unknown, unknown, by_map, (unknown,) * 4, (unknown,) * 2)
    if not regions:
        return ImageCount(sample.name, sample.count, len(people), by_map)
    density = prediction.full_size()[0, 0]
    density = density if sample.mask is None else density * region
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
    everywhere = torch.ones((), dtype=torch.bool).expand(sample.size)
    region = everywhere if sample.mask is None else sample.mask
    return region, sample.points[people_in(region, sample.points)]


def predict(model: CountingNetwork, sample: CrowdImage) -> Prediction:
    """The network's maps of one image, whose name is in every error.

    Raises:
        InputError: the image is too small, or does not fit into the device's memory.
    """
    return predictions(model, [sample])[0]


@torch.inference_mode()
def predictions(model: CountingNetwork, samples: list[CrowdImage]) -> list[Prediction]:
    """The network's maps of images of one size, computed at once where they fit into memory.

    Raises:
        InputError: as `predict`.
    """
    device, (height, width) = next(model.parameters()).device, samples[0].size
    try:
        batch = model(normalise(torch.stack([each.image.to(device) for each in samples])))
        return [batch.image(i) for i in range(len(samples))]
    except InputError as error:
        raise InputError(f"{samples[0].name}: {error}") from None
    except torch.OutOfMemoryError:
        if len(samples) == 1:
            raise InputError(
                f"{samples[0].name}: {height} x {width} pixels do not fit into the device's "
                "memory; limit the images' longer side"
            ) from None
    return [predict(model, each) for each in samples]


def load_run(run_dir: str | Path, which: str = "best") -> CountingNetwork:
    """The network of a run folder with its "best" or "last" weights, in evaluation mode.

    Raises:
        MissingFileError: there is no run, or it has no such weights yet.
        InputError: it cannot be read, or its weights are of another network.
    """
    run = RunFolder(run_dir)
    model = outline(run.config()["model"])
    weights = run.weights(which)
    path = run.path / f"{which}.safetensors"
    require_fit(weights, model.state_dict(), f"{path}: not of the network of its config.json")
    model.load_state_dict(weights, assign=True)
    model.working_pixels = run.config().get("working_pixels")
    return model.eval()
