"""Sizes and schedules: how large a network, how long a training, on how much data.

`smoke` takes seconds and shows that everything runs; `small` trains a network in about a minute on
one CPU core, so that every row of every table can be trained over seeds; `quick` teaches on a
laptop's CPU; `full` is the paper's network on images of their own size, its encoder pretrained on
ImageNet, with a schedule a few times shorter; `photos` is that with all but the encoder at a
quarter of the width, for a network that is small enough to pass on; `paper` is the paper's own
setting (section IV-B.2). The environment variables HMODE_WEIGHTS (what `weights` may be, see
`EncoderDecoder`, or "none") and HMODE_PRECISION (one of `PRECISIONS`) replace the last three's.
"""

import os
from dataclasses import dataclass, field, replace

from hmode.density import check_window
from hmode.errors import InputError
from hmode.losses.total import LossSettings

DRAWN = ("synthetic", "scales", "order")  # the data sets that are drawn on the fly
PRECISIONS = ("auto", "no", "tf32", "bf16", "fp16")


@dataclass(frozen=True)
class Schedule:
    """How to train: what `fit` does with a network.

    Attributes:
        epochs: passes over the training set, one crop of every image each.
        batch_size: crops per step, over all processes.
        crop: side of the square crops in pixels, a multiple of 32.
        learning_rate: Adam's.
        halve_after: epochs after which the learning rate is halved.
        validate_every: epochs between validations; the last epoch is always validated.
        checkpoint_every: epochs between checkpoints, from which an interrupted run goes on.
        sigma, window: of the target density maps, see `density_map`; pixels.
        average: decay of the running average of weights and batch norm statistics that is
            validated and kept, in [0, 1); 0 keeps the last weights themselves. From scratch in
            batches of 8 crops, batch norm's statistics alone let counts of whole images swing by
            tens of per cent from epoch to epoch; averaged over 100 steps (0.99) they do not.
        precision: "no" (float32 in full), "tf32" (float32 whose convolutions a GPU rounds to TF32,
            as torch does unless told otherwise), "bf16" or "fp16" (autocast: layers in 16 bits,
            density maps, losses and weights in float32), or "auto" (see `resolve_precision`:
            bf16 where the device is made for it; what it was stands in a run's result.json).
        loss: the loss settings.

    Raises:
        InputError: a value is out of its range.
    """

    epochs: int = 200
    batch_size: int = 8
    crop: int = 256
    learning_rate: float = 2e-5
    halve_after: tuple[int, ...] = (100,)
    validate_every: int = 1
    checkpoint_every: int = 1
    sigma: float = 4.0
    window: int | None = None
    average: float = 0.0
    precision: str = "no"
    loss: LossSettings = field(default_factory=LossSettings)

    def __post_init__(self):
        for name in ("epochs", "batch_size", "validate_every", "checkpoint_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}, expected a positive whole number")
        if not isinstance(self.crop, int) or self.crop < 32 or self.crop % 32:
            raise InputError(f"crop is {self.crop!r}, expected a positive multiple of 32")
        for name in ("learning_rate", "sigma"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)!r}, expected a positive number")
        check_window(self.window)
        if not 0 <= self.average < 1:
            raise InputError(f"average is {self.average!r}, expected a number in [0, 1)")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}, expected one of {PRECISIONS}")

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return self.learning_rate * 0.5 ** sum(epoch >= after for after in self.halve_after)


@dataclass(frozen=True)
class Profile:
    """One setting of every size: the network's width, the schedule, the data.

    Attributes:
        name: one of `PROFILES`.
        width: relative number of channels.
        encoder_width: of the encoder's, where they are others.
        weights: the encoder's initial weights, see `HMoDE`.
        schedule: how to train.
        large_crop: side of the crops of Table II's "Ours*".
        watch_test: whether the test MAE is followed during training; beside the training of a few
            hundred crops, counting a whole test set again and again is what takes the time.
        train, test: options of `open_dataset` for the training and the test split.
        limit: use at most so many images of a split; None: all.
    """

    name: str
    width: float
    schedule: Schedule
    weights: str | None = None
    encoder_width: float | None = None
    large_crop: int = 512
    watch_test: bool = True
    train: dict = field(default_factory=dict)
    test: dict = field(default_factory=dict)
    limit: int | None = None

    @property
    def model(self) -> dict:
        """What the profile says of a network, as arguments of `build_model`."""
        wider = {} if self.encoder_width is None else {"encoder_width": self.encoder_width}
        return {"width": self.width, **wider}


PROFILES = ("smoke", "small", "quick", "full", "photos", "paper")


def load_profile(name: str, dataset: str) -> Profile:
    """The profile of that name for a data set.

    Raises:
        InputError: there is no such profile.
    """
    if name not in PROFILES:
        raise InputError(f"profile is {name!r}, expected one of {PROFILES}")
    make = {
        "smoke": _smoke,
        "small": _small,
        "quick": _quick,
        "full": _full,
        "photos": _photos,
        "paper": _paper,
    }
    return make[name](dataset)


def _smoke(dataset: str) -> Profile:
    schedule = Schedule(epochs=2, batch_size=4, crop=64, learning_rate=1e-3, halve_after=())
    profile = Profile("smoke", 0.0625, schedule, large_crop=128, limit=8)
    if dataset in DRAWN:
        options = {"size": 128}
        return replace(profile, train={**options, "length": 8}, test={**options, "length": 4})
    return replace(profile, train={"max_side": 256}, test={"max_side": 256})


def _small(dataset: str) -> Profile:
    schedule = Schedule(
        epochs=32,
        batch_size=16,
        crop=64,
        learning_rate=1e-3,
        halve_after=(16, 21, 26, 29),
        average=0.98,
        validate_every=8,
        checkpoint_every=8,
        sigma=2.0,
    )
    profile = Profile("small", 0.125, schedule, large_crop=128)
    if dataset in DRAWN:
        options = {"size": 128}
        return replace(profile, train={**options, "length": 240}, test={**options, "length": 120})
    return replace(profile, train={"max_side": 256}, test={"max_side": 256})


def _quick(dataset: str) -> Profile:
    # From scratch larger steps than the paper's are needed; with 1e-3 gating net 2 saturates within
    # the first epoch on a single group and stays there.
    schedule = Schedule(
        epochs=15,
        batch_size=8,
        crop=128,
        learning_rate=3e-4,
        halve_after=(9, 11, 13, 14),
        average=0.98,
        validate_every=5,
    )
    profile = Profile("quick", 0.25, schedule, large_crop=256)
    if dataset in DRAWN:
        return replace(profile, train={"length": 160}, test={"length": 60})
    schedule = replace(
        schedule, epochs=32, halve_after=(17, 21, 25, 29), average=0.99, validate_every=8
    )
    return replace(profile, schedule=schedule, train={"max_side": 512}, test={"max_side": 512})


def _full(dataset: str) -> Profile:
    # Tries of other rates and lengths ended within the noise of 30 held-out images
    # (figures/full/sha/tries.csv); the paper's ten times lower rate over 200 epochs is better.
    schedule = Schedule(
        epochs=40,
        learning_rate=1e-4,
        halve_after=(24, 30, 36),
        average=0.99,
        validate_every=5,
        checkpoint_every=5,
    )
    return _at_full_size("full", schedule, dataset)


def _paper(dataset: str) -> Profile:
    return _at_full_size("paper", Schedule(validate_every=5, checkpoint_every=25), dataset)


def _photos(dataset: str) -> Profile:
    schedule = Schedule(
        epochs=100,
        learning_rate=2e-4,
        halve_after=(60, 75, 90),
        average=0.99,
        validate_every=5,
        checkpoint_every=5,
    )
    profile = _at_full_size("photos", schedule, dataset)
    return replace(profile, width=0.25, encoder_width=1.0)


def _at_full_size(name: str, schedule: Schedule, dataset: str) -> Profile:
    """The full width from ImageNet weights, on images at their own size."""
    crop = 128 if dataset in ("sha", *DRAWN) else 256
    precision = os.environ.get("HMODE_PRECISION", "auto")
    weights = os.environ.get("HMODE_WEIGHTS", "imagenet")
    weights = None if weights == "none" else weights
    schedule = replace(schedule, crop=crop, precision=precision)
    return Profile(name, 1.0, schedule, weights=weights, watch_test=False)
