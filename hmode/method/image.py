"""One annotated image of a crowd, and what a network sees of it.

Positions are (x, y) in pixels, and pixel (row r, column c) covers [c, c+1) x [r, r+1).
"""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256

import torch
from torch import Tensor

from hmode.errors import InputError


@dataclass(frozen=True, eq=False)
class CrowdImage:
    """A crowd image with the point annotations of its heads.

    Args:
        image: uint8 `[3, H, W]`, RGB.
        points: float32 `[N, 2]`, (x, y) of each head. Duplicates are people; a point outside the
            frame is a person who lies in no density map.
        name: what the image is called in its data set, and in error messages.
        perspective: float32 `[H, W]`, pixels per metre of the heads that belong there, or None.
        mask: bool `[H, W]`, True where people are counted, or None (everywhere).
        annotated: False where nobody has said, or published, who is in the image: then there are
            no points, which is not to say that there are no people.

    Raises:
        InputError: a field has another type or shape, a coordinate is not finite, or an image
            without annotation has points.
    """

    image: Tensor
    points: Tensor
    name: str
    perspective: Tensor | None = None
    mask: Tensor | None = None
    annotated: bool = True

    def __post_init__(self):
        _require(self, "image", self.image, torch.uint8, (3, None, None))
        _require(self, "points", self.points, torch.float32, (None, 2))
        if not torch.isfinite(self.points).all():
            bad = int((~torch.isfinite(self.points).all(dim=1)).nonzero()[0])
            raise InputError(
                f"{self.name}: point {bad} is {self.points[bad].tolist()}; "
                "coordinates must be finite"
            )
        if self.perspective is not None:
            _require(self, "perspective", self.perspective, torch.float32, self.size)
        if self.mask is not None:
            _require(self, "mask", self.mask, torch.bool, self.size)
        if not self.annotated and len(self.points):
            raise InputError(f"{self.name}: {len(self.points)} points, yet it is not annotated")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def count(self) -> int:
        """Number of annotated people, those outside the frame included; with a mask, those in it.

        Raises:
            InputError: the image is not annotated.
        """
        if not self.annotated:
            raise InputError(f"{self.name}: not annotated, so its people are not known")
        if self.mask is not None:
            return int(people_in(self.mask, self.points).sum())
        return len(self.points)

    def fingerprint(self) -> bytes:
        """A hash of the name, the pixels, the points and the mask."""
        found = sha256(repr((self.name, self.size, self.annotated)).encode())
        for part in (self.image, self.points, self.mask):
            found.update(b"none" if part is None else part.cpu().numpy().tobytes())
        return found.digest()


def _require(sample: CrowdImage, field: str, value, dtype, shape) -> None:
    found = type(value).__name__
    if isinstance(value, Tensor):
        found = f"{value.dtype} {list(value.shape)}"
        sides = [
            there if side is None else side for side, there in zip(shape, value.shape, strict=False)
        ]
        if value.dtype == dtype and value.ndim == len(shape) and [*value.shape] == sides:
            return
    wanted = ", ".join("n" if side is None else str(side) for side in shape)
    raise InputError(f"{sample.name}: {field} is {found}, expected {dtype} [{wanted}]")


def inside(points, size: tuple[int, int]):
    """Which points `[N, 2]`, (x, y), lie in a frame of (H, W) pixels: bool `[N]`, a tensor for
    tensors and an array for arrays."""
    x, y = points[:, 0], points[:, 1]
    return (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])


def people_in(region: Tensor, points: Tensor) -> Tensor:
    """Which of the points `[N, 2]`, (x, y), lie in a region, bool `[H, W]`: bool `[N]`."""
    found = inside(points, region.shape)
    x, y = points[found].long().unbind(1)
    found[found.clone()] = region[y, x]
    return found


# Mean and spread of ImageNet's RGB values, in [0, 1]: what the encoder's weights expect.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def normalise(image: Tensor) -> Tensor:
    """uint8 RGB `[..., 3, H, W]` → float32 of about zero mean and unit spread, same device."""
    mean, std = _mean_and_std(image.device)
    return (image.float() / 255 - mean) / std


@cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """Float32 `[3, 1, 1]` each, copied to a device once: every copy makes a GPU's queue wait."""
    with torch.inference_mode(False):  # the first call may be made in it
        colours = torch.tensor([IMAGE_MEAN, IMAGE_STD], device=device)
    return tuple(colours[:, :, None, None])
