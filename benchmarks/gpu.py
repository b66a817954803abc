"""Everything that is measured on a GPU, in one command of less than eight minutes:

    python -m benchmarks.gpu            # writes docs/benchmarks/gpu.csv
    python -m benchmarks.gpu --tiny     # the same code at a toy size, on the CPU too

A part that fails is written down as failed, and the others go on. Crops and images are noise: what
is measured is time and memory.
"""

import platform
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch

import hmode
from benchmarks import plain
from benchmarks.limits import copy_bandwidth, median_seconds, product_rates
from benchmarks.measure import flops, peak_memory
from benchmarks.ours import our_count, our_inference, our_targets, random_batch, random_network
from benchmarks.work import trained_norms
from hmode.data import CrowdImage
from hmode.data.crops import Batch
from hmode.device import equal_sizes, float32_products, make_accelerator
from hmode.fast.graphs import CapturedStep, can_be_captured
from hmode.profiles import Schedule
from hmode.runs import write_csv
from hmode.step import Compute, TrainingStep

DTYPES = {"no": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Sizes:
    """How large everything is; `TINY` tries the code."""

    device: str = "cuda"
    width: float = 1.0
    steps: tuple = ((128, 1), (128, 8), (128, 16), (128, 32), (256, 8), (256, 32))  # (crop, batch)
    small: tuple[int, int] = (128, 8)
    large: tuple[int, int] = (256, 32)
    repetitions: int = 20
    images: int = 300  # of a training set, and a tenth of it to validate on
    epochs: int = 200
    image_size: tuple[int, int] = (592, 872)  # about the mean of ShanghaiTech A
    whole: tuple[int, int] = (768, 1024)
    batches: tuple[int, ...] = (8, 32)  # of whole trainings
    budget: float = 450.0  # seconds after which no further part is begun


FULL = Sizes()
TINY = Sizes(
    device="cpu",
    width=0.0625,
    steps=((64, 1), (64, 2)),
    small=(64, 2),
    large=(64, 2),
    repetitions=2,
    images=10,
    epochs=2,
    image_size=(64, 96),
    whole=(96, 64),
    batches=(2,),
)


@dataclass
class Found:
    """What was measured: a row each, with the goal where there is one."""

    rows: list[dict] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, least=None, most=None) -> None:
        goal = held = None
        if least is not None:
            goal, held = f"≥ {least:g}", bool(value >= least)
        if most is not None:
            goal, held = f"≤ {most:g}", bool(value <= most)
        row = {"name": name, "value": float(f"{value:.4g}"), "unit": unit, "goal": goal}
        self.rows.append(row | {"held": held})
        click.echo(f"{name}: {value:.4g} {unit}" + (f" (goal {goal})" if goal else ""))

    def __getitem__(self, name: str) -> float:
        return next(row["value"] for row in self.rows if row["name"] == name)


def limits(sizes: Sizes, found: Found) -> None:
    """Products a second in each precision, and bytes moved a second."""
    for precision, dtype in DTYPES.items():
        with float32_products(precision):
            rate = max(product_rates(sizes.device, dtype).values())
        found.add(f"limit: product {precision}", rate / 1e12, "TFLOP/s")
    found.add("limit: copy", copy_bandwidth(sizes.device) / 1e9, "GB/s")


def steps(sizes: Sizes, found: Found) -> None:
    """The step of each size and precision, as it is trained with, and one by one in float32."""
    for crop, crops in sizes.steps:
        batch = on_device(random_batch(crops, crop), sizes)
        with made(sizes, "no") as step:
            call = partial(step, batch)
            work = flops(call)
            name = f"step {crop}² x {crops}, float32, eager"
            found.add(name, milliseconds(call, sizes), "ms")
        for precision in ("tf32", "bf16"):
            with made(sizes, precision) as step:
                name = f"{crop}² x {crops}, {precision}"
                taken = milliseconds(partial(captured(step), batch), sizes)
                found.add(f"step {name}", taken, "ms")
                limit = found[f"limit: product {precision}"] * 1e12
                share = work / taken * 1e3 / limit
                goal = 0.35 if (crop, crops) == sizes.large and precision == "bf16" else None
                found.add(f"share of the product rate, {name}", share, "", least=goal)


def milliseconds(call: Callable[[], object], sizes: Sizes, warm_up: int = 6) -> float:
    """Median of a call, after some for cuDNN's choice, Adam's moments, the capture."""
    return 1e3 * median_seconds(call, sizes.repetitions, warm_up)


def against_plain(sizes: Sizes, found: Found) -> None:
    """A plain step, eager, in float32 and NCHW, at the same batch and at batch 1; its memory."""
    for crop, crops in dict.fromkeys((sizes.steps[0], sizes.small, sizes.large)):
        batch = on_device(random_batch(crops, crop), sizes)
        with float32_products("no"):
            step = plain.PlainStep(random_network(sizes.width).to(sizes.device), 2e-5)
            slow = milliseconds(partial(step, batch), sizes, warm_up=1)
            memory = peak_memory(partial(step, batch), sizes.device)
        name = f"{crop}² x {crops}"
        found.add(f"plain step {name}", slow, "ms")
        found.add(f"plain / ours, {name}", slow / found[f"step {name}, bf16"], "x", least=3)
        with made(sizes, "bf16") as ours:
            ours(batch)
            least = peak_memory(partial(ours, batch), sizes.device)
        found.add(f"memory of ours / plain, {name}", least / memory, "", most=0.5)
    crop, crops = sizes.small
    alone = found[f"plain step {crop}² x 1"]
    each = found[f"step {crop}² x {crops}, bf16"] / crops
    found.add(f"plain step of 1 crop / a crop of ours among {crops}", alone / each, "x", least=10)


def targets(sizes: Sizes, found: Found) -> None:
    """The targets of 16 crops as a share of the step that they are for."""
    crop = sizes.small[0]
    batch = on_device(random_batch(16, crop), sizes)
    with made(sizes, "bf16") as step:
        whole = milliseconds(partial(captured(step), batch), sizes)
    part = milliseconds(captured_call(lambda: our_targets(batch), sizes), sizes)
    found.add("targets of 16 crops / their step, bf16", part / whole, "", most=0.02)


def agreement(sizes: Sizes, found: Found) -> None:
    """The captured step against the step itself: the losses of 20 steps, and that none waits."""
    crop, crops = sizes.small
    batches = [on_device(random_batch(crops, crop, seed), sizes) for seed in range(20)]
    histories = []
    for fast in (False, True):
        with made(sizes, "no") as step:
            step = captured(step) if fast else step
            step(batches[0])
            with waiting_is_an_error(sizes.device):
                losses = [step(batch)[0]["total"].clone() for batch in batches]
            histories.append(torch.stack(losses))
    difference = (histories[1] / histories[0] - 1).abs().max().item()
    found.add("captured against eager, float32: largest difference", difference, "", most=1e-3)


def trainings(sizes: Sizes, found: Found) -> None:
    """The paper's schedule on as many and as large images as those of ShanghaiTech A."""
    people = noise_images(sizes.images, sizes.image_size)
    held_out = people[: max(1, sizes.images // 10)]
    for crops in sizes.batches:
        schedule = Schedule(
            epochs=sizes.epochs,
            crop=sizes.small[0],
            batch_size=crops,
            checkpoint_every=50,
            precision="bf16",
        )
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            training = hmode.fit(
                random_network(sizes.width),
                people,
                held_out,
                schedule,
                run_dir=Path(folder, "run"),
                device=sizes.device,
            )
            whole = time.perf_counter() - started
        name = f"{sizes.epochs} epochs of {sizes.images} crops, batch {crops}, bf16"
        found.add(f"training, {name}", training.seconds, "s")
        found.add(f"with validation and files, {name}", whole, "s", most=120)


def counting(sizes: Sizes, found: Found) -> None:
    """An image of 1024 x 768 counted: ours and the network as it is, both in float32."""
    network = random_network(sizes.width).to(sizes.device)
    trained_norms(network)
    images = torch.randn(1, 3, *sizes.whole, device=sizes.device)
    folded = our_inference(network)
    with float32_products("no"):
        ours, other = our_count(folded, images), plain.count(network, images)
        found.add("count, ours / plain - 1", abs((ours / other - 1).item()), "", most=1e-4)
        for name, call in (
            ("plain", lambda: plain.count(network, images)),
            ("ours", lambda: our_count(folded, images)),
        ):
            name = f"count of a whole image, float32, {name}"
            found.add(name, milliseconds(call, sizes, warm_up=1), "ms")

    def in_bf16():
        with torch.autocast(sizes.device, torch.bfloat16):
            return our_count(folded, images)

    error = abs((in_bf16() / other - 1).item())
    found.add("count of a whole image, bf16: relative difference", error, "")
    found.add("count of a whole image, bf16, ours", milliseconds(in_bf16, sizes), "ms")


@contextmanager
def made(sizes: Sizes, precision: str) -> Iterator[TrainingStep]:
    """A step of `hmode.fit` under profile "paper", in its precision while inside."""
    schedule = replace(Schedule(), precision=precision)
    with float32_products(precision), equal_sizes():
        accelerator = make_accelerator(sizes.device, precision)
        step = TrainingStep(accelerator, random_network(sizes.width), schedule)
        step.begin_epoch(schedule.learning_rate, 0, 0)
        yield step
    if sizes.device == "cuda":
        torch.cuda.empty_cache()


def captured(step: TrainingStep):
    """As `hmode.fit` takes it: captured where that can be."""
    fits = Compute().graphs and can_be_captured(step.accelerator, step.schedule)
    return CapturedStep(step) if fits else step


def captured_call(call: Callable[[], object], sizes: Sizes) -> Callable[[], object]:
    """A call as a CUDA graph, as it is inside of a captured step."""
    if sizes.device != "cuda":
        return call
    for _ in range(3):
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


@contextmanager
def waiting_is_an_error(device: str) -> Iterator[None]:
    """Inside, what makes the program wait for a GPU raises RuntimeError."""
    if device != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_device(batch: Batch, sizes: Sizes) -> Batch:
    parts = (each.to(sizes.device) for each in (batch.images, batch.points, batch.valid))
    return Batch(*parts)


def noise_images(number: int, size: tuple[int, int]) -> list[CrowdImage]:
    rng = np.random.default_rng(0)
    height, width = size
    return [
        CrowdImage(
            torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8)),
            torch.from_numpy(rng.uniform(0, (width, height), (500, 2)).astype(np.float32)),
            f"noise-{i}",
        )
        for i in range(number)
    ]


PARTS = (limits, steps, agreement, against_plain, targets, trainings, counting)


@click.command()
@click.option("--tiny", is_flag=True, help="A toy size, on the CPU: tries the code.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("docs/benchmarks"),
    show_default=True,
    help="Folder for gpu.csv.",
)
def main(tiny: bool, output: Path) -> None:
    """Measure trainings and counting on a GPU."""
    if not tiny and not torch.cuda.is_available():
        raise click.ClickException("torch finds no CUDA device; --tiny runs on the CPU")
    sizes, found = TINY if tiny else FULL, Found()
    output.mkdir(parents=True, exist_ok=True)
    started, failed = time.perf_counter(), []
    device = torch.cuda.get_device_name() if sizes.device == "cuda" else platform.machine()
    about = {"device": device, "torch": torch.__version__}
    for part in PARTS:
        if time.perf_counter() - started > sizes.budget:
            failed.append(f"{part.__name__}: not begun, {sizes.budget:g} s are over")
            continue
        click.echo(f"— {part.__name__}, after {time.perf_counter() - started:.0f} s")
        try:
            part(sizes, found)
        except Exception:  # a part that fails must not take what the others measured with it
            failed.append(f"{part.__name__}: {traceback.format_exc(limit=3)}")
        write_csv(output / "gpu.csv", [about | row for row in found.rows])
    for failure in failed:
        click.echo(failure, err=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
