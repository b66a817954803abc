"""Dask clusters to sweep on: one made for the sweep, or one that is there.

Dask's `LocalCluster` gives all its workers one environment; here each has GPUs of its own.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import torch
from dask.system import CPU_COUNT
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.system import MEMORY_LIMIT

from hmode.device import resolve_device
from hmode.errors import InputError

MEMORY_OF_A_WORKER = 4 * 2**30  # bytes, where the number of workers is not given
PATIENCE = 10  # seconds for a scheduler to answer


def worker_environments(
    workers: int | None, device: str, most: int | None = None
) -> list[dict[str, str]]:
    """The environment variables of each worker process on this machine.

    Args:
        workers: how many; None: one for each GPU, or without one, or for device "cpu", one for
            each core as far as each has 4 GiB of memory. The cores are shared out evenly as torch's
            threads, and the GPUs in turn.
        device: "auto", "cpu" or "cuda".
        most: never more workers than this.

    Raises:
        InputError: there are fewer cores than workers, or no CUDA device, but it is asked for.
    """
    gpus = []
    if resolve_device(device).type == "cuda":  # as CUDA_VISIBLE_DEVICES names them
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or range(torch.cuda.device_count())
        gpus = visible.split(",") if isinstance(visible, str) else [*map(str, visible)]
    if workers is None:
        workers = len(gpus) or max(1, min(CPU_COUNT, MEMORY_LIMIT // MEMORY_OF_A_WORKER))
    elif not 1 <= workers <= CPU_COUNT:
        raise InputError(
            f"workers is {workers}, expected 1 to {CPU_COUNT}, the cores that are here"
        )
    workers = min(workers, most or workers)
    threads = {"OMP_NUM_THREADS": str(max(1, CPU_COUNT // workers))}
    chosen = [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {} for i in range(workers)]
    return [threads | gpu for gpu in chosen]


@contextmanager
def local_cluster(environments: list[dict[str, str]]) -> Iterator[Client]:
    """A scheduler and a worker process of one thread for each environment, on loopback.

    A worker that dies is replaced; all are gone afterwards.
    """
    quiet = {"silence_logs": logging.ERROR}
    here = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    one = {**here, **quiet, "nthreads": 1, "memory_limit": None}
    scheduler = {"cls": Scheduler, "options": {**here, "port": 0}}
    workers = [{"cls": Nanny, "options": {**one, "env": each}} for each in environments]
    with (
        # Tasks queue at the scheduler, not at a worker, where they would share its fate.
        dask.config.set({"distributed.scheduler.worker-saturation": 1.0}),
        SpecCluster(dict(enumerate(workers)), scheduler, **quiet) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def remote_cluster(address: str) -> Iterator[Client]:
    """The cluster of a scheduler that somebody else started; it is left as it was.

    Raises:
        InputError: the scheduler does not answer, or has a worker with several threads.
    """
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a sweep says it shorter
    try:
        client = Client(address, timeout=PATIENCE)
    except Exception as error:  # of many kinds: an unknown host, a wrong port, no scheduler
        raise InputError(f"scheduler {address!r} does not answer: {error}") from None
    with client:
        for worker, threads in client.nthreads().items():
            if threads > 1:
                raise InputError(
                    f"scheduler {address!r}: worker {worker} has {threads} threads; a process "
                    "trains one run at a time, start workers with --nthreads 1"
                )
        yield client
