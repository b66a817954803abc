"""Sizes and schedules: how large a network, how long a training, on how much data.

`smoke` takes seconds and shows that everything runs; `small` trains a network in about a minute on
one CPU core, so that every row of every table can be trained over seeds; `quick` teaches on a
laptop's CPU; `full` is the paper's network on images of their own size, its encoder pretrained on
ImageNet, with a schedule a few times shorter; `photos` is that with all but the encoder at a
quarter of the width, for a network that is small enough to pass on; `paper` is the paper's own
setting (section IV-B.2). The environment variables HMODE_WEIGHTS (what `weights` may be, see
`hmode.models.network.Encoder`, or "none") and HMODE_PRECISION (one of `PRECISIONS`) replace the
last three's.
"""

import os
from dataclasses import dataclass, field, replace

from hmode.errors import InputError
from hmode.losses.settings import LossSettings
from hmode.method import training

PRECISIONS = ("auto", "no", "tf32", "bf16", "fp16")
DRAWN = ("synthetic", "scales", "order")  # the data sets that are drawn on the fly


@dataclass(frozen=True)
class Schedule(training.Schedule):
    """How to train a network, and what is kept of it; the default is the paper's.

    Attributes:
        epochs, batch_size, crop, learning_rate, halve_after, sigma, window: see
            `hmode.method.training.Schedule`.
        loss: the loss settings, those of all variants among them.
        validate_every: epochs between validations; the last epoch is always validated.
        checkpoint_every: epochs between checkpoints, from which an interrupted run goes on; where
            they take long there are more (`hmode.training.PATIENCE`).
        average: decay of the running average of weights and batch norm statistics that is
            validated and kept, in [0, 1); 0 keeps the last weights themselves. From scratch in
            batches of 8 crops, batch norm's statistics alone let counts of whole images swing by
            tens of per cent from epoch to epoch; averaged over 100 steps (0.99) they do not.
        precision: "no" (float32 in full), "tf32" (float32 whose convolutions a GPU rounds to TF32,
            as torch does unless told otherwise), "bf16" or "fp16" (autocast: layers in 16 bits,
            density maps, losses and weights in float32), or "auto" (see `resolve_precision`:
            bf16 where the device is made for it; what it was stands in a run's result.json).

    Raises:
        InputError: a value is out of its range.
    """

    loss: LossSettings = field(default_factory=LossSettings)
    validate_every: int = 1
    checkpoint_every: int = 1
    average: float = 0.0
    precision: str = "no"

    def __post_init__(self):
        super().__post_init__()
        for name in ("validate_every", "checkpoint_every"):
            training.require_positive(self, name)
        if not 0 <= self.average < 1:
            raise InputError(f"average is {self.average!r}, expected a number in [0, 1)")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}, expected one of {PRECISIONS}")


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


# Of each profile all but what depends on the data set.
SIZES = {
    "smoke": Profile(
        "smoke",
        0.0625,
        Schedule(epochs=2, batch_size=4, crop=64, learning_rate=1e-3, halve_after=()),
        large_crop=128,
        limit=8,
    ),
    "small": Profile(
        "small",
        0.125,
        Schedule(
            epochs=32,
            batch_size=16,
            crop=64,
            learning_rate=1e-3,
            halve_after=(16, 21, 26, 29),
            average=0.98,
            validate_every=8,
            checkpoint_every=8,
            sigma=2.0,
        ),
        large_crop=128,
    ),
    # From scratch larger steps than the paper's are needed; with 1e-3 gating net 2 saturates within
    # the first epoch on a single group and stays there.
    "quick": Profile(
        "quick",
        0.25,
        Schedule(
            epochs=15,
            batch_size=8,
            crop=128,
            learning_rate=3e-4,
            halve_after=(9, 11, 13, 14),
            average=0.98,
            validate_every=5,
        ),
        large_crop=256,
    ),
    # Tries of other rates and lengths ended within the noise of 30 held-out images
    # (figures/full/sha/tries.csv); the paper's ten times lower rate over 200 epochs is better.
    "full": Profile(
        "full",
        1.0,
        Schedule(
            epochs=40,
            learning_rate=1e-4,
            halve_after=(24, 30, 36),
            average=0.99,
            validate_every=5,
            checkpoint_every=5,
        ),
    ),
    "photos": Profile(
        "photos",
        0.25,
        Schedule(
            epochs=100,
            learning_rate=2e-4,
            halve_after=(60, 75, 90),
            average=0.99,
            validate_every=5,
            checkpoint_every=5,
        ),
        encoder_width=1.0,
    ),
    "paper": Profile("paper", 1.0, Schedule(validate_every=5, checkpoint_every=25)),
}
PROFILES = tuple(SIZES)
# Options of the drawn data sets for training and test, and the longer side of photographs; profiles
# that are not here take images at their own size and start from ImageNet.
DATA = {
    "smoke": ({"size": 128, "length": 8}, {"size": 128, "length": 4}, 256),
    "small": ({"size": 128, "length": 240}, {"size": 128, "length": 120}, 256),
    "quick": ({"length": 160}, {"length": 60}, 512),
}


def load_profile(name: str, dataset: str) -> Profile:
    """The profile of that name for a data set.

    Raises:
        InputError: there is no such profile.
    """
    if name not in PROFILES:
        raise InputError(f"profile is {name!r}, expected one of {PROFILES}")
    profile = SIZES[name]
    if name not in DATA:
        crop = 128 if dataset in ("sha", *DRAWN) else 256
        precision = os.environ.get("HMODE_PRECISION", "auto")
        weights = os.environ.get("HMODE_WEIGHTS", "imagenet")
        return replace(
            profile,
            schedule=replace(profile.schedule, crop=crop, precision=precision),
            weights=None if weights == "none" else weights,
            watch_test=False,
        )
    train, test, side = DATA[name]
    if dataset in DRAWN:
        return replace(profile, train=train, test=test)
    longer = {"epochs": 32, "halve_after": (17, 21, 25, 29), "average": 0.99, "validate_every": 8}
    return replace(
        profile,
        schedule=replace(profile.schedule, **longer if name == "quick" else {}),
        train={"max_side": side},
        test={"max_side": side},
    )
