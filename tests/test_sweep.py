"""Many runs at once: what is done is skipped, and nothing is lost with a worker or the sweep."""

import csv
import json
import os
import re
import sys
import time
from multiprocessing import forkserver

import dask
import psutil
import pytest
import torch
from conftest import CONTEXT
from distributed import LocalCluster
from filelock import FileLock
from helpers import call

import hmode
from hmode import cluster
from hmode import sweep as sweeping
from hmode.cli import main
from hmode.cluster import local_cluster, worker_environments
from hmode.errors import InputError
from hmode.sweep import Job, Plan, sweep


@pytest.fixture(autouse=True, scope="module")
def _quick_start():
    """Workers are forked from a process that has imported torch (see conftest.py): Dask, which
    asks for other imports, finds it there."""
    forkserver.ensure_running()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


def plan(runs, *experiments, **options):
    return Plan(experiments, **{"profile": "smoke", "device": "cpu", "runs": runs, **options})


def call_sweep(runs, *arguments):
    return call("sweep", *arguments, "--profile", "smoke", "--device", "cpu", "--runs", runs)


def stamps(folder):
    """When every file below a folder was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def spoil(runs, name):
    """Make a run's folder one of another configuration."""
    folder = runs / "smoke" / "synthetic" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model": {"width": 3}}')


# What goes wrong in the workers of the sweep below: one is killed when it has saved a first epoch,
# and a run fails with an error that nobody thought of.
ACCIDENTS = """
import os, signal
from pathlib import Path
from hmode import training
from hmode.experiments import running

def dask_setup(worker):
    commit, fit, diary = training._Loop.commit, running.fit, Path({diary!r})

    def commit_and_die(self, done, *args):
        commit(self, done, *args)
        if done == 1 and self.run.path.name == "hmode-seed0" and not diary.exists():
            diary.write_text((self.run.path / "timing.csv").read_text())
            os.kill(os.getpid(), signal.SIGKILL)

    def fail(*args, run_dir, **kwargs):
        if run_dir.name == "table4-concat-seed1":
            raise RuntimeError("out of luck\\nand more")
        return fit(*args, run_dir=run_dir, **kwargs)

    training._Loop.commit, running.fit = commit_and_die, fail
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of six runs on two workers: one is killed, one run has another configuration in its
    place, one fails, and another process holds one until all others are done."""
    folder = tmp_path_factory.mktemp("sweep")
    accidents, runs, diary = folder / "accidents.py", folder / "runs", folder / "diary"
    accidents.write_text(ACCIDENTS.format(diary=str(diary)))
    spoil(runs, "table4-concat-seed0")
    held = FileLock(runs / "smoke" / "synthetic" / ".hmode-seed1.lock")
    lines, finished_early = [], []

    def say(line):
        lines.append(line)
        if line.startswith("[5/6]"):
            finished_early.append(everything.done(Job("hmode", 1)))
            held.release()

    everything = plan(runs, "hmode", "table4/average", "baseline", "table4/concat", seeds=2)
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address=None,
        env={"OMP_NUM_THREADS": "1"},
        preload=str(accidents),
        silence_logs=50,
    ) as workers:
        held.acquire()
        failures = sweep(everything, scheduler=workers.scheduler_address, say=say)
    return {
        "plan": everything,
        "failures": failures,
        "lines": lines,
        "finished early": finished_early,
        "diary": diary,
    }


@pytest.mark.slow
class TestOneSweep:
    def test_a_failure_does_not_stop_the_others(self, swept):
        failures, plan = swept["failures"], swept["plan"]
        assert set(failures) == {Job("table4/concat", 0), Job("table4/concat", 1)}
        assert "another configuration" in failures[Job("table4/concat", 0)]
        assert failures[Job("table4/concat", 1)] == "RuntimeError: out of luck"
        assert {job for job in plan.jobs if plan.done(job)} == set(plan.jobs) - set(failures)

    def test_the_killed_worker_s_run_went_on_from_its_checkpoint(self, swept):
        before = swept["diary"].read_text()
        after = (swept["plan"].folder(Job("hmode", 0)) / "timing.csv").read_text()
        assert len(before.splitlines()) == 2  # the names and the first epoch
        assert after.startswith(before)
        assert len(after.splitlines()) == 3

    @pytest.mark.parametrize("job", [Job("hmode", 0), Job("hmode", 1), Job("baseline", 1)])
    def test_the_results_are_those_of_serial_runs_bit_for_bit(self, swept, tmp_path, job):
        assert torch.get_num_threads() == 1
        serial = hmode.run(
            job.experiment, profile="smoke", seed=job.seed, device="cpu", runs=tmp_path
        )
        files = ["best.safetensors", "last.safetensors", "history.csv", "test.csv", "config.json"]
        for name in files:
            there = swept["plan"].folder(job) / name
            assert there.read_bytes() == (serial.training.run_dir / name).read_bytes(), name

    def test_a_run_that_another_process_trains_is_waited_for(self, swept):
        assert swept["finished early"] == [False]
        assert swept["lines"][-1].startswith("[6/6] hmode seed 1: MAE ")

    def test_progress_is_a_line_a_run(self, swept):
        lines = swept["lines"]
        assert lines[:2] == ["6 runs, 0 of them done before", "6 to do, 2 workers so far"]
        assert [line.split("]")[0] for line in lines[2:]] == [f"[{i}/6" for i in range(1, 7)]
        mae = json.loads((swept["plan"].folder(Job("baseline", 0)) / "result.json").read_text())
        assert any(f"baseline seed 0: MAE {mae['mae']:.2f}" in line for line in lines)
        assert any("table4/concat seed 1: FAILED, RuntimeError: out of luck" in x for x in lines)

    def test_what_is_done_is_not_touched_again(self, swept):
        done = plan(swept["plan"].runs, "hmode", "baseline", seeds=2)
        before, lines = stamps(done.runs), []
        assert sweep(done, scheduler="tcp://nobody.is.asked:1", say=lines.append) == {}
        assert lines == ["4 runs, 4 of them done before"]
        assert stamps(done.runs) == before

    def test_what_failed_can_be_made_good(self, swept, tmp_path, monkeypatch):
        """From the command line, which names what fails and ends with the table."""
        monkeypatch.chdir(tmp_path)
        runs, options = swept["plan"].runs, ("--seeds", 1, "--workers", 0)
        first = call_sweep(runs, "hmode", "table4/concat", *options)
        assert first.exit_code == 1
        assert "1 of 2 runs failed:\ntable4/concat seed 0: " in first.output
        folder = swept["plan"].folder(Job("table4/concat", 0))
        (folder / "config.json").unlink()
        before = stamps(swept["plan"].folder(Job("hmode", 0)))
        table = tmp_path / "new" / "runs.csv"
        second = call_sweep(runs, "table4/concat", *options, "--csv", table)
        assert second.exit_code == 0, second.output
        assert "[1/1] table4/concat seed 0: MAE " in second.output
        lines = second.output.split("table4 on synthetic, smoke\n")[1].splitlines()
        first_words = [line.split()[0] for line in lines]
        assert first_words == ["experiment", "baseline", "table4/concat", "hmode"]
        assert lines[2].endswith("one seed")
        (row,) = csv.DictReader(table.open())
        assert (row["experiment"], row["seed"]) == ("table4/concat", "0")
        assert stamps(swept["plan"].folder(Job("hmode", 0))) == before


def sweep_from(folder, command):
    os.chdir(folder)
    main([str(each) for each in command])


@pytest.mark.slow
def test_a_killed_sweep_is_finished_by_the_same_command(tmp_path):
    runs, options = tmp_path / "runs", ("baseline", "--seeds", 3, "--workers", 1)
    command = ["sweep", *options, "--profile", "smoke", "--device", "cpu", "--runs", runs]
    first = CONTEXT.Process(target=sweep_from, args=(tmp_path, command))
    first.start()
    finished = runs / "smoke" / "synthetic" / "baseline-seed0"
    try:
        while not (finished / "result.json").is_file():
            assert first.is_alive()
            time.sleep(0.02)
        workers = psutil.Process(first.pid).children(recursive=True)
    finally:
        first.kill()
    first.join()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert workers
    assert not alive
    rest = plan(runs, "baseline")
    assert not all(map(rest.done, rest.jobs))
    before = stamps(finished)
    second = call_sweep(runs, *options)
    assert second.exit_code == 0, second.output
    assert all(map(rest.done, rest.jobs))
    assert stamps(finished) == before
    assert "of them done before\n" in second.output
    assert re.search(r"baseline +3 +\d+\.\d\d ± \d+\.\d\d", second.output)


@pytest.mark.slow
def test_a_local_cluster_s_workers_have_their_own_environments_on_loopback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with local_cluster([{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]) as client:
        client.wait_for_workers(2)
        found = client.run(lambda: (os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()))
        assert set(client.nthreads().values()) == {1}
        here = psutil.Process()
        listening = [
            connection.laddr.ip
            for process in (here, *here.children(recursive=True))
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        ]
    environments, processes = zip(*found.values(), strict=True)
    assert sorted(environments) == ["0", "1"]
    assert not any(map(psutil.pid_exists, processes))
    assert not list(tmp_path.iterdir())  # nothing of Dask's
    assert len(listening) >= 8  # scheduler, nannies, workers, and their web servers
    assert set(listening) == {"127.0.0.1"}


class TestWorkers:
    @pytest.fixture(autouse=True)
    def _machine(self, monkeypatch):
        """Eight cores with 20 GiB, no GPU."""
        monkeypatch.setattr(cluster, "CPU_COUNT", 8)
        monkeypatch.setattr(cluster, "MEMORY_LIMIT", 20 * 2**30)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    @pytest.mark.parametrize(
        ("workers", "most", "number", "threads"),
        [(None, None, 5, "1"), (None, 3, 3, "2"), (4, 9, 4, "2"), (4, 1, 1, "8"), (8, 9, 8, "1")],
    )
    def test_cores_are_shared_and_never_given_twice(self, workers, most, number, threads):
        expected = [{"OMP_NUM_THREADS": threads}] * number
        assert worker_environments(workers, "cpu", most) == expected
        assert number * int(threads) <= 8

    def test_gpus_are_shared_in_turn(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
        for workers, gpus in ((None, ["2", "5"]), (3, ["2", "5", "2"])):
            found = worker_environments(workers, "auto")
            assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == gpus
        assert "CUDA_VISIBLE_DEVICES" not in worker_environments(None, "cpu")[0]
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        found = worker_environments(None, "cuda")
        assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["0", "1", "2"]

    def test_what_the_machine_does_not_have_is_refused(self):
        for workers in (0, 9):
            with pytest.raises(InputError, match=f"workers is {workers}, expected 1 to 8"):
                worker_environments(workers, "cpu")
        with pytest.raises(InputError, match="no CUDA device"):
            worker_environments(None, "cuda")


class TestPlan:
    def test_seed_by_seed_and_rows_that_are_one_run_once(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        names = ("table1/hmode", "baseline", "table5/conv2")
        found = plan("here", *names, seeds=2, first_seed=3, data_root="there")
        expected = [("hmode", 3), ("baseline", 3), ("hmode", 4), ("baseline", 4)]
        assert found.jobs == [Job(*each) for each in expected]
        # Workers stand elsewhere.
        assert found.folder(found.jobs[0]) == tmp_path / "here/smoke/synthetic/hmode-seed3"
        assert found.data_root == tmp_path / "there"

    def test_every_fold_is_a_run(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sweeping, "splits", lambda *_: None)  # no data here
        found = plan(tmp_path, "hmode", seeds=1, dataset="ucf_cc_50")
        assert found.jobs == [Job("hmode", 0, fold) for fold in range(5)]
        assert str(found.jobs[4]) == "hmode seed 0 fold 4"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"experiments": ["hmod"]}, "experiment is 'hmod'"),
            ({"seeds": 0}, "seeds is 0, expected a positive whole number"),
            ({"seeds": 1.5}, "seeds is 1.5"),
            ({"first_seed": -1}, "seed is -1"),
            ({"profile": "tiny"}, "profile is 'tiny'"),
            ({"dataset": "qnrff"}, "'qnrff' is unknown"),
        ],
    )
    def test_what_is_unknown_is_named(self, tmp_path, change, message):
        with pytest.raises(InputError, match=message):
            Plan(**{"experiments": ["hmode"], "runs": tmp_path} | change)


def write_result(runs, seed, **changes):
    """A finished run of HMoDE that nobody trained."""
    result = {"experiment": "hmode", "dataset": "synthetic", "fold": None, "profile": "smoke"}
    result |= {"seed": seed, "mae": 1.0, "config": "abc", "device": "cpu"} | changes
    folder = runs / "smoke" / "synthetic" / f"hmode-seed{seed}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))


class TestRefusals:
    """Each in a line, before anything trains."""

    @pytest.fixture(autouse=True)
    def _nothing_trains(self, monkeypatch):
        monkeypatch.setattr(cluster, "local_cluster", None)
        monkeypatch.setattr(cluster, "PATIENCE", 0.5)

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (("table99",), "'table99' is neither a table"),
            (("hmode", "--dataset", "sha", "--data-root", "nowhere"), "nowhere"),
            (("hmode", "--scheduler", "tcp://127.0.0.1:1"), "scheduler 'tcp://127.0.0.1:1' does"),
            (("hmode", "--scheduler", "somewhere"), "scheduler 'somewhere' does not answer"),
            (("hmode", "--workers", 10**6), "workers is 1000000, expected 1 to"),
            (("hmode", "--csv", "runs.txt"), "runs.txt: a table's name ends in .csv"),
            (("hmode", "--csv", "/dev/null/runs.csv"), "/dev/null/runs.csv: cannot be written"),
        ],
    )
    def test_what_cannot_be(self, tmp_path, monkeypatch, arguments, named):
        monkeypatch.chdir(tmp_path)
        result = call_sweep("runs", *arguments)
        assert result.exit_code == 2, result.output
        last = result.output.splitlines()[-1]
        assert last.startswith("Error: ")
        assert named in last
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["hmode", "baseline", "table4/concat"])
    def test_a_mixed_table(self, tmp_path, name):
        """Also where the table would show rows that are not to be trained now."""
        for seed in (0, 1):
            write_result(tmp_path, seed, config=f"config {seed}")
        result = call_sweep(tmp_path, name)
        assert result.exit_code == 2
        assert "hmode-seed0 has config 0, smoke/synthetic/hmode-seed1 has config 1" in result.output
        assert "runs" not in result.output.split("Error")[0]

    def test_a_table_that_would_be_mixed(self, tmp_path):
        write_result(tmp_path, 0, device="NVIDIA H200")
        result = call_sweep(tmp_path, "hmode")
        assert result.exit_code == 2
        assert "hmode-seed0 was trained on NVIDIA H200, its other seeds would be on cpu" in (
            result.output
        )

    def test_workers_that_would_train_two_runs_in_one_process(self, tmp_path):
        options = {"processes": False, "protocol": "tcp", "dashboard_address": None}
        with (
            LocalCluster(n_workers=1, threads_per_worker=2, **options) as workers,
            pytest.raises(InputError, match=r"has 2 threads; .* start workers with --nthreads 1"),
        ):
            sweep(plan(tmp_path, "hmode"), scheduler=workers.scheduler_address, say=str)
        assert not list(tmp_path.iterdir())

    def test_dask_is_not_installed(self, monkeypatch):
        for name in ("hmode.sweep", "hmode.cluster"):
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(hmode, "sweep")
        monkeypatch.setitem(sys.modules, "distributed", None)
        result = call("sweep", "hmode")
        assert result.exit_code == 2
        assert "several runs at once need pip install 'hmode[sweep]', --workers 0 does not" in (
            result.output
        )
