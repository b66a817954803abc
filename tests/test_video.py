"""Counting videos: frames by time, upright, damaged ones named; what is written can be read."""

import csv
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import noise
from helpers import stored
from PIL import Image

import hmode
from hmode.cli import main
from hmode.errors import InputError, MissingFileError
from hmode.video import WINDOW, Film, _upright, frames, is_video, running_median

av = pytest.importorskip("av", reason="extra video is not installed")


def film(path, seconds=4, rate=5, size=(64, 96), codec="mpeg4", noisy=False):
    """Frame i is of the grey 10 i, or of noise."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(seconds * rate):
            pixels = noise(size, seed=i) if noisy else np.full((*size, 3), 10 * i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("runs") / "tiny", "Baseline")


def call(*arguments):
    return CliRunner().invoke(main, ["count", *map(str, arguments)])


class TestFrames:
    @pytest.mark.parametrize(
        ("every", "expected"),
        [
            (1, [0, 1, 2, 3]),
            (0.5, [0, 0.6, 1.2, 1.8, 2.4, 3, 3.6]),
            (9, [0]),
            (0, np.arange(20) / 5),
        ],
    )
    def test_one_every_so_many_seconds(self, tmp_path, every, expected):
        """The first that is due: frames are a fifth of a second apart."""
        path, said = film(tmp_path / "clip.mp4"), []
        found = list(frames(str(path), every, said.append))
        assert [frame.time for frame in found] == pytest.approx(list(expected))
        greys = [frame.pixels.float().mean().item() for frame in found]
        assert greys == pytest.approx([50 * time for time in expected], abs=4)
        assert found[0].pixels.shape == (3, 64, 96)
        assert said == []

    @pytest.mark.parametrize("rotation", [0, 90, -90, 180])
    def test_turned_as_the_camera_noted(self, rotation):
        pixels = noise((6, 9))
        found = _upright(pixels, rotation).permute(1, 2, 0).numpy()
        turned = Image.fromarray(pixels).rotate(rotation, expand=True)  # counterclockwise
        assert np.array_equal(found, np.asarray(turned))

    @pytest.mark.parametrize("content", [b"", b"no video", b"\0\0\0\x18ftypisom" + bytes(99)])
    def test_what_is_no_video(self, tmp_path, content):
        path = tmp_path / "clip.mp4"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"clip\.mp4: not a readable video"):
            next(frames(str(path), 1, print))

    def test_what_is_not_there(self, tmp_path):
        with pytest.raises(MissingFileError, match=r"clip\.mp4: no such file"):
            next(frames(str(tmp_path / "clip.mp4"), 1, print))
        with pytest.raises(InputError, match="7: "):
            next(frames("7", 1, print))

    def test_without_the_extra(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(InputError, match=r"Video needs av: pip install 'hmode\[video\]'"):
            next(frames("clip.mp4", 1, print))

    def test_one_that_is_cut_off_says_so(self, tmp_path):
        path, said = film(tmp_path / "clip.webm", codec="libvpx", noisy=True), []
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert 5 < len(list(frames(str(path), 0, said.append))) < 15
        assert f"{path}: ends at " in said[-1]
        assert "but is 4.00 s long" in said[-1]

    def test_damaged_files_are_read_or_refused(self, tmp_path):
        """Whatever is changed in the file: frames, or an error of ours."""
        path = film(tmp_path / "clip.avi", codec="mjpeg")
        whole = path.read_bytes()
        for seed in range(20):
            rng = np.random.default_rng(seed)
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 20):
                data[at] = rng.integers(256)
            path.write_bytes(data[: rng.integers(len(data) // 2, len(data) + 1)])
            try:
                for frame in frames(str(path), 0.5, lambda line: None):
                    assert frame.pixels.dtype == torch.uint8
            except InputError:
                with pytest.raises(InputError, match=r"clip\.avi"):
                    list(frames(str(path), 0.5, lambda line: None))


def test_what_is_taken_for_a_video(tmp_path):
    for name in ("a.MP4", "rtsp://camera/1", "0", "b.mov"):
        assert is_video(name)
    (tmp_path / "c.mov").mkdir()
    for name in ("a.jpg", "1.png", str(tmp_path / "c.mov")):
        assert not is_video(name)


def test_the_running_median_is_of_the_last_frames():
    counts = [100.0] * 50 + [1.0, 2.0, 3.0, 4.0, 5.0]
    assert running_median(counts[:1]) == 100
    assert running_median(counts) == np.median(counts[-WINDOW:]) == 5


class TestCount:
    def test_rows_a_total_a_plot_and_a_video(self, run, tmp_path):
        path = film(tmp_path / "clip.mp4", seconds=5)
        table, plot, out = (tmp_path / name for name in ("t.csv", "plot.png", "out.mp4"))
        written = ("--csv", table, "--plot", plot, "--video", out)
        result = call(path, "--weights", run, "--frames", 4, *written)
        assert result.exit_code == 0, result.output
        rows = list(csv.DictReader(table.open()))
        model = hmode.load_run(run)
        expected = [hmode.count(f.pixels, model).count for f in frames(str(path), 1, print)][:4]
        assert [float(row["count"]) for row in rows] == pytest.approx(expected, rel=1e-4)
        assert [float(row["time"]) for row in rows] == [0, 1, 2, 3]
        medians = [np.median(expected[: i + 1]) for i in range(4)]
        assert [float(row["median"]) for row in rows] == pytest.approx(medians, rel=1e-4)
        *lines, total = result.output.splitlines()
        assert len(lines) == 4
        assert total.startswith(f"{path}: 4 frames counted, 0 damaged; ")
        with Image.open(plot) as drawn:
            assert min(drawn.size) > 300
        shown = list(frames(str(out), 0, print))
        assert [frame.time for frame in shown] == [0, 1, 2, 3]

    def test_damaged_frames_are_named_and_the_others_counted(self, run, tmp_path):
        path = film(tmp_path / "clip.avi", codec="mjpeg", noisy=True)
        data = bytearray(path.read_bytes())
        starts = [i for i in range(len(data)) if data.startswith(b"\xff\xd8\xff", i)]
        for start in starts[3:6]:
            data[start + 20 : start + 220] = 100 * b"\xff\xd9"  # the end of a picture
        path.write_bytes(data)
        result = call(path, "--weights", run, "--every", 0)
        assert result.exit_code == 3
        errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 3
        assert all("a frame is damaged" in line for line in errors)
        assert "17 frames counted, 3 damaged" in result.output

    def test_beside_other_things(self, run, tmp_path):
        path = film(tmp_path / "clip.mp4")
        for more in ([path], ["--map", tmp_path / "maps"]):
            result = call(path, *more, "--weights", run)
            assert result.exit_code == 2
            assert "a video is counted by itself" in result.output
        result = call(tmp_path, "--weights", run)
        assert (
            "clip.mp4: not a readable image: a video, which is counted by itself" in result.output
        )


def test_a_place_that_cannot_be_written(tmp_path):
    pyplot = pytest.importorskip("matplotlib.figure")
    written = Film(tmp_path / "gone" / "out.mp4", 1)
    with pytest.raises(hmode.errors.OutputError, match="cannot be written"):  # noqa: PT012
        written.add(pyplot.Figure())
        written.close()
