"""ShanghaiTech A and B (Zhang et al., CVPR 2016)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat

from hmode.data.pictures import read_image
from hmode.data.sample import CrowdImage
from hmode.errors import InputError, MissingFileError

LAYOUT = (
    "part_X[_final]/{train,test}_data/images/IMG_<n>.jpg with "
    "ground-truth (or ground_truth)/GT_IMG_<n>.mat"
)


class ShanghaiTech(Sequence):
    """One split of ShanghaiTech part A or B, decoded on access.

    Coordinates are taken as they are; grey photographs become RGB; duplicate points are people.

    Args:
        part: "A" or "B".
        root: a folder with `part_A` (or `part_A_final`) in it or in its `ShanghaiTech` folder, or
            that part's folder itself.
        split: "train" or "test".
        max_side: scale images down so that the longer side has at most so many pixels, points
            with them; None leaves them as they are.

    Raises:
        MissingFileError: a folder or an annotation is not there.
        InputError: an option is unknown; on access, a file cannot be read.
    """

    SPLITS = ("train", "test")

    def __init__(
        self, part: str, root: str | Path, split: str = "train", *, max_side: int | None = None
    ):
        if split not in self.SPLITS:
            raise InputError(f"split is {split!r}, expected one of {self.SPLITS}")
        if max_side is not None and max_side < 1:
            raise InputError(f"max_side is {max_side!r}, expected None or a positive number")
        self.name, self.split, self.max_side = f"sh{part.lower()}", split, max_side
        folder = _find_part(Path(root), part) / f"{split}_data"
        self.images = sorted((folder / "images").glob("*.jpg"), key=_natural)
        if not self.images:
            raise MissingFileError(f"{folder / 'images'}: no .jpg images; expected {LAYOUT}")
        self.annotations = _annotations(folder, self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> CrowdImage:
        path = self.images[index]
        image, points = read_image(path), read_points(self.annotations[index])
        scale = min(1.0, self.max_side / max(image.size)) if self.max_side else 1.0
        if scale < 1:
            size = tuple(max(1, round(side * scale)) for side in image.size)
            points = points * (np.array(size, dtype=np.float32) / image.size).astype(np.float32)
            image = image.resize(size, Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return CrowdImage(pixels, torch.from_numpy(points), name=path.stem)

    def count_people(self, index: int) -> int:
        """Annotated people in one image, without decoding it."""
        return len(read_points(self.annotations[index]))

    def describe(self) -> dict:
        """What this is, for a run's configuration."""
        return {
            "name": self.name,
            "split": self.split,
            "images": len(self),
            "max_side": self.max_side,
        }


def read_points(path: Path) -> np.ndarray:
    """`[N, 2]` float32 (x, y) of a ShanghaiTech annotation file.

    Raises:
        InputError: the file is no such annotation.
    """
    try:
        content = loadmat(path)
    except Exception as error:  # a damaged file can break scipy's reader in many ways
        raise InputError(f"{path}: not a readable .mat file: {error}") from None
    try:
        location = content["image_info"][0, 0][0, 0]["location"]
        points = np.asarray(location, dtype=np.float32)
        points = points.reshape(0, 2) if points.size == 0 else points
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(points.shape)
    except (KeyError, IndexError, ValueError, TypeError):
        keys = sorted(key for key in content if not key.startswith("__"))
        raise InputError(
            f"{path}: expected image_info{{1,1}}.location of shape [N, 2], found variables {keys}"
        ) from None
    if not np.isfinite(points).all():
        raise InputError(f"{path}: location holds a coordinate that is not finite")
    return points


def _find_part(root: Path, part: str) -> Path:
    if not root.is_dir():
        raise MissingFileError(f"{root}: no such data folder; give --data-root, or set HMODE_DATA")
    names = (f"part_{part}", f"part_{part}_final")
    if root.name in names:
        return root
    for folder in (root, root / "ShanghaiTech"):
        for name in names:
            if (folder / name).is_dir():
                return folder / name
    found = sorted(path.name for path in root.iterdir())[:8]
    raise MissingFileError(
        f"{root}: no ShanghaiTech part {part}; expected {LAYOUT} in it or in "
        f"its ShanghaiTech folder, found {found}"
    )


def _annotations(folder: Path, images: list[Path]) -> list[Path]:
    for name in ("ground-truth", "ground_truth"):
        if (folder / name).is_dir():
            paths = [folder / name / f"GT_{image.stem}.mat" for image in images]
            missing = [path.name for path in paths if not path.is_file()]
            if missing:
                raise MissingFileError(
                    f"{folder / name}: no annotation for {len(missing)} of "
                    f"{len(images)} images, the first {missing[0]}"
                )
            return paths
    raise MissingFileError(f"{folder}: neither ground-truth nor ground_truth is there")


def _natural(path: Path) -> tuple[int, str]:
    digits = "".join(filter(str.isdigit, path.stem))
    return int(digits or 0), path.stem
