"""The command line: what it offers, prints, writes and refuses."""

import csv
import os
import re
import signal
import subprocess
import sys

import click
import pytest
from conftest import run_process, write_shanghaitech
from helpers import call, one_line
from matplotlib.figure import Figure

import hmode
from hmode.cli import main
from hmode.outputs import harmless, prepare
from hmode.report import save_picture


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_sha):
    """A smoke training from the command line on the tiny ShanghaiTech: output, run folder."""
    runs = tmp_path_factory.mktemp("cli")
    table = runs / "rows.csv"
    result = call(
        *("train", "hmode", "--profile", "smoke", "--dataset", "sha", "--data-root", tiny_sha),
        *("--device", "cpu", "--seed", 3, "--runs", runs, "--csv", table),
    )
    assert result.exit_code == 0, result.output
    return result.output, runs / "smoke" / "sha" / "hmode-seed3", table


def numbers(text):
    mae = float(re.search(r"MAE (\d+\.\d+)", text)[1])
    mse = float(re.search(r"MSE \(root\) (\d+\.\d+)", text)[1])
    return mae, mse


class TestHelp:
    def test_every_option_of_every_command_is_explained(self):
        commands = {(name,): command for name, command in main.commands.items()}
        for (name,), group in list(commands.items()):
            commands |= {(name, sub): c for sub, c in getattr(group, "commands", {}).items()}
        assert len(commands) > 12
        for names, command in commands.items():
            result = call(*names, "-h")
            assert result.exit_code == 0
            assert command.get_short_help_str()
            for option in command.params:
                if isinstance(option, click.Option):
                    assert option.help or option.name in ("port", "epochs"), (names, option.name)
                    assert option.opts[0] in result.output

    def test_version(self):
        assert hmode.__version__ in call("--version").output


class TestTrain:
    def test_it_prints_the_errors_of_the_run(self, trained):
        output, run_dir, _ = trained
        assert numbers(output) == pytest.approx(errors_of(run_dir), abs=0.0051)

    def test_it_writes_a_row_a_run(self, trained):
        _, run_dir, table = trained
        (row,) = csv.DictReader(table.open())
        assert (row["experiment"], row["dataset"], row["seed"]) == ("hmode", "sha", "3")
        mae, mse = errors_of(run_dir)
        assert float(row["mae"]) == pytest.approx(mae)
        assert float(row["mse"]) == pytest.approx(mse)


def errors_of(run_dir):
    """MAE and MSE by hand from the stored table."""
    rows = list(csv.DictReader((run_dir / "test.csv").open()))
    differences = [float(row["predicted"]) - float(row["true"]) for row in rows]
    n = len(differences)
    return sum(map(abs, differences)) / n, (sum(d * d for d in differences) / n) ** 0.5


class TestEvaluate:
    def evaluate(self, run_dir, root, *more):
        data = ("--dataset", "sha", "--data-root", root, "--max-side", 256, "--device", "cpu")
        result = call("evaluate", run_dir, *data, *more)
        assert result.exit_code == 0, result.output
        return result.output

    def test_it_finds_the_errors_of_the_training(self, trained, tiny_sha, tmp_path):
        _, run_dir, _ = trained
        output = self.evaluate(run_dir, tiny_sha, "--csv", tmp_path / "counts.csv")
        assert numbers(output) == pytest.approx(errors_of(run_dir), abs=0.0051)
        assert "3 images, 21 people" in output
        rows = list(csv.DictReader((tmp_path / "counts.csv").open()))
        assert [row["name"] for row in rows] == ["IMG_1", "IMG_2", "IMG_3"]
        assert [row["true"] for row in rows] == ["6", "7", "8"]

    def test_the_last_weights_and_the_training_split(self, trained, tiny_sha):
        _, run_dir, _ = trained
        output = self.evaluate(run_dir, tiny_sha, "--which", "last", "--split", "train")
        train = hmode.open_dataset("sha", tiny_sha, max_side=256)
        expected = hmode.evaluate(hmode.load_run(run_dir, "last"), train)
        assert numbers(output) == pytest.approx((expected.mae, expected.mse), abs=0.0051)


class TestFiles:
    def test_pictures_replace_pictures_of_ours_only(self, trained, tiny_sha, tmp_path):
        data = ("--dataset", "sha", "--data-root", tiny_sha, "--max-side", 256, "--device", "cpu")
        picture = tmp_path / "p.png"
        for _ in range(2):
            result = call("evaluate", trained[1], *data, "--picture", picture)
            assert result.exit_code == 0, result.output
        picture.write_bytes(b"a photograph")
        message = one_line("evaluate", trained[1], *data, "--picture", picture)
        assert "is there and is no picture of ours" in message
        assert picture.read_bytes() == b"a photograph"
        for ending in ("pdf", "svg"):
            save_picture(Figure(), tmp_path / f"p.{ending}")
            prepare(tmp_path / f"p.{ending}", "picture")

    @pytest.mark.parametrize("command", ["train", "evaluate", "sweep"])
    def test_tables_replace_tables_of_ours_only(self, trained, tmp_path, command):
        notes = tmp_path / "notes.csv"
        notes.write_text("dear diary")
        arguments = {
            "train": ("hmode", "--profile", "smoke", "--runs", tmp_path),
            "evaluate": (trained[1],),
            "sweep": ("baseline", "--profile", "smoke", "--runs", tmp_path),
        }
        message = one_line(command, *arguments[command], "--csv", notes)
        assert "is there and is no table of ours" in message
        assert notes.read_text() == "dear diary"

    def test_a_name_is_no_formula(self):
        names = ["=1+1", "@x", "-2", "+3", "IMG_1"]
        assert [harmless(name) for name in names] == ["'=1+1", "'@x", "'-2", "'+3", "IMG_1"]

    def test_errors_of_the_system_are_one_line(self, monkeypatch, tmp_path):
        def fail(*_, **__):
            raise PermissionError(13, "Permission denied", str(tmp_path / "x\n"))

        monkeypatch.setattr("hmode.results.tables.aggregate", fail)
        message = one_line("tables", "--runs", tmp_path, "--to", tmp_path)
        assert message == f"Error: {tmp_path / 'x'}\\n: Permission denied"

    @pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
    @pytest.mark.parametrize(
        ("start", "code", "last"),
        [
            (("-m", "hmode", "--version"), 128 + signal.SIGINT, "Aborted!"),
            (("-c", "import hmode"), -signal.SIGINT, "KeyboardInterrupt"),
        ],
    )
    def test_an_interrupt_while_torch_is_imported(
        self, tmp_path, fresh_interpreter_environment, start, code, last
    ):
        """One line from a command; a library leaves the signal alone."""
        (tmp_path / "torch.py").write_text("import time\nprint(flush=True)\ntime.sleep(60)\n")
        environment = dict(fresh_interpreter_environment)
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # Whoever runs the tests in the background may have them ignore the signal.
        pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        with subprocess.Popen([sys.executable, *start], env=environment, **pipes) as process:
            assert process.stdout.readline() == "\n"  # torch is being imported
            process.send_signal(signal.SIGINT)
            lines = process.communicate()[1].splitlines()
        assert (process.returncode, lines[-1]) == (code, last)
        assert len(lines) == 1 or last != "Aborted!"

    @pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
    def test_what_is_terminated_cleans_up(self, tmp_path):
        done = run_process(check_and_terminate, tmp_path)
        assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
        assert done.stdout == "cleaned up\n"


def check_and_terminate(folder):
    def check(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            print("cleaned up")

    main.commands["data"].callback.__globals__["check"] = check
    main(["data", "check", "folder", "--root", str(folder)])


class TestRefusals:
    def test_no_run_there(self, tmp_path):
        message = one_line("evaluate", tmp_path / "nowhere")
        assert str(tmp_path / "nowhere") in message
        assert "config.json" in message

    def test_no_data_there(self, trained, tmp_path):
        message = one_line(
            "evaluate", trained[1], "--dataset", "sha", "--data-root", tmp_path / "x"
        )
        assert str(tmp_path / "x") in message
        message = one_line("train", "hmode", "--dataset", "sha", "--data-root", tmp_path / "x")
        assert "HMODE_DATA" in message

    def test_a_table_that_cannot_be_written_is_refused_before_counting(self, trained, tiny_sha):
        data = ("--dataset", "sha", "--data-root", tiny_sha)
        file = trained[1] / "config.json"
        one_line("evaluate", trained[1], *data, "--csv", file / "t.csv")

    def test_another_configuration_in_the_same_place(self, trained, tiny_sha, tmp_path):
        """Other data under the same names: the folder is named, and left alone."""
        before = (trained[1] / "last.safetensors").read_bytes()
        message = one_line(
            *("train", "hmode", "--profile", "smoke", "--dataset", "sha", "--seed", 3),
            *("--data-root", write_shanghaitech(tmp_path, train=6), "--device", "cpu"),
            *("--runs", trained[1].parents[2]),
        )
        assert str(trained[1]) in message
        assert "train.images is 4 there, 6 here" in message
        assert (trained[1] / "last.safetensors").read_bytes() == before

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (("train", "hmod"), "hmod"),
            (("train",), "EXPERIMENT"),
            (("train", "table99"), "hmode experiments"),
            (("train", "hmode", "--profile", "tiny"), "tiny"),
            (("train", "hmode", "--seed", "-1"), "-1"),
            (("train", "hmode", "--device", "tpu"), "tpu"),
            (("evaluate",), "RUN"),
            (("evaluate", "x", "--which", "first"), "first"),
            (("count",), "count"),
        ],
    )
    def test_arguments_that_nobody_knows(self, arguments, named):
        result = call(*arguments)
        assert (result.exit_code, "Traceback" in result.output) == (2, False)
        assert isinstance(result.exception, SystemExit)
        assert named in result.output

    def test_no_notebooks_there(self, tmp_path):
        message = one_line("reproduce", "--notebooks", tmp_path / "none", "--output", tmp_path)
        assert str(tmp_path / "none") in message
