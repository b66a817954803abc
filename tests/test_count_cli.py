"""hmode count: prints, tables, maps; one bad picture does not spoil the others."""

import csv
import json
import os
import pickle
import signal
import stat
import subprocess
from importlib import import_module
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import noise, run_process
from helpers import one_line, stored
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import hmode
from hmode.cli import main
from hmode.experiments import splits
from hmode.models import build_model
from hmode.overlay import draw_overlay

count_module = import_module("hmode.cli.count")


def call(*arguments):
    return helpers.call("count", *arguments)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def photos(tmp_path):
    """A folder of three pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n, size in ((1, (40, 60)), (2, (64, 64)), (10, (5, 90))):
        Image.fromarray(noise(size, seed=n)).save(folder / f"p{n}.png")
    return folder


def errors(result):
    """The lines of an output that say what went wrong."""
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return [line for line in result.output.splitlines() if line.startswith("Error: ")]


def refused(*arguments):
    return one_line("count", *arguments)


def counts(run, *paths):
    model = hmode.load_run(run)
    return [hmode.count(path, model).count for path in paths]


class TestCounting:
    def test_one_picture_by_a_run_or_a_file_in_it(self, run, photos):
        path = photos / "p1.png"
        for weights in (run, run / "best.safetensors"):
            result = call(path, "--weights", weights, "--device", "cpu")
            assert result.exit_code == 0
            assert result.output == f"{path}: {counts(run, path)[0]:.1f} people\n"

    def test_a_folder_a_pattern_and_files_each_picture_once(self, run, photos, tmp_path):
        table = tmp_path / "tables" / "counts.csv"
        arguments = (photos, photos / "p?.png", photos / "p10.png", "--csv", table)
        result = call(*arguments, "--weights", run)
        assert result.exit_code == 0
        rows = list(csv.DictReader(table.open()))
        paths = [photos / f"p{n}.png" for n in (1, 2, 10)]
        assert [row["image"] for row in rows] == [str(path) for path in paths]
        assert [float(row["count"]) for row in rows] == pytest.approx(counts(run, *paths))
        assert [row["width"] + "x" + row["height"] for row in rows] == ["60x40", "64x64", "90x5"]
        experts = hmode.count(paths[0], hmode.load_run(run)).experts
        assert [float(rows[0][f"expert_{k}"]) for k in (1, 2, 3)] == pytest.approx(experts)
        assert len(result.output.splitlines()) == 3

    def test_maps_and_arrays(self, run, photos, tmp_path):
        maps, arrays = tmp_path / "out" / "maps", tmp_path / "out" / "arrays"
        result = call(photos, "--weights", run, "--map", maps, "--npy", arrays)
        assert result.exit_code == 0, result.output
        names = ["p1.png", "p10.png", "p2.png"]
        assert sorted(os.listdir(maps)) == [f"{name}.png" for name in names]
        assert sorted(os.listdir(arrays)) == [f"{name}.npy" for name in names]
        model = hmode.load_run(run)
        for name in names:
            expected = hmode.count(photos / name, model).full_size().numpy()
            found = np.load(arrays / f"{name}.npy")
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=1e-5)
            with Image.open(maps / f"{name}.png") as drawn:
                assert min(drawn.size) > 150

    def test_a_map_shows_where_the_people_are(self, run, tmp_path):
        """White paper, and density in its left half only: the right half stays white."""
        pixels = torch.full((3, 64, 128), 255, dtype=torch.uint8)
        counted = hmode.count(pixels, hmode.load_run(run))
        counted.prediction.density[...] = 0
        counted.prediction.density[..., :16] = 1
        figure = draw_overlay(pixels, counted)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        shown = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
        left, bottom, width, height = figure.axes[0].get_position().bounds
        rows, columns = shown.shape[:2]

        def colour(x, y):
            row = rows - 1 - int((bottom + y * height) * rows)
            return shown[row, int((left + x * width) * columns)]

        assert (colour(0.75, 0.5) == 255).all()
        assert colour(0.25, 0.5)[2] < 240
        assert figure.axes[1].get_ylabel() == "people per pixel"

    def test_files_of_one_name_do_not_overwrite_each_other(self, run, photos, tmp_path):
        other = tmp_path / "more" / "p1.png"
        other.parent.mkdir()
        Image.fromarray(noise((48, 48))).save(other)
        arrays = tmp_path / "arrays"
        result = call(photos / "p1.png", other, "--weights", run, "--npy", arrays)
        assert result.exit_code == 0
        assert np.load(arrays / "photos" / "p1.png.npy").shape == (40, 60)
        assert np.load(arrays / "more" / "p1.png.npy").shape == (48, 48)


class TestBadPictures:
    def test_each_is_one_line_and_the_others_are_counted(self, run, photos, tmp_path):
        (photos / "text.jpg").write_bytes(b"hello")
        Image.fromarray(noise((900, 900))).save(photos / "large.png")
        table, folder = tmp_path / "counts.csv", tmp_path / "none"
        folder.mkdir()
        named = (tmp_path / "gone.png", tmp_path / "*.tif", folder)
        limit = ("--max-memory", 0.82)
        result = call(photos, *named, "--weights", run, "--csv", table, *limit)
        lines = errors(result)
        assert result.exit_code == len(lines) == 5
        for path in (photos / "text.jpg", photos / "large.png", *named):
            assert len([line for line in lines if f"{path}: " in line]) == 1
        rows = list(csv.DictReader(table.open()))
        assert [row["image"] for row in rows] == [str(photos / f"p{n}.png") for n in (1, 2, 10)]
        assert len(result.output.splitlines()) == len(lines) + 3

    def test_no_file_of_a_folder_is_left_out_without_a_word(self, run, photos):
        """What is no picture by its content is named, whatever its suffix; what is one, counted."""
        (photos / "p1.png").rename(photos / "p1")
        Image.fromarray(noise((40, 40))).save(photos / "pair.mpo", "MPO")
        (photos / "notes.txt").write_text("no picture")
        (photos / "more").mkdir()
        (photos / "._p1.png").write_text("what a Mac leaves behind")
        result = call(photos, "--weights", run)
        assert result.exit_code == 2  # files not counted
        notes, folder = (line for line in sorted(errors(result), reverse=True))
        assert f"{photos / 'notes.txt'}: not a readable image" in notes
        assert folder == f"Error: {photos / 'more'}: a folder in a folder; to count it, name it too"
        assert f"Note: {photos}: hidden files are left out: ._p1.png\n" in result.output
        for name in ("p1", "p2.png", "p10.png", "pair.mpo"):
            assert f"\n{photos / name}: " in result.output

    def test_more_pixels_than_the_limit(self, run, photos):
        path = photos / "p2.png"
        result = call(path, "--weights", run, "--max-megapixels", 0.004)
        assert result.exit_code == 1
        (line,) = errors(result)
        assert "64 x 64 pixels, expected 1 to 4,000 in all" in line
        assert "--max-megapixels" in line
        assert call(path, "--weights", run, "--max-megapixels", 0.005).exit_code == 0

    def test_a_name_that_is_too_long_for_its_map_costs_a_line(self, run, photos, tmp_path):
        long = photos / ("p" * 248 + ".png")
        Image.fromarray(noise((32, 32))).save(long)
        table, arrays = tmp_path / "t.csv", tmp_path / "arrays"
        result = call(photos, "--weights", run, "--npy", arrays, "--map", arrays, "--csv", table)
        (line,) = errors(result)
        assert (result.exit_code, "File name too long" in line) == (1, True)
        assert len(table.read_text().splitlines()) == 5  # it was counted, though
        assert sorted(os.listdir(arrays)) == sorted(
            f"p{n}.png.{kind}" for n in (1, 2, 10) for kind in ("npy", "png")
        )

    @pytest.mark.skipif(os.name == "nt", reason="no such names there")
    def test_a_name_that_the_terminal_cannot_show_or_would_obey(self, run, tmp_path):
        for name in ("日本.png", os.fsdecode(b"caf\xe9.png")):  # the second is no text at all
            Image.fromarray(noise((32, 32))).save(tmp_path / name)
        (tmp_path / "bad\n\x1b[1m.png").touch()
        table = tmp_path / "t.csv"
        arguments = ["count", str(tmp_path), "--weights", str(run), "--csv", str(table)]
        result = CliRunner(charset="ascii").invoke(main, arguments)
        assert result.exit_code == 1
        assert len(result.output.splitlines()) == 3
        assert "\\u65e5\\u672c.png: " in result.output
        assert "bad\\n\\x1b[1m.png: " in result.output
        _, row = csv.DictReader(table.open(encoding="utf-8"))
        assert row["image"].endswith("日本.png")

    @pytest.mark.skipif(os.name != "posix", reason="kills a process with a signal")
    def test_what_was_counted_stays_when_it_is_killed(self, run, photos, tmp_path):
        table = tmp_path / "t.csv"
        arguments = ["count", photos, "--weights", run, "--csv", table, "--device", "cpu"]
        done = run_process(die_at_the_last, [str(each) for each in arguments])
        assert done.returncode == -signal.SIGKILL
        rows = list(csv.DictReader(table.open()))
        assert [Path(row["image"]).name for row in rows] == ["p1.png", "p2.png"]

    def test_a_cell_is_no_formula(self, run, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        names = ("=1+1.png", "@x.png", "a[1].png")  # the last would be a pattern
        for name in names:
            Image.fromarray(noise((32, 32))).save(name)
        assert call(*names, "--weights", run, "--csv", "t.csv").exit_code == 0
        rows = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
        assert [row["image"] for row in rows] == ["./=1+1.png", "./@x.png", "a[1].png"]


def die_at_the_last(arguments):
    read = count_module.to_pixels

    def die(path, **limits):
        if path.name == "p10.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, **limits)

    count_module.to_pixels = die
    main(arguments)


class TestOutput:
    @pytest.mark.parametrize("target", ["p1.png", "notes.txt", "link.png"])
    def test_no_file_of_the_user_is_replaced_by_a_table(self, run, photos, target):
        (photos / "link.png").symlink_to("p2.png")
        (photos / "notes.txt").write_text("no table")
        before = {path: path.read_bytes() for path in photos.iterdir()}
        line = refused("--weights", run, "--csv", photos / target, photos / "p1.png")
        assert f"{photos / target}: is there and is no table of ours" in line
        assert {path: path.read_bytes() for path in photos.iterdir()} == before

    def test_no_file_of_the_user_is_replaced_by_a_map(self, run, photos, tmp_path):
        (tmp_path / "p1.png.png").write_bytes((photos / "p2.png").read_bytes())
        (tmp_path / "p1.png.npy").write_bytes(b"no array")
        for option, kind in (("--map", "picture"), ("--npy", "array")):
            line = refused(photos / "p1.png", "--weights", run, option, tmp_path)
            assert f"is there and is no {kind} of ours" in line

    def test_an_output_is_replaced_by_its_like(self, run, photos, tmp_path):
        out = ("--csv", tmp_path / "t.csv", "--map", tmp_path / "m", "--npy", tmp_path / "m")
        for pictures in (photos, photos / "p1.png"):
            result = call(pictures, "--weights", run, *out)
            assert result.exit_code == 0, result.output
        assert len(list(csv.DictReader((tmp_path / "t.csv").open()))) == 1

    @pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
    def test_links_are_followed_and_pipes_written_to(self, run, photos, tmp_path):
        link, pipe = tmp_path / "link.csv", tmp_path / "pipe"
        link.symlink_to(tmp_path / "real.csv")
        os.mkfifo(pipe)
        with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
            assert call(photos / "p1.png", "--weights", run, "--csv", pipe).exit_code == 0
            piped = reader.communicate()[0]
        assert call(photos / "p1.png", "--weights", run, "--csv", link).exit_code == 0
        assert link.is_symlink()
        assert (tmp_path / "real.csv").read_text() == piped
        assert stat.S_ISFIFO(pipe.stat().st_mode)

    def test_maps_are_not_put_among_the_pictures(self, run, photos):
        assert "choose another folder" in refused(photos, "--weights", run, "--map", photos)

    def test_places_that_cannot_be_written_are_refused_before_counting(self, run, photos):
        file = photos / "notes.txt"
        file.write_text("a file, no folder")
        for option in ("--csv", "--map", "--npy"):
            assert str(file) in refused(photos / "p1.png", "--weights", run, option, file / "x")


class TestDoubts:
    def told(self, tmp_path, path, result=None, **config):
        folder = stored(tmp_path / "run", "Baseline")
        text = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(text))
        (folder / "result.json").write_text(json.dumps(result or {}))
        table = tmp_path / "t.csv"
        done = call(path, "--weights", folder / "best.safetensors", "--csv", table)
        assert done.exit_code == 0, done.output
        (row,) = csv.DictReader(table.open())
        assert done.output.endswith(
            f" people ({row['doubts']})\n" if row["doubts"] else " people\n"
        )
        return row["doubts"]

    @pytest.mark.parametrize(
        ("config", "doubts"),
        [
            ({"train": {"name": "sha", "images": 300}, "schedule": {"epochs": 40}}, ""),
            (
                {"train": {"name": "sha", "images": 9, "selected": [4] * 7}}
                | {"schedule": {"epochs": 2}},
                "trained on 14 crops only",
            ),
            (
                {"train": {"name": "synthetic", "length": 8}, "schedule": {"epochs": 2}},
                "trained on 16 crops only; trained on drawings",
            ),
        ],
    )
    def test_a_network_says_how_it_was_trained(self, photos, tmp_path, config, doubts):
        assert self.told(tmp_path, photos / "p1.png", **config) == doubts

    def test_a_count_beyond_all_training_images(self, photos, tmp_path):
        path = photos / "p1.png"
        people = counts(stored(tmp_path / "other", "Baseline"), path)[0]
        for densest, doubts in (
            (0.99 * people / (40 * 60), "denser than any training image"),
            (1.01 * people / (40 * 60), ""),
        ):
            assert self.told(tmp_path / str(densest), path, {"densest": densest}) == doubts

    def test_a_run_notes_its_densest_training_image(self, tmp_path):
        hmode.run("hmode", profile="smoke", runs=tmp_path, device="cpu", progress=False)
        (path,) = tmp_path.rglob("result.json")
        train = splits("synthetic", hmode.load_profile("smoke", "synthetic"))[0]
        densities = [sample.count / sample.image[0].numel() for sample in train]
        assert json.loads(path.read_text())["densest"] == max(densities)


class TestWeights:
    def test_without_them_it_says_how_to_get_some(self, photos, tmp_path):
        line = refused(photos / "p1.png", "--weights", tmp_path / "nowhere")
        for each in ("`hmode train hmode+rel`", "notebook 04", str(tmp_path / "nowhere")):
            assert each in line

    def test_what_are_no_weights_of_the_network(self, photos, tmp_path):
        other = build_model({"model": "Baseline", "width": 0.0625}).state_dict()
        run = stored(tmp_path / "run", "HMoDE", other)
        path, checkpoint = run / "best.safetensors", tmp_path / "model.pth"
        torch.save(other, checkpoint)
        for weights, said in (
            (tmp_path, "config.json is missing"),
            (run, f"{path}: not of the network of its config.json: "),
            (checkpoint, f"{checkpoint}: not a checkpoint of the released HMoDE"),
        ):
            assert said in refused(photos / "p1.png", "--weights", weights)
        path.write_bytes(b"\xff" * 100)
        line = refused(photos / "p1.png", "--weights", run)
        assert "best.safetensors: not a readable weights file" in line

    @pytest.mark.parametrize("kind", ["zip", "pickle"])
    def test_pickled_code_is_not_run(self, photos, tmp_path, kind):
        path, trace = tmp_path / "model.pth", tmp_path / "trace"
        content = {"model": Payload(str(trace))}
        if kind == "zip":
            torch.save(content, path)
        else:
            path.write_bytes(pickle.dumps(content, protocol=2))
        assert f"{path}: not a readable weights file: it holds more than tensors" in refused(
            photos / "p1.png", "--weights", path
        )
        assert not trace.exists()


class Payload:
    """Code that leaves a trace when it is unpickled."""

    def __init__(self, trace: str):
        self.trace = trace

    def __reduce__(self):
        return open, (self.trace, "w")
