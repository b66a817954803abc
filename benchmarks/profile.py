"""Where the time of a training step and of an evaluation goes, by kind of operation, on the CPU."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from importlib import import_module
from unittest.mock import patch

from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import plain
from benchmarks.ours import our_step, random_network
from benchmarks.work import STEADY
from hmode import evaluate, open_dataset
from hmode.data import CropSampler, normalise
from hmode.fast.memory import kept_memory
from hmode.profiles import load_profile

# What an operation is, by a part of its own name or that of an operation around it.
KINDS = {
    "convolution": ("convolution", "conv2d"),
    "batch norm": ("batch_norm", "batchnorm"),
    "pooling": ("max_pool", "maxpool"),
    "interpolation": ("upsample",),
    "optimiser": ("optimizer.", "foreach"),
    "ReLU and other elementwise": (
        *("relu", "clamp", "threshold", "mul", "add", "sub", "div", "sum", "softmax", "sigmoid"),
        *("cat", "index", "copy", "fill_", "zero_", "slice", "select"),
    ),
}
OTHER = "other, with Python"
WINOGRAD = "convolution, Winograd's"
# Parts that no operation's name tells, by where the function is called: {kind: places}.
STEP_PARTS = {
    "targets": ("hmode.method.training.batch_density_maps", "benchmarks.plain.training.targets"),
    "losses": ("hmode.step.total_loss", "benchmarks.plain.training.total_loss"),
    WINOGRAD: ("hmode.fast.winograd.winograd",),
}
EVALUATION_PARTS = {
    "data": ("hmode.evaluation.normalise",),
    WINOGRAD: ("hmode.fast.winograd.winograd",),
    "folding of batch norms": ("hmode.evaluation.for_inference",),
    "targets": ("hmode.evaluation.density_map",),
    "GAME and foreground": ("hmode.evaluation.compare",),
}
MARK = "part: "
EVALUATED = 8  # images


def profile_step(name: str, batch_size: int = 8, crop: int = 128, *, plainly=False) -> Counter:
    """Seconds by kind of one training step of a profile's network, on synthetic crops.

    With `plainly` of the plain form of that step, memory as the system gives it.
    """
    settings = load_profile(name, "synthetic")
    network, schedule = random_network(settings.width), settings.schedule
    ours = None if plainly else our_step(network, schedule)
    step = ours or plain.PlainStep(network, schedule.learning_rate)
    dataset = open_dataset("synthetic", split="train", length=batch_size)
    sampler = CropSampler(dataset, crop=crop, batch_size=batch_size, seed=0)

    def one(epoch: int):
        with record_function(f"{MARK}data"):
            batch = next(sampler.epoch(epoch))
        step(batch)

    with nullcontext() if plainly else kept_memory():
        for _ in range(STEADY):
            one(0)
        return seconds_by_kind(lambda: one(1), STEP_PARTS)


def profile_evaluation(name: str, *, plainly: bool = False) -> Counter:
    """Seconds by kind of evaluating synthetic images, regions and foreground included.

    With `plainly` of counting them by the plain form, which compares nothing.
    """
    network = random_network(load_profile(name, "synthetic").width)
    images = list(open_dataset("synthetic", split="test", length=EVALUATED))

    def call():
        if not plainly:
            return evaluate(network, images)
        return [plain.count(network, normalise(sample.image)[None]) for sample in images]

    call()
    return seconds_by_kind(call, {} if plainly else EVALUATION_PARTS)


def seconds_by_kind(call: Callable[[], object], parts: dict[str, Iterable[str]]) -> Counter:
    """Run a call under torch's profiler and sum up the time of its operations, by kind.

    Args:
        parts: {kind: functions, as `module.name` where they are called}: all that they do counts
            as that kind, and so does the backward pass of what they do.
    """
    with ExitStack() as stack:
        for kind, places in parts.items():
            for place in places:
                stack.enter_context(patch(place, marked(kind, place)))
        profiler = stack.enter_context(profile(activities=[ProfilerActivity.CPU]))
        with record_function("call"):
            call()
    return sum_up(profiler.events())


def marked(kind: str, place: str) -> Callable:
    """The function at a place, recorded as a part of that kind."""
    module, name = place.rsplit(".", 1)
    return record_function(f"{MARK}{kind}")(getattr(import_module(module), name))


def sum_up(events) -> Counter:
    """Seconds by kind of a profile's events, children not counted twice.

    A backward operation has the sequence number of the forward one: it belongs to its part.
    """
    parts = {
        event.sequence_nr: part
        for event in events
        if event.sequence_nr >= 0 and not is_backward(event) and (part := part_of(event))
    }
    seconds = Counter()
    for event in events:
        backward = (parts.get(e.sequence_nr) for e in around(event) if is_backward(e))
        kind = part_of(event) or next(filter(None, backward), None) or kind_of(event)
        seconds[kind] += event.self_cpu_time_total / 1e6
    return seconds


def around(event) -> Iterator:
    """An event and those around it, innermost first."""
    while event is not None:
        yield event
        event = event.cpu_parent


def is_backward(event) -> bool:
    return event.name.startswith("autograd::")


def part_of(event) -> str | None:
    """The innermost marked part around an event."""
    found = (e.name.removeprefix(MARK) for e in around(event) if e.name.startswith(MARK))
    return next(found, None)


def kind_of(event) -> str:
    """What an operation is, by the outermost name around it that tells."""
    for name in reversed([each.name.lower() for each in around(event)]):
        for kind, signs in KINDS.items():
            if any(sign in name for sign in signs):
                return kind
    return OTHER


def rows(seconds: dict[str, Counter]) -> list[dict]:
    """Shares by kind, a row a kind and a column for what was profiled, the largest first."""
    totals = {name: sum(kinds.values()) for name, kinds in seconds.items()}
    kinds = sum(seconds.values(), Counter())
    table = [
        {"kind": kind} | {name: each[kind] / totals[name] for name, each in seconds.items()}
        for kind, _ in kinds.most_common()
    ]
    return [*table, {"kind": "seconds"} | totals]


def measure_profile() -> list[dict]:
    """The table of docs/benchmarks.md."""
    return rows({
        "step, plain, full width": profile_step("paper", plainly=True),
        "step, full width": profile_step("paper"),
        "step, width 1/4": profile_step("quick"),
        "counting, plain, full width": profile_evaluation("paper", plainly=True),
        "evaluation, full width": profile_evaluation("paper"),
        "evaluation, width 1/4": profile_evaluation("quick"),
    })  # fmt: skip
