"""Networks that come with the package: stored in 8 bits, each with a card of what is known of it.

A network NAME is three files of hmode/weights: NAME.safetensors, its weights; NAME.json, its card;
NAME.csv, what it counted in images it was not trained on, numbers only.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hmode.counting import fitted
from hmode.data import CrowdImage, hold_out
from hmode.data.catalogue import CATALOGUE
from hmode.doubts import Doubts, darkness
from hmode.errors import InputError, MissingFileError
from hmode.evaluation import evaluate, load_run
from hmode.metrics import Evaluation
from hmode.metrics.evaluation import GAME_COLUMNS
from hmode.models import CountingNetwork, outline
from hmode.models.weights import require_fit
from hmode.profiles import Schedule
from hmode.runs import RunFolder, read_csv, read_json, write_atomically, write_csv
from hmode.training import fit

FOLDER = Path(__file__).parent / "weights"
SCALE = ".scale"  # what the name of a convolution's scales adds to that of its weights


@dataclass(frozen=True)
class Card:
    """What is known of a network.

    Attributes:
        name: what `pretrained` takes.
        data, terms: what it was trained on, and on what terms these data are given.
        model: arguments of `build_model`.
        sha256, bytes: of the weights file.
        working_pixels: every picture is brought to so many before it is counted; None: to none.
        fewest, most, darkest: of the training images: people, and mean grey value, 0 to 255.
        training: configuration and device of the training, as its run folder has them.
        errors: by split ("test at its own size": by the training itself, before the weights were
            rounded, every image as it is): images, mae, mse (the root), nae, game0 to game3 and
            bias (mean error), in people.
    """

    name: str
    data: str
    terms: str
    model: dict
    sha256: str
    bytes: int
    working_pixels: int | None
    fewest: int
    most: int
    darkest: float
    training: dict
    errors: dict[str, dict[str, float]]

    @classmethod
    def read(cls, name: str, folder: Path = FOLDER) -> "Card":
        """The card of a network that comes with the package.

        Raises:
            InputError: there is no such network, or its card is damaged.
        """
        path = folder / f"{name}.json"
        if not path.is_file():
            raise MissingFileError(
                f"network is {name!r}, expected one of those that come with hmode: {names(folder)}"
            )
        found = read_json(path)
        expected = {each.name for each in fields(cls)}
        if not isinstance(found, dict) or found.keys() != expected:
            raise InputError(f"{path}: not a network's card, expected {sorted(expected)}")
        return cls(**found)

    def network(self, folder: Path = FOLDER) -> CountingNetwork:
        """The network, in evaluation mode, its weights widened to float32.

        Raises:
            InputError: its file is missing or damaged.
        """
        path = folder / f"{self.name}.safetensors"
        model = outline(self.model)
        state = read_weights(path, self.sha256)
        require_fit(state, model.state_dict(), f"{path}: not of the network of its card")
        model.load_state_dict(state, assign=True)
        model.initial_weights = f"{self.name}:{self.sha256[:16]}"
        model.working_pixels = self.working_pixels
        return model.eval()

    def doubts(self, folder: Path = FOLDER) -> Doubts:
        """What speaks against its counts, with its errors on test images to judge by."""
        rows = read_csv(folder / f"{self.name}.csv")
        rows = [row for row in rows if row["split"].startswith("test")]
        seen = np.array([[float(row["true"]), float(row["predicted"])] for row in rows])
        densest = self.working_pixels and self.most / self.working_pixels
        drawn = ("trained on drawings",) * (self.data.partition(" ")[0] not in CATALOGUE)
        return Doubts(drawn, densest, self.fewest, self.darkest, seen)


def names(folder: Path = FOLDER) -> list[str]:
    """The networks that come with the package."""
    return sorted(path.stem for path in folder.glob("*.json"))


def pretrained(name: str, folder: Path = FOLDER) -> CountingNetwork:
    """A network that comes with the package, in evaluation mode, its weights widened to float32.

    Args:
        name: one of those that `hmode models` lists.

    Raises:
        InputError: there is no such network, or its file is damaged.
    """
    return Card.read(name, folder).network(folder)


def narrowed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors with the weights of its convolutions as int8.

    The values of an output channel are multiples of one number, its scale, a 127th of its largest
    magnitude, so that each is off by at most half a scale. All else stays as it is.
    """
    stored = {}
    for name, value in state.items():
        if value.ndim < 2 or not value.is_floating_point():
            stored[name] = value
            continue
        largest = value.float().flatten(1).abs().amax(dim=1)
        scale = largest.clamp(min=torch.finfo(torch.float32).tiny) / 127
        stored[name] = (value.float() / _beside(scale, value)).round().to(torch.int8)
        stored[name + SCALE] = scale
    return stored


def widened(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `narrowed` was given, up to its rounding, the narrow ones as float32."""
    state = {}
    for name, value in stored.items():
        scale = stored.get(name + SCALE)
        if scale is not None:
            state[name] = value.float() * _beside(scale, value)
        elif name.removesuffix(SCALE) not in stored or not name.endswith(SCALE):
            state[name] = value
    return state


def _beside(scale: Tensor, value: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (value.ndim - 1))


def write_weights(path: Path, state: dict[str, Tensor]) -> str:
    """Store a network's tensors in 8 bits; returns the file's SHA-256."""
    content = save({name: each.contiguous() for name, each in narrowed(state).items()})
    write_atomically(path, lambda partial: partial.write_bytes(content))
    return hashlib.sha256(content).hexdigest()


def read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """A network's tensors from a file of `write_weights`.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is another than the one with this hash, or no file of tensors.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: no such weights")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise InputError(
            f"{path}: damaged, or of another version: its SHA-256 is {found[:16]}…, its card says "
            f"{sha256[:16]}…"
        )
    try:
        return widened(load(content))
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable weights file: {error}") from None


def pack(
    run_dir: Path,
    name: str,
    train: Sequence[CrowdImage],
    tests: dict[str, Sequence[CrowdImage]],
    *,
    working_pixels: int | None = None,
    folder: Path = FOLDER,
    progress: bool | None = None,
) -> Card:
    """Make a run's network one that comes with the package: its weights, its counts, its card.

    What is counted, at the working size, is what was stored, in 8 bits.

    Args:
        run_dir: of a finished training, or of one that has weights.
        name: of the network.
        train, tests: what it was trained on, and by split ("test") what it was not.
        working_pixels, folder: see `Card`.
        progress: show a bar; None: where somebody watches.
    """
    run, config = RunFolder(run_dir), RunFolder(run_dir).config()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    digest = write_weights(path, load_run(run_dir).state_dict())
    data, entry = config["train"]["name"], CATALOGUE.get(config["train"]["name"])
    people, greys = zip(*((sample.count, darkness(sample.image)) for sample in train), strict=True)
    result = run.path / "result.json"
    record = read_json(result) if result.is_file() else {}
    card = Card(
        name=name,
        data=f"{data} ({entry.title if entry else 'drawn'}), {len(train)} training images",
        terms=entry.licence if entry else "drawn by this package, as which it is licensed",
        model=config["model"],
        sha256=digest,
        bytes=path.stat().st_size,
        working_pixels=working_pixels,
        fewest=min(people),
        most=max(people),
        darkest=round(min(greys), 3),
        training={
            "initial_weights": config.get("initial_weights"),
            "seed": config.get("seed"),
            "schedule": config.get("schedule"),
            "config": run.identity(),
            **{key: record.get(key) for key in ("device", "torch", "precision", "seconds")},
        },
        errors={},
    )
    own_size = Evaluation.from_table(stored) if (stored := run.table("test.csv")) else None
    return judge(card, tests, own_size, folder=folder, progress=progress)


def judge(
    card: Card,
    tests: dict[str, Sequence[CrowdImage]],
    own_size: Evaluation | None,
    *,
    folder: Path = FOLDER,
    progress: bool | None = None,
) -> Card:
    """Count test images with a stored network, at its working size; store the counts, and the card
    with their errors.

    Args:
        card, tests, folder, progress: see `pack`.
        own_size: of the network before its weights were rounded, every image as it is.
    """
    model = card.network(folder)
    results = {
        split: evaluate(model, at_working_sizes(images, card.working_pixels), progress=progress)
        for split, images in tests.items()
    }
    if own_size is not None:
        results["test at its own size"] = own_size
    name = card.name
    write_csv(folder / f"{name}.csv", [row for split in results for row in _rows(split, results)])
    card = replace(card, errors={split: summary(result) for split, result in results.items()})
    text = json.dumps(asdict(card), indent=2) + "\n"
    write_atomically(folder / f"{name}.json", lambda partial: partial.write_text(text))
    return card


def finetune(
    name: str,
    images: Sequence[CrowdImage],
    run_dir: str | Path,
    *,
    epochs: int = 20,
    learning_rate: float = 1e-4,
    crop: int = 128,
    seed: int = 0,
    device: str = "auto",
    progress: bool | None = None,
    folder: Path = FOLDER,
) -> CountingNetwork:
    """A network that comes with the package, trained on with one's own images, its encoder fixed.

    A fifth of the images is held out to choose the epoch on. The run folder is one like others:
    `hmode count --weights RUN` counts with it, at the same working size.

    Args:
        images: annotated, at least two, as of `open_dataset("folder", …)`.
        run_dir, seed, device, progress: see `fit`.
        epochs, learning_rate, crop: of the training; see `Schedule`.

    Raises:
        InputError: as `pretrained` and `fit`; or there are fewer than two images.
    """
    model = pretrained(name, folder)
    model.freeze("encoder")
    train, validation = hold_out(at_working_sizes(images, model.working_pixels), fraction=0.2)
    schedule = Schedule(
        epochs=epochs,
        batch_size=min(8, len(train)),
        crop=crop,
        learning_rate=learning_rate,
        halve_after=(),
        average=0.9,
        validate_every=max(1, epochs // 5),
    )
    more = {"run_dir": run_dir, "seed": seed, "device": device, "progress": progress}
    fit(model, train, validation, schedule, **more)
    return model.eval()


def summary(result: Evaluation) -> dict[str, float]:
    """The errors of a card, rounded to a thousandth."""
    kept = ("mae", "mse", "nae", *GAME_COLUMNS)
    errors = {key: round(result.errors[key], 3) for key in kept}
    bias = round(float((result.predicted - result.true).mean()), 3)
    return {"images": len(result.names), **errors, "bias": bias}


def at_working_sizes(images: Sequence[CrowdImage], working_pixels: int | None) -> list[CrowdImage]:
    """Annotated images at the size at which `hmode.count` would count them."""
    return [at_working_size(images[i], working_pixels) for i in range(len(images))]


def at_working_size(sample: CrowdImage, working_pixels: int | None) -> CrowdImage:
    """One of them; its points go with it."""
    image = fitted(sample.image, working_pixels)
    factor = torch.tensor(image.shape[:0:-1]) / torch.tensor(sample.image.shape[:0:-1])
    return CrowdImage(image, (sample.points * factor).float(), sample.name)


def _rows(split: str, results: dict[str, Evaluation]) -> Iterator[dict]:
    for row in results[split].table:
        kept = {key: round(float(row[key]), 3) for key in ("true", "predicted", *GAME_COLUMNS)}
        yield {"split": split, "image": row["name"], **kept}
