"""What several test files need: small crowds, tiny ShanghaiTech folders, a single thread."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from scipy.io import savemat

from hmode.data import CrowdImage

# No test depends on wall time.
settings.register_profile("hmode", deadline=None)
settings.load_profile("hmode")

os.environ["MPLBACKEND"] = "Agg"
# A run repeats bit for bit only on the same number of threads; and tests run side by side.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


# Those that take longest come first, or one worker is left with them at the end.
LONG = ("test_notebooks.py", "TestNotebooks", "TestUpload", "TestThoseThatCome", "test_gpu_path.py")


def pytest_configure(config):
    config.option.loadscopereorder = False  # xdist's own order: first where there are most


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONG))


# Processes that tests start and kill are forked from one that has done nothing but imports: to
# import torch takes longer than what most of them do.
# torch._dynamo is what the first optimiser of a process imports.
PRELOADED = ["hmode.cli", "hmode.experiments", "torch._dynamo", "hypothesis", "scipy.io"]
FORKED = "forkserver" in multiprocessing.get_all_start_methods()
CONTEXT = multiprocessing.get_context("forkserver" if FORKED else "spawn")
if FORKED:
    CONTEXT.set_forkserver_preload(PRELOADED)


def _piped(out, err, function, args):
    for pipe, stream in ((out, 1), (err, 2)):
        os.dup2(pipe.fileno(), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
    function(*args)


def _all_of(pipe) -> str:
    with open(pipe.fileno(), closefd=False) as file:
        return file.read()


def run_process(function, *args) -> subprocess.CompletedProcess:
    """What comes of a function in a process of its own, as `subprocess.run` tells it."""
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(2)]
    process = CONTEXT.Process(target=_piped, args=(*(write for _, write in pipes), function, args))
    process.start()
    for _, write in pipes:
        write.close()
    with ThreadPoolExecutor() as readers:
        texts = [*readers.map(_all_of, (read for read, _ in pipes))]
    process.join()
    return subprocess.CompletedProcess((function, *args), process.exitcode, *texts)


@pytest.fixture(autouse=True)
def _untouched_environment(monkeypatch):
    """A reader's own settings must not change what the tests see."""
    for name in ("HMODE_PROFILE", "HMODE_OUTPUT", "HMODE_STATIC", "HMODE_PRECISION"):
        monkeypatch.delenv(name, raising=False)


def crowd(count, size=(64, 64), seed=0, name="crowd") -> CrowdImage:
    """Noise with `count` people at random places inside the frame."""
    rng = np.random.default_rng([seed, count, *size])
    image = torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8))
    points = rng.uniform(0.01, 0.99, (count, 2)) * size[::-1]
    return CrowdImage(image, torch.from_numpy(points.astype(np.float32)), name)


def crowds(counts, size=(64, 64), seed=0) -> list[CrowdImage]:
    return [crowd(n, size, seed + i, f"crowd-{i}") for i, n in enumerate(counts)]


def write_annotation(path: Path, points) -> None:
    """A .mat file as ShanghaiTech's: image_info{1,1}.location and .number, nested structs."""
    points = np.asarray(points, dtype=float)
    inner = np.empty((1, 1), dtype=[("location", object), ("number", object)])
    inner[0, 0] = (points, np.array([[len(points)]]))
    outer = np.empty((1, 1), dtype=object)
    outer[0, 0] = inner
    savemat(path, {"image_info": outer})


def write_split(folder: Path, images: dict, truth="ground-truth", quality=95) -> Path:
    """Write {n: (pixels, points)} as IMG_n.jpg and GT_IMG_n.mat; pixels [H, W] or [H, W, 3]."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / truth).mkdir(exist_ok=True)
    for n, (pixels, points) in images.items():
        picture = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
        picture.save(folder / "images" / f"IMG_{n}.jpg", quality=quality, subsampling=0)
        write_annotation(folder / truth / f"GT_IMG_{n}.mat", points)
    return folder


def noise(size=(64, 64), seed=0, channels=3) -> np.ndarray:
    shape = size if channels == 1 else (*size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_shanghaitech(root: Path, *, part="part_A", train=4, test=3, side=64) -> Path:
    """A tiny part of ShanghaiTech below `root`, with 5 + n people in image n."""
    rng = np.random.default_rng(7)
    for split, length in (("train", train), ("test", test)):
        images = {
            n: (noise((side, side), seed=n + 100 * length), rng.uniform(0, side, (5 + n, 2)))
            for n in range(1, length + 1)
        }
        write_split(root / part / f"{split}_data", images)
    return root


@pytest.fixture(scope="session")
def tiny_sha(tmp_path_factory) -> Path:
    """A data root with a ShanghaiTech part A of 4 and 3 noisy images."""
    return write_shanghaitech(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def fresh_interpreter_environment() -> dict:
    """The environment for a Python process that finds what this one finds."""
    path = os.pathsep.join([os.getcwd(), *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
