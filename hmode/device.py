"""On which device a process computes, how precisely, and with which others."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import is_cuda_available
from tqdm.auto import tqdm

from hmode.errors import InputError


def resolve_device(device: str) -> torch.device:
    """ "auto" is the CUDA device where there is one.

    Raises:
        InputError: the device is unknown or not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device is {device!r}, expected 'auto', 'cpu' or 'cuda'")
    # accelerate asks without starting CUDA, so that processes can still be forked from this one.
    there = is_cuda_available()
    if device == "cuda" and not there:
        raise InputError("device is 'cuda', but torch finds no CUDA device")
    return torch.device("cuda" if device != "cpu" and there else "cpu")


def process() -> tuple[int, int]:
    """This process's rank and the number of processes that train together."""
    if torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def progress_bar(total: int, progress: bool | None, name: str | None = None) -> tqdm:
    """A bar for `total` steps of what `name` says; hidden if not wanted, with None where nobody
    watches."""
    if progress is None:  # a terminal, or a notebook that is not run in a batch
        ipython = sys.modules.get("IPython")  # imported by the plots too, outside of a notebook
        notebook = ipython is not None and ipython.get_ipython() is not None
        progress = sys.stderr.isatty() or (notebook and not os.environ.get("HMODE_STATIC"))
    return tqdm(desc=name, total=total, disable=not progress or process()[0] > 0)


def make_accelerator(device: str, precision: str) -> Accelerator:
    """accelerate's handle on devices, processes and precision, one of `PRECISIONS`.

    Raises:
        InputError: the device is unknown or not there.
    """
    chosen = resolve_device(device)
    on_cpu = chosen.type == "cpu"
    precision = resolve_precision(precision, chosen)
    # It is a process-wide singleton; each training decides its precision and device anew.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    mixed = precision if precision in ("bf16", "fp16") else "no"
    return Accelerator(cpu=on_cpu, mixed_precision=mixed)


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" is "bf16" where the device multiplies it in units of its own, else "no" on a CPU and
    "tf32" on a GPU; all others are themselves."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_amx_tile_supported()
    if precision == "bf16" and not fast:
        warnings.warn(
            "precision is 'bf16', but this processor has no unit for it and will be slower than "
            "with 'no' (float32); 'auto' chooses by the device",
            stacklevel=2,
        )
    if precision != "auto":
        return precision
    return "bf16" if fast else "tf32" if device.type == "cuda" else "no"


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Inside, a CUDA device's convolutions of float32 are rounded to TF32 if `precision` is "tf32"
    (torch's own default), else computed in full. Other products, those of the density maps among
    them, are in full, torch's default."""
    products = torch.backends.cudnn.conv
    before = products.fp32_precision
    products.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        products.fp32_precision = before


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """Inside, a network counts in a schedule's precision: float32, TF32, or in 16 bits."""
    precision = resolve_precision(precision, device)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with float32_products(precision), torch.autocast(device.type, half, enabled=half is not None):
        yield


@contextmanager
def equal_sizes() -> Iterator[None]:
    """Inside, all batches are of one size: cuDNN may try its algorithms out on the first."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
