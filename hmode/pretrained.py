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
from hmode.evaluation import count_images, load_run, progress_bar
from hmode.metrics import Evaluation, ImageCount
from hmode.metrics.evaluation import GAME_COLUMNS
from hmode.models import CountingNetwork, build_model
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
    card = Card.read(name, folder)
    path = folder / f"{name}.safetensors"
    with torch.device("meta"):
        model = build_model(card.model)
    state = read_weights(path, card.sha256)
    require_fit(state, model.state_dict(), f"{path}: not of the network of its card")
    model.load_state_dict(state, assign=True)
    model.initial_weights = f"{name}:{card.sha256[:16]}"
    model.working_pixels = card.working_pixels
    return model.eval()


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
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such weights") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
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
    run = RunFolder(run_dir)
    model, config = load_run(run_dir), run.config()
    folder.mkdir(parents=True, exist_ok=True)
    digest = write_weights(folder / f"{name}.safetensors", model.state_dict())
    record = read_json(run.path / "result.json") if (run.path / "result.json").is_file() else {}
    data, count = config["train"]["name"], len(train)
    entry = CATALOGUE.get(data)
    people, greys = zip(*((sample.count, darkness(sample.image)) for sample in train), strict=True)
    card = Card(
        name=name,
        data=f"{data} ({entry.title if entry else 'drawn'}), {count} training images",
        terms=entry.licence if entry else "drawn by this package, as which it is licensed",
        model=model.config,
        sha256=digest,
        bytes=(folder / f"{name}.safetensors").stat().st_size,
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
    write_atomically(folder / f"{name}.json", lambda path: _write_card(path, card))
    packed = pretrained(name, folder)
    results = {
        split: Evaluation.of(list(_count(packed, images, progress)))
        for split, images in tests.items()
    }
    if stored := run.table("test.csv"):
        results["test at its own size"] = Evaluation.from_table(stored)
    errors = {split: summary(result) for split, result in results.items()}
    rows = [row for split, result in results.items() for row in _rows(split, result)]
    write_csv(folder / f"{name}.csv", rows)
    card = replace(card, errors=errors)
    write_atomically(folder / f"{name}.json", lambda path: _write_card(path, card))
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
    fitting = [at_working_size(images[i], model.working_pixels) for i in range(len(images))]
    train, validation = hold_out(fitting, fraction=0.2)
    schedule = Schedule(
        epochs=epochs,
        batch_size=min(8, len(train)),
        crop=crop,
        learning_rate=learning_rate,
        halve_after=(),
        average=0.9,
        validate_every=max(1, epochs // 5),
    )
    options = {"run_dir": run_dir, "seed": seed, "device": device, "progress": progress}
    fit(model, train, validation, schedule, **options)
    return model.eval()


def summary(result: Evaluation) -> dict[str, float]:
    """The errors of a card, rounded to a thousandth."""
    kept = ("mae", "mse", "nae", *GAME_COLUMNS)
    errors = {key: round(result.errors[key], 3) for key in kept}
    bias = round(float((result.predicted - result.true).mean()), 3)
    return {"images": len(result.names), **errors, "bias": bias}


def _write_card(path: Path, card: Card) -> None:
    path.write_text(json.dumps(asdict(card), indent=2) + "\n", encoding="utf-8")


def _count(model, images, progress) -> Iterator[ImageCount]:
    with progress_bar(len(images), progress) as bar:
        for i in range(len(images)):
            yield from count_images(model, [at_working_size(images[i], model.working_pixels)])
            bar.update()


def at_working_size(sample: CrowdImage, working_pixels: int | None) -> CrowdImage:
    """An annotated image at the size at which `hmode.count` would count it."""
    image = fitted(sample.image, working_pixels)
    factor = torch.tensor(image.shape[:0:-1]) / torch.tensor(sample.image.shape[:0:-1])
    return CrowdImage(image, (sample.points * factor).float(), sample.name)


def _rows(split: str, result: Evaluation) -> Iterator[dict]:
    for row in result.table:
        kept = {key: round(float(row[key]), 3) for key in ("true", "predicted", *GAME_COLUMNS)}
        yield {"split": split, "image": row["name"], **kept}
