"""How efficient one training on several GPUs should be, on paper.

In a step each of n GPUs computes its share of the batch; batch norms share their statistics, in the
forward and in the backward pass, while all wait; and gradients are averaged in buckets while the
backward pass goes on (Li et al. 2020, "PyTorch Distributed", VLDB 13:12, section 3.2). From the
step's time on one GPU and the sizes of what is exchanged, counted from the network itself, follow
two bounds: nothing of the averaging is hidden behind the backward pass, or all that can be.

    python -m benchmarks.machines --seconds 0.05 --batch 8

Not modelled: what starting an operation costs (NCCL's model says 7 microseconds, 35 times a step),
waiting for the slowest GPU, and bandwidth lost to protocols (about a fifth of NVLink's); trees and
sums inside switches, which take less where n is large; that torch's shared batch norm reads a value
back from the device in every layer; and that a step is a CUDA graph on one GPU only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import nn

from benchmarks.pictures import save
from hmode.errors import InputError, MissingFileError
from hmode.models import HMoDE
from hmode.runs import read_csv, write_csv

GPUS = (1, 2, 4, 8, 16, 32, 64)
GPU_TABLE = "docs/benchmarks/gpu.csv"
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20  # DDP's defaults, bytes
# The share of a step in which gradients become ready: a convolution's backward pass takes two
# products of the size of its forward pass's one.
BACKWARD = 2 / 3


@dataclass(frozen=True)
class Link:
    """What joins neighbours in a ring of GPUs: the slowest link of the ring, which decides.

    Attributes:
        name: in tables.
        bandwidth: bytes per second, in each direction.
        latency: seconds of a message without content.
    """

    name: str
    bandwidth: float
    latency: float

    def __post_init__(self):
        if not (self.bandwidth > 0 and self.latency >= 0):
            raise InputError(
                f"{self.name}: bandwidth is {self.bandwidth} and latency {self.latency}, expected "
                "a positive number and one of at least 0"
            )


# NVLink: an H200's data sheet says 900 GB/s, in both directions together. Latencies of NVLink and
# InfiniBand: those of short messages in a ring (protocol "LL") in NCCL's own model of its speed,
# src/graph/tuning.cc. That of Ethernet is our guess for TCP.
LINKS = (
    Link("NVLink, H200", 450e9, 0.6e-6),
    Link("InfiniBand, 400 Gb/s", 50e9, 2.7e-6),
    Link("Ethernet, 25 Gb/s", 3.125e9, 30e-6),
    Link("Ethernet, 10 Gb/s", 1.25e9, 30e-6),
)
# Colours and markers; the colours are of Okabe and Ito's colour-blind safe palette.
LOOKS = (("#0072B2", "o"), ("#009E73", "s"), ("#E69F00", "^"), ("#D55E00", "v"))


def all_reduce(size: float, gpus: int, link: Link) -> float:
    """Seconds in which every GPU gets the sum of all GPUs' `size` bytes, in a ring.

    2 (n - 1) messages one after the other of size / n bytes: the least traffic with which it can be
    done (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of
    workstations").
    """
    return 2 * (gpus - 1) * (size / gpus / link.bandwidth + link.latency)


def all_gather(size: float, gpus: int, link: Link) -> float:
    """Seconds in which every GPU gets all GPUs' `size` bytes, in a ring: n - 1 messages."""
    return (gpus - 1) * (size / link.bandwidth + link.latency)


@dataclass(frozen=True)
class Exchange:
    """What GPUs exchange in one step.

    Attributes:
        buckets: bytes of gradients, in the order in which they are sent.
        norms: channels of each batch norm.
    """

    buckets: tuple[int, ...]
    norms: tuple[int, ...]

    def norm_seconds(self, gpus: int, link: Link) -> float:
        """Of `nn.SyncBatchNorm`: in float32, each GPU's mean, deviation and count gathered in the
        forward pass, and two sums for the gradient reduced in the backward pass."""
        return sum(
            all_gather(4 * (2 * channels + 1), gpus, link) + all_reduce(8 * channels, gpus, link)
            for channels in self.norms
        )


def exchange(model: nn.Module) -> Exchange:
    """What a network exchanges; `model` lies on the "meta" device, see `on_paper`."""
    sizes = [size for _, size in gradients(model)]
    norms = [each.num_features for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    return Exchange(tuple(fill_buckets(sizes)), tuple(norms))


def on_paper(width: float = 1.0) -> HMoDE:
    """HMoDE with shapes and no numbers: nothing done with it takes time or memory."""
    with torch.device("meta"):
        return HMoDE(width=width)


def gradients(model: nn.Module) -> list[tuple[str, int]]:
    """Names and bytes of a network's gradients, in the order in which a backward pass ends them.

    It is the order that DDP sends them in from its second step on. What was computed last comes
    first: all of gating net 2, then gating net 1, attention net, heads, decoder and encoder.
    """
    ready: list[tuple[str, int]] = []
    hooks = [
        parameter.register_post_accumulate_grad_hook(
            lambda parameter, name=name: ready.append((name, parameter.nbytes))
        )
        for name, parameter in model.named_parameters()
    ]
    model.train()(torch.empty(2, 3, 64, 64, device="meta")).maps.sum().backward()
    for hook in hooks:
        hook.remove()
    return ready


def fill_buckets(sizes: Sequence[int]) -> list[int]:
    """Bytes of DDP's buckets: each is sent when it has reached its size, a small one first."""
    buckets, filled = [], 0
    for size in sizes:
        filled += size
        if filled >= (BUCKET if buckets else FIRST_BUCKET):
            buckets.append(filled)
            filled = 0
    return buckets + [filled] * (filled > 0)


def step_seconds(compute: float, gpus: int, exchanged: Exchange, link: Link) -> tuple[float, float]:
    """The least and the most seconds of a step on n GPUs.

    Args:
        compute: seconds of one GPU's share of the batch, alone.
    """
    reductions = [all_reduce(size, gpus, link) for size in exchanged.buckets]
    # The last bucket is full when the backward pass is over, and before that no more than its
    # length can be hidden.
    exposed = max(reductions[-1], sum(reductions) - BACKWARD * compute)
    waiting = compute + exchanged.norm_seconds(gpus, link)
    return waiting + exposed, waiting + sum(reductions)


def rows(
    seconds: float,
    batch: int,
    exchanged: Exchange,
    *,
    fixed: float = 0.0,
    links: Sequence[Link] = LINKS,
    gpus: Sequence[int] = GPUS,
) -> Iterator[dict]:
    """For each link and number of GPUs the seconds of a step and the efficiency, least and most.

    Efficiency is the crops per second and GPU as a share of one GPU's. "strong": the GPUs share
    one batch, and the result is that of one GPU. "weak": each has a batch of its own, so that the
    batch, and with it the training, is another one.

    Args:
        seconds: of a step on one GPU.
        batch: crops of that step; a number of GPUs that does not divide it is left out of "strong".
        fixed: how many of these seconds do not depend on the batch (launching kernels, Adam).

    Raises:
        InputError: a number is out of its range.
    """
    if not (0 <= fixed <= seconds and seconds > 0 and batch > 0):
        raise InputError(
            f"seconds is {seconds}, fixed {fixed} and batch {batch}, expected positive numbers, "
            "and fixed to be from 0 to seconds"
        )
    for scaling in ("strong", "weak"):
        for link in links:
            for n in gpus:
                if scaling == "strong" and batch % n:
                    continue
                share = 1 / n if scaling == "strong" else 1.0  # of the batch, on each GPU
                compute = fixed + (seconds - fixed) * share
                least, most = step_seconds(compute, n, exchanged, link)
                yield {
                    "scaling": scaling,
                    "link": link.name,
                    "gpus": n,
                    "batch": batch if scaling == "strong" else batch * n,
                    "seconds_least": least,
                    "seconds_most": most,
                    "efficiency_least": share * seconds / most,
                    "efficiency_most": share * seconds / least,
                }


def measured_seconds(path: Path, crop: int, batch: int, precision: str) -> float:
    """Seconds of a training step in the table that `benchmarks.gpu` writes.

    Raises:
        MissingFileError: there is no such table.
        InputError: it has no such step.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: not there; say how long a step takes, with --seconds")
    name = f"step {crop}² x {batch}, {precision}"
    for row in read_csv(path):
        if row.get("name") == name:
            return float(row["value"]) / 1000
    raise InputError(f"{path}: no row {name!r}")


def table(measured: Sequence[dict], scaling: str) -> str:
    """Markdown: a row a link, a column a number of GPUs, least to most efficiency in per cent."""
    chosen = [row for row in measured if row["scaling"] == scaling]
    numbers = sorted({row["gpus"] for row in chosen})
    lines = [["GPUs", *map(str, numbers)], ["---"] * (len(numbers) + 1)]
    for link in dict.fromkeys(row["link"] for row in chosen):
        lines.append([link, *(_range(row) for row in chosen if row["link"] == link)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _range(row: dict) -> str:
    low, high = (f"{100 * row[f'efficiency_{end}']:.0f}" for end in ("least", "most"))
    return low if low == high else f"{low}–{high}"


def figure(measured: Sequence[dict]) -> Figure:
    """Efficiency against the number of GPUs: for each link a band from least to most."""
    titles = {
        "strong": "One batch, shared by all\n(the result of one GPU)",
        "weak": "A batch for each\n(another training)",
    }
    drawing = Figure(figsize=(8, 4.2), layout="constrained")
    axes = drawing.subplots(1, 2, sharey=True)
    links = dict.fromkeys(row["link"] for row in measured)
    for ax, (scaling, title) in zip(axes, titles.items(), strict=True):
        chosen = [row for row in measured if row["scaling"] == scaling]
        numbers = sorted({row["gpus"] for row in chosen})
        for link, (colour, marker) in zip(links, LOOKS, strict=False):
            points = [row for row in chosen if row["link"] == link]
            low, high = ([p[f"efficiency_{end}"] for p in points] for end in ("least", "most"))
            ax.fill_between(numbers, low, high, color=colour, alpha=0.2, linewidth=0)
            ax.plot(numbers, high, marker + "-", color=colour, label=link, markersize=5)
            ax.plot(numbers, low, "-", color=colour, linewidth=0.8)
        ax.axhline(1, color="0.4", linestyle=":", label="a sweep: a run for each GPU")
        ax.set_xscale("log", base=2)
        ax.set_xticks(numbers, map(str, numbers))
        ax.set(xlabel="GPUs", title=title, ylim=(0, 1.05))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("efficiency, per GPU")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    drawing.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return drawing


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", type=float, help="Of a step on one GPU  [default: of the table]")
@click.option("--batch", default=8, show_default=True, help="Crops of that step.")
@click.option("--crop", default=128, show_default=True, help="Their side, in the table.")
@click.option("--precision", default="bf16", show_default=True, help="Of the table's step.")
@click.option("--table", "path", default=GPU_TABLE, show_default=True, type=click.Path())
@click.option("--fixed", default=0.0, show_default=True, help="Seconds that no batch shortens.")
@click.option("--width", default=1.0, show_default=True, help="Of HMoDE.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write all numbers here.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a figure here.")
def main(seconds, batch, crop, precision, path, fixed, width, csv_path, plot):
    """Print how efficient one training on several GPUs should be, by the link between them."""
    try:
        if seconds is None:
            seconds = measured_seconds(Path(path), crop, batch, precision)
        exchanged = exchange(on_paper(width))
        measured = list(rows(seconds, batch, exchanged, fixed=fixed))
    except (InputError, MissingFileError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{sum(exchanged.buckets) / 1e6:.0f} MB of gradients in {len(exchanged.buckets)} buckets, "
        f"{len(exchanged.norms)} batch norms; {1000 * seconds:g} ms a step of {batch} crops.\n"
        "Efficiency in per cent, without and with overlap."
    )
    for scaling, title in (("strong", f"{batch} crops together"), ("weak", f"{batch} crops each")):
        click.echo(f"\n{title}\n{table(measured, scaling)}")
    if csv_path:
        write_csv(csv_path, measured)
    if plot:
        save(figure(measured), plot)


if __name__ == "__main__":
    main()
