"""Many runs: at once, on Dask distributed, one at a time in every worker process; or one after the
other in this process, which needs no Dask, as often as one likes side by side.

The run folders are the only memory. A run is done when its result.json is there; one that was
interrupted, with its worker or with the whole sweep, goes on from its last checkpoint. A process
that trains a run holds the lock of its folder (`hmode.runs`): so neither two sweeps, nor a worker
given up for dead and the one that takes over from it, ever train in the same folder.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hmode.data import identify
from hmode.errors import BusyError, HmodeError, InputError
from hmode.experiments import canonical, run, splits
from hmode.experiments.running import FOLDED, device_name, run_folder
from hmode.profiles import load_profile
from hmode.results import collect
from hmode.runs import RunFolder
from hmode.watch import epochs_bar

if TYPE_CHECKING:  # Dask is an extra
    from distributed import Future

_one_at_a_time = threading.Lock()  # accelerate's state and torch's threads are the process's


@dataclass(frozen=True)
class Job:
    """One run of a plan."""

    experiment: str
    seed: int
    fold: int | None = None

    def __str__(self) -> str:
        fold = "" if self.fold is None else f" fold {self.fold}"
        return f"{self.experiment} seed {self.seed}{fold}"


@dataclass(frozen=True)
class Plan:
    """What to run: experiments times seeds times folds, on a data set under a profile.

    Attributes:
        experiments: names of rows; rows that are the same run are trained once.
        seeds: how many, counted up from first_seed.
        first_seed, dataset, profile, data_root, device, runs: as for `hmode.run`.

    Raises:
        InputError: a value is unknown or out of its range, a run that is done is of other data, or
            the runs that are there could not stand in one table (`hmode.results.require_uniform`).
        MissingFileError: the data are not there.
    """

    experiments: Sequence[str]
    seeds: int = 3
    first_seed: int = 0
    dataset: str = "synthetic"
    profile: str = "quick"
    data_root: str | Path | None = None
    device: str = "auto"
    runs: str | Path = "runs"

    def __post_init__(self):
        if not isinstance(self.seeds, int) or self.seeds < 1:
            raise InputError(f"seeds is {self.seeds!r}, expected a positive whole number")
        # Workers need not stand in this folder.
        absolute = {"runs": Path(self.runs).resolve()}
        if self.data_root is not None:
            absolute["data_root"] = Path(self.data_root).resolve()
        experiments = tuple(dict.fromkeys(map(canonical, self.experiments)))
        for name, value in {**absolute, "experiments": experiments}.items():
            object.__setattr__(self, name, value)
        size = load_profile(self.profile, self.dataset)
        done = [job for job in self.jobs if self.done(job)]  # refuses a wrong seed
        collect(self.runs, self.profile, self.dataset, self.experiments)
        for fold in dict.fromkeys(job.fold for job in self.jobs):
            parts = splits(self.dataset, size, self.data_root, fold)
            folders = [RunFolder(self.folder(job)) for job in done if job.fold == fold]
            known = [each for each in folders if (each.path / "config.json").is_file()]
            if known:
                data = dict(zip(("train", "validation", "test"), map(identify, parts), strict=True))
            for folder in known:
                folder.require_same(folder.config() | data)

    @property
    def jobs(self) -> list[Job]:
        """All runs, seed by seed, so that what is there after a while can be compared."""
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        folds = range(FOLDED[self.dataset]) if self.dataset in FOLDED else [None]
        return [
            Job(name, seed, fold) for seed in seeds for name in self.experiments for fold in folds
        ]

    def folder(self, job: Job) -> Path:
        """The folder of a run."""
        return run_folder(self.runs, job.experiment, self.dataset, self.profile, job.seed, job.fold)

    def done(self, job: Job) -> bool:
        """Whether a run is finished and tested."""
        return (self.folder(job) / "result.json").is_file()

    def run(self, job: Job) -> float:
        """Train a run, or go on with it, or load it; its MAE on the test split."""
        where = {"fold": job.fold, "data_root": self.data_root, "runs": self.runs}
        how = {"device": self.device, "progress": False}
        result = run(job.experiment, self.dataset, self.profile, job.seed, **where, **how)
        return result.evaluation.mae


def sweep(
    plan: Plan,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    until: float | None = None,
    say: Callable[[str], None] = print,
) -> dict[Job, str]:
    """Run all of a plan that is not done; one run's failure does not stop the others.

    Args:
        plan: what to run.
        workers: processes on this machine, see `worker_environments`; 0: this process.
        scheduler: address of a Dask scheduler, whose workers are used instead. They must see the
            same folders; each trains with as many threads as OMP_NUM_THREADS says there.
        until: with workers = 0, seconds after which to stop: no run is begun that would take
            longer than is left, going by the longest so far.
        say: is told the progress, a line at a time.

    Returns:
        the runs that failed, and why.

    Raises:
        InputError: until is given with other workers; there are fewer cores than workers, or no
            CUDA device, but it is asked for; the scheduler does not answer, or has workers with
            several threads; or seeds of the same experiments were trained on another device than
            this machine's.
    """
    missing = [job for job in plan.jobs if not plan.done(job)]
    say(f"{len(plan.jobs)} runs, {len(plan.jobs) - len(missing)} of them done before")
    if until is not None and (workers != 0 or scheduler is not None):
        raise InputError(f"until is {until!r}, which goes with workers=0 only")
    if not missing:
        return {}
    cluster = _cluster(plan, missing, workers, scheduler)
    failures: dict[Job, str] = {}
    epochs = load_profile(plan.profile, plan.dataset).schedule.epochs
    folders = [plan.folder(job) for job in missing]
    with epochs_bar(folders, epochs, say) as say:
        done = _there(plan, missing, cluster, say) if cluster else _here(plan, missing, until, say)
        for number, (job, outcome) in enumerate(done, start=1):
            if isinstance(outcome, _Failure):
                failures[job] = outcome
                folders.remove(plan.folder(job))
                text = f"FAILED, {outcome}"
            else:
                text = outcome if isinstance(outcome, str) else f"MAE {outcome:.2f}"
            say(f"[{number}/{len(missing)}] {job}: {text}")
    return failures


def _cluster(plan: Plan, missing: list[Job], workers: int | None, scheduler: str | None):
    """What `sweep` hands its runs to; None: this process."""
    if workers == 0 and scheduler is None:
        return _require_device(plan, missing)
    try:
        from hmode.cluster import local_cluster, remote_cluster, worker_environments
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed; several runs at once need pip install 'hmode[sweep]', "
            "--workers 0 does not"
        ) from None
    if scheduler is not None:
        return remote_cluster(scheduler)
    environments = worker_environments(workers, plan.device, len(plan.jobs))
    _require_device(plan, missing)
    return local_cluster(environments)


def _require_device(plan: Plan, missing: list[Job]) -> None:
    """See that what is missing will stand in one table with what is there."""
    here = device_name(plan.device)
    experiments = list({job.experiment for job in missing})
    for there in collect(plan.runs, plan.profile, plan.dataset, experiments).itertuples():
        if there.device != here:
            raise InputError(
                f"{there.run} was trained on {there.device}, its other seeds would be on {here}; "
                "choose that device or another folder of runs"
            )


class _Failure(str):
    """Why a run failed, in a line, as not every exception can travel."""


Outcome = float | str  # a MAE, a `_Failure`, or what another process does


def _here(plan: Plan, jobs: list[Job], until: float | None, say) -> Iterator[tuple[Job, Outcome]]:
    """Do the jobs in this process, past those that another process is at."""
    longest, began = 0.0, time.monotonic()
    for job in jobs:
        started = time.monotonic()
        if until is not None and started - began + longest > until:
            say(f"{until:g} seconds are over, {job} and what follows is not begun")
            return
        if plan.done(job):
            yield job, "done by another process"
        else:
            outcome = _attempt(plan, job)
            yield job, "another process is at it" if outcome is None else outcome
        longest = max(longest, time.monotonic() - started)


def _there(plan: Plan, jobs: list[Job], cluster, say) -> Iterator[tuple[Job, Outcome]]:
    """Hand the jobs out, and wait for all of them."""
    from distributed import as_completed

    with cluster as client:
        say(f"{len(jobs)} to do, {len(client.nthreads())} workers so far")
        jobs_of = {client.submit(work, plan, job, pure=False): job for job in jobs}
        futures = as_completed(jobs_of)
        for future in futures:
            job, outcome = jobs_of.pop(future), _outcome(future)
            if outcome is not None:
                yield job, outcome
                continue
            # Another process is at it: last of all, see what comes of that.
            again = client.submit(work, plan, job, wait=True, pure=False, priority=-1)
            jobs_of[again] = job
            futures.add(again)


def _outcome(future: "Future") -> Outcome | None:
    """What `work` returned, or why it could not."""
    if future.status == "finished":
        return future.result()
    if future.status == "error":  # its workers died, again and again, or lack something
        return _line(future.exception())
    return _Failure("the scheduler is gone; start the sweep again")


def work(plan: Plan, job: Job, wait: bool = False) -> Outcome | None:
    """On a worker: `_attempt` a job, with as many threads as the worker's environment says."""
    with _one_at_a_time:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()))
        return _attempt(plan, job, wait)


def _attempt(plan: Plan, job: Job, wait: bool = False) -> Outcome | None:
    """A job's MAE; or why it failed; or None where another process is at it, unless to wait."""
    try:
        with RunFolder(plan.folder(job)).alone(wait=wait):
            return plan.run(job)
    except BusyError:
        return None
    except Exception as error:  # whatever it is, the other jobs go on
        return _line(error)


def _line(error: BaseException) -> _Failure:
    """What went wrong, in a line."""
    text = str(error) if isinstance(error, HmodeError) else f"{type(error).__name__}: {error}"
    return _Failure(text.partition("\n")[0])
