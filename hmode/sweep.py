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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import torch
from tqdm.auto import tqdm

from hmode.data import identify
from hmode.errors import BusyError, HmodeError, InputError
from hmode.evaluation import progress_bar
from hmode.experiments import canonical, run, splits
from hmode.experiments.running import FOLDS, device_name, run_folder
from hmode.profiles import Profile, load_profile
from hmode.results import collect
from hmode.runs import RunFolder

if TYPE_CHECKING:  # Dask is an extra
    from distributed import Client, Future

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
        settings = load_profile(self.profile, self.dataset)
        for job in self.jobs:
            self.folder(job)  # refuses a wrong seed
        collect(self.runs, self.profile, self.dataset, self.experiments)
        self._require_data(settings)

    def _require_data(self, settings: Profile) -> None:
        """See that the data are there, and that what is done was done on them."""
        for fold in dict.fromkeys(job.fold for job in self.jobs):
            parts = splits(self.dataset, settings, self.data_root, fold)
            done = [job for job in self.jobs if job.fold == fold and self.done(job)]
            if done:
                train, validation, test = map(identify, parts)
            for folder in map(RunFolder, map(self.folder, done)):
                if not (folder.path / "config.json").is_file():
                    continue  # of unknown identity
                folder.require_data(train=train, validation=validation, test=test)

    @property
    def jobs(self) -> list[Job]:
        """All runs, seed by seed, so that what is there after a while can be compared."""
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        folds = range(FOLDS[self.dataset]) if self.dataset in FOLDS else [None]
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
        result = run(
            job.experiment,
            self.dataset,
            self.profile,
            job.seed,
            fold=job.fold,
            data_root=self.data_root,
            device=self.device,
            runs=self.runs,
            progress=False,
        )
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
    if workers == 0 and scheduler is None:
        _require_device(plan, missing)
        return _here(plan, missing, until, say)
    try:
        from hmode.cluster import local_cluster, remote_cluster, worker_environments
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed; several runs at once need pip install 'hmode[sweep]', "
            "--workers 0 does not"
        ) from None
    if scheduler is None:
        environments = worker_environments(workers, plan.device, len(plan.jobs))
        _require_device(plan, missing)
        connection = local_cluster(environments)
    else:
        connection = remote_cluster(scheduler)
    with connection as client:
        say(f"{len(missing)} to do, {len(client.nthreads())} workers so far")
        return _work(client, plan, missing, say)


def _require_device(plan: Plan, missing: list[Job]) -> None:
    """See that what is missing will stand in one table with what is there."""
    here = device_name(plan.device)
    experiments = {job.experiment for job in missing}
    for there in collect(plan.runs, plan.profile, plan.dataset, list(experiments)).itertuples():
        if there.device != here:
            raise InputError(
                f"{there.run} was trained on {there.device}, its other seeds would be on {here}; "
                "choose that device or another folder of runs"
            )


def _here(plan: Plan, jobs: list[Job], until: float | None, say) -> dict[Job, str]:
    """Do the jobs in this process, past those that another process is at."""
    failures, longest, began = {}, 0.0, time.monotonic()
    with _Progress(len(jobs), say) as progress:
        for job in jobs:
            started = time.monotonic()
            if until is not None and started - began + longest > until:
                say(f"{until:g} seconds are over, {job} and what follows is not begun")
                break
            if plan.done(job):  # by another process, meanwhile
                progress.finish(job, "done by another process")
                continue
            progress.start(str(job))
            try:
                with RunFolder(plan.folder(job)).alone(wait=False):
                    text = f"MAE {plan.run(job):.2f}"
            except BusyError:
                text = "another process is at it"
            except Exception as error:  # whatever it is, the other jobs go on
                failures[job] = _line(error)
                text = f"FAILED, {failures[job]}"
            progress.finish(job, text)
            longest = max(longest, time.monotonic() - started)
    return failures


def _work(client: "Client", plan: Plan, jobs: list[Job], say) -> dict[Job, str]:
    """Hand the jobs out, and wait for all of them."""
    from distributed import as_completed

    topic, failures = f"hmode-{uuid4().hex}", {}
    with _Progress(len(jobs), say) as progress:
        client.subscribe_topic(topic, lambda event: progress.start(event[1]))
        jobs_of = {client.submit(work, plan, job, topic, pure=False): job for job in jobs}
        futures = as_completed(jobs_of)
        for future in futures:
            job = jobs_of.pop(future)
            outcome = _outcome(future)
            if outcome is None:  # another process is at it: last of all, see what comes of that
                again = client.submit(work, plan, job, topic, wait=True, pure=False, priority=-1)
                jobs_of[again] = job
                futures.add(again)
            elif isinstance(outcome, str):
                failures[job] = outcome
                progress.finish(job, f"FAILED, {outcome}")
            else:
                progress.finish(job, f"MAE {outcome:.2f}")
    return failures


def _outcome(future: "Future") -> float | str | None:
    """What `work` returned, or why it could not."""
    if future.status == "finished":
        return future.result()
    if future.status == "error":  # its workers died, again and again, or lack something
        return _line(future.exception())
    return "the scheduler is gone; start the sweep again"


def work(plan: Plan, job: Job, topic: str, wait: bool = False) -> float | str | None:
    """On a worker: do a job, and tell the topic of its start.

    Returns:
        its MAE; or why it failed, in a line, as not every exception can travel; or None where
        another process is at it, unless to wait for that.
    """
    from distributed import get_worker

    try:
        with _one_at_a_time, RunFolder(plan.folder(job)).alone(wait=wait):
            get_worker().log_event(topic, str(job))
            threads = os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()
            torch.set_num_threads(int(threads))
            return plan.run(job)
    except BusyError:
        return None
    except Exception as error:  # whatever it is, the other jobs go on
        return _line(error)


def _line(error: BaseException) -> str:
    """What went wrong, in a line."""
    text = str(error) if isinstance(error, HmodeError) else f"{type(error).__name__}: {error}"
    return text.partition("\n")[0]


class _Progress:
    """A line for every finished job; where somebody watches, with a bar below, else with what the
    bar would say."""

    def __init__(self, total: int, say: Callable[[str], None]):
        self.total, self.say = total, say
        self.finished, self.running = 0, set()
        self.started = time.monotonic()
        self.bar = progress_bar(total, None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def start(self, job: str) -> None:
        self.running.add(job)
        self.bar.set_postfix_str(self.names)

    def finish(self, job: Job, text: str) -> None:
        self.finished += 1
        self.running.discard(str(job))
        line = f"[{self.finished}/{self.total}] {job}: {text}"
        left = self.total - self.finished
        if self.bar.disable and left:
            seconds = (time.monotonic() - self.started) / self.finished * left
            running = f", running {self.names}" if self.running else ""
            line += f" (about {tqdm.format_interval(seconds)} left{running})"
        with tqdm.external_write_mode():
            self.say(line)
        self.bar.set_postfix_str(self.names, refresh=False)
        self.bar.update()

    @property
    def names(self) -> str:
        return ", ".join(sorted(self.running))
