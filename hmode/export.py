"""A network as an ONNX file, for programs without PyTorch."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from hmode.errors import InputError
from hmode.extras import need
from hmode.method.image import IMAGE_MEAN, IMAGE_STD
from hmode.method.network import MIN_SIDE
from hmode.models import CountingNetwork
from hmode.runs import write_atomically

TOLERANCE = 1e-4  # of the largest density, and of the count
SIZES = ((MIN_SIDE, 75), (96, 128), (161, 130))  # on which file and network are compared


class _FromPixels(nn.Module):
    """uint8 RGB `[1, 3, H, W]` → people `[1]`, and people per pixel `[1, 1, h, w]`."""

    def __init__(self, model: CountingNetwork):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(IMAGE_STD)[:, None, None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        prediction = self.model((image.float() / 255 - self.mean) / self.std)
        return prediction.count, prediction.density / prediction.scale


def export(model: CountingNetwork, path: str | Path) -> float:
    """Write a network as an ONNX file and see that onnxruntime counts with it what PyTorch does.

    Its input is `image`, uint8 `[1, 3, H, W]`, RGB, of any sides of at least 32 pixels. Its outputs
    are `count`, float32 `[1]`, people, and `density`, float32 `[1, 1, h, w]`, people per pixel in
    cells of `stride` pixels (metadata of the file); cells at the right and the bottom may reach
    beyond the image. A network with a working size (metadata, too) wants images of that size.

    Args:
        model: is put into evaluation mode, on the CPU.
        path: of the file.

    Returns:
        The largest difference on three sizes, as a share of the largest density or the count.

    Raises:
        InputError: a library of the extra "export" is not installed; or the network counts
            otherwise in onnxruntime (hard gates do where two experts are tied).
        OutputError: the file cannot be written.
    """
    import hmode  # whole by now

    for library in ("onnx", "onnxscript", "onnxruntime"):
        need(library, "export", "ONNX export")
    network = _FromPixels(model.cpu()).eval()
    sides = {2: _side("height"), 3: _side("width")}
    with torch.no_grad():
        program = torch.onnx.export(
            network,
            (torch.zeros(1, 3, 70, 90, dtype=torch.uint8),),
            input_names=["image"],
            output_names=["count", "density"],
            dynamic_shapes=(sides,),
            dynamo=True,
            verbose=False,
        )
    about = {"stride": model.stride, "hmode": hmode.__version__, "network": model.config["model"]}
    about["working_pixels"] = model.working_pixels or "any"
    program.model.metadata_props.update({name: str(value) for name, value in about.items()})
    with TemporaryDirectory() as folder:
        made = Path(folder) / "model.onnx"
        program.save(made)
        difference = _difference(network, made)
        if not difference <= TOLERANCE:
            raise InputError(f"{path}: onnxruntime and PyTorch differ by {difference:.1e}")
        write_atomically(Path(path), lambda partial: shutil.copyfile(made, partial))
    return difference


def _side(name: str):
    return torch.export.Dim(name, min=MIN_SIDE, max=2**16)


@torch.no_grad()
def _difference(network: nn.Module, path: Path) -> float:
    """How far the file's outputs are from the network's, on noise of three sizes."""
    session = need("onnxruntime", "export", "ONNX export").InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    rng, worst = np.random.default_rng(0), 0.0
    for size in SIZES:
        image = rng.integers(0, 256, (1, 3, *size), dtype=np.uint8)
        for found, expected in zip(
            session.run(None, {"image": image}), network(torch.from_numpy(image)), strict=True
        ):
            gap = np.abs(found - expected.numpy()).max() / max(expected.abs().max().item(), 1e-6)
            worst = max(worst, float(gap))
    return worst
