"""Videos, cameras and streams as sampled frames, and their counts over time."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from hmode.data.formats import one_line
from hmode.errors import InputError, MissingFileError, OutputError
from hmode.extras import need

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".ts", ".3gp")
# What opens a camera by its number: (FFmpeg's name of the system's cameras, their names).
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
WINDOW = 9  # frames of the running median: a count is off by chance, a crowd changes slowly
MISSED = 1.0  # seconds at the end whose lack is no matter of rounding
PATIENCE = 20.0  # seconds to wait for a stream


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a video: seconds from its start, and uint8 `[3, H, W]`, RGB, upright."""

    time: float
    pixels: Tensor


def is_video(source: str) -> bool:
    """Whether that names a video by its suffix, an address, or a camera by its number."""
    path = Path(source)
    is_camera = source.isdecimal() and not path.exists()
    return "://" in source or is_camera or (path.suffix.lower() in SUFFIXES and not path.is_dir())


def frames(source: str, every: float, damaged: Callable[[str], object]) -> Iterator[Frame]:
    """The first frame, and then one every so many seconds.

    Args:
        source: a file, an address (rtsp, http, …) or the number of a camera.
        every: seconds from one frame to the next, at least; 0: all frames.
        damaged: is told, in a line, of each frame that cannot be read and is left out.

    Raises:
        MissingFileError, InputError: it is not there, or is no video; the extra "video" is not
            installed.
    """
    av = need("av", "video", "Video")
    due = -math.inf
    with _opened(av, source) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}  # else damage is patched up
        time = 0.0
        for packet in _packets(av, container, stream, source, damaged):
            try:
                decoded = packet.decode()
            except av.error.FFmpegError as error:
                damaged(f"{source}: after {time:.2f} s, a frame is damaged: {one_line(error)}")
                continue
            for frame in decoded:
                time = frame.time if frame.time is not None else time
                if frame.is_corrupt:
                    damaged(f"{source}: at {time:.2f} s, a frame is damaged")
                elif time >= due:
                    due = time + every - 1e-6
                    yield Frame(time, _upright(frame.to_ndarray(format="rgb24"), frame.rotation))
        stated = (container.duration or 0) / av.time_base
        if stream.duration is not None:
            stated = float(stream.duration * stream.time_base)
        if stated - time > MISSED:
            damaged(f"{source}: ends at {time:.2f} s, but is {stated:.2f} s long by its header")


def _packets(av, container, stream, source: str, damaged: Callable) -> Iterator:
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError as error:  # cut off, or the line is dead
        damaged(f"{source}: ends early: {one_line(error)}")


def _opened(av, source: str):
    options = {}
    if source.isdecimal() and not Path(source).exists():
        kind, name = CAMERAS.get(sys.platform, (None, None))
        if kind is None:
            raise InputError(f"{source}: cameras are known by number on Linux and macOS only")
        options["format"], address = kind, name.format(source)
    else:
        address = source
        if "://" not in source and not Path(source).is_file():
            raise MissingFileError(f"{source}: no such file")
    try:
        container = av.open(address, timeout=PATIENCE, **options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{source}: not a readable video: {one_line(error)}") from None
    if not container.streams.video:
        container.close()
        raise InputError(f"{source}: there are no pictures in it, only sound or text")
    return container


def _upright(pixels: np.ndarray, rotation: int) -> Tensor:
    """`[H, W, 3]`, turned counterclockwise by so many degrees as the camera noted → `[3, H, W]`."""
    turned = np.rot90(pixels, round(rotation / 90))
    return torch.from_numpy(np.ascontiguousarray(turned)).permute(2, 0, 1)


def running_median(counts: list[float]) -> float:
    """The median of the last `WINDOW` counts."""
    return median(counts[-WINDOW:])


class Film:
    """A video file, made of figures that stay for `every` seconds each.

    Raises:
        InputError: the extra "video" is not installed.
        OutputError: on `add` and `close`, it cannot be written.
    """

    def __init__(self, path: Path, every: float):
        self.av = need("av", "video", "Video")
        self.path, self.every, self.container = path, max(every, 0.04), None

    def add(self, figure) -> None:
        """One more picture: a matplotlib figure."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
        frame = self.av.VideoFrame.from_ndarray(pixels, format="rgb24")
        with self._writing():
            if self.container is None:
                self._open(frame.width // 2 * 2, frame.height // 2 * 2)
            self.container.mux(self.stream.encode(frame))

    def _open(self, width: int, height: int) -> None:
        codec = "libx264" if "libx264" in self.av.codecs_available else "mpeg4"
        self.container = self.av.open(str(self.path), "w")
        self.container.metadata["comment"] = "hmode"
        rate = Fraction(1 / self.every).limit_denominator(1000)
        self.stream = self.container.add_stream(codec, rate=rate)
        self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"

    def close(self) -> None:
        """Write what is still held back, and the end."""
        if self.container is not None:
            with self._writing():
                self.container.mux(self.stream.encode(None))
                self.container.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (self.av.error.FFmpegError, OSError, ValueError) as error:
            raise OutputError(f"{self.path}: cannot be written: {one_line(error)}") from None
