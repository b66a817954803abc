"""Counting whole data sets with a trained network."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from hmode.data import CrowdImage, normalise
from hmode.errors import InputError
from hmode.metrics import Evaluation
from hmode.models import CountingNetwork, build_model
from hmode.runs import RunFolder


def evaluate(
    model: CountingNetwork, dataset: Sequence[CrowdImage], *, progress: bool | None = False
) -> Evaluation:
    """Count every image of a data set, whole, on the device the model is on.

    Under `torchrun` or `accelerate launch` every process counts its share, and all get the whole.

    Args:
        model: is put into evaluation mode and back.
        dataset: at least one image, each with sides of at least 32 pixels.
        progress: show a bar; None: where somebody watches.

    Raises:
        InputError: the data set is empty, or an image cannot be read or is too small.
    """
    if len(dataset) == 0:
        raise InputError("the data set to evaluate on is empty")
    rank, world = process()
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    rows = []
    try:
        with torch.inference_mode(), progress_bar(len(dataset), progress) as bar:
            for i in range(rank, len(dataset), world):
                rows.append((i, *_count(model, dataset[i], device)))
                bar.update()
    finally:
        model.train(was_training)
    if world > 1:
        rows = sorted(gather_object(rows), key=lambda row: row[0])
    _, names, true, inside, by_map = zip(*rows, strict=True)
    return Evaluation(
        list(names), np.array(true, float), np.array(inside, float), np.array(by_map, float)
    )


def process() -> tuple[int, int]:
    """This process's rank and the number of processes that train together."""
    if torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _count(model, sample: CrowdImage, device) -> tuple[str, int, int, np.ndarray]:
    """One image's name, annotated people, those inside the frame, and each map's count."""
    try:
        prediction = model(normalise(sample.image.to(device))[None])
    except InputError as error:
        raise InputError(f"{sample.name}: {error}") from None
    height, width = sample.size
    x, y = sample.points.unbind(1)
    inside = int(((x >= 0) & (x < width) & (y >= 0) & (y < height)).sum())
    counts = prediction.counts(prediction.maps)[0].cpu().numpy()
    return sample.name, sample.count, inside, counts


def load_run(run_dir: str | Path, which: str = "best") -> CountingNetwork:
    """The network of a run folder with its "best" or "last" weights, in evaluation mode.

    Raises:
        MissingFileError: there is no run, or it has no such weights yet.
    """
    run = RunFolder(run_dir)
    model = build_model(run.config()["model"])
    model.load_state_dict(run.weights(which))
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
        live_notebook = "ipykernel" in sys.modules and not os.environ.get("HMODE_STATIC")
        progress = sys.stderr.isatty() or live_notebook
    return tqdm(total=total, disable=not progress or process()[0] > 0)
