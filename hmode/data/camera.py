"""A pinhole camera over a ground plane."""

from dataclasses import dataclass, replace

import numpy as np

HEAD_HEIGHT = 1.58  # metres from the ground to the centre of an average head
HEAD_WIDTH = 0.22  # metres, diameter of a head: times pixels per metre, its size in an image


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at the origin, `height` metres above the ground, looking along y.

    Args:
        focal: focal length in pixels.
        pitch: angle in radians by which it looks down, in [0, pi/2).
        height: metres above the ground, more than `HEAD_HEIGHT`.
        size: (H, W) of the image in pixels.
        centre: (x, y) in pixels of the principal point.
        far: depth in metres of the farthest heads.
    """

    focal: float
    pitch: float
    height: float
    size: tuple[int, int]
    centre: tuple[float, float]
    far: float

    def project(self, ground, z=0.0) -> tuple[np.ndarray, np.ndarray]:
        """Pixels `[..., 2]` and pixels per metre `[...]` of points `[..., 2]` at height z."""
        x, y = np.moveaxis(np.asarray(ground, float), -1, 0)
        drop = self.height - z
        depth = np.maximum(y * np.cos(self.pitch) + drop * np.sin(self.pitch), 0.3)
        down = drop * np.cos(self.pitch) - y * np.sin(self.pitch)
        scale = self.focal / depth
        return np.stack([x * scale + self.centre[0], down * scale + self.centre[1]], -1), scale

    def scale_at(self, row, z=HEAD_HEIGHT) -> np.ndarray:
        """Pixels per metre of what is seen at an image row and is z metres high (<= 0: sky)."""
        slope = (np.asarray(row) - self.centre[1]) * np.cos(self.pitch)
        return (slope + self.focal * np.sin(self.pitch)) / (self.height - z)

    def perspective(self) -> np.ndarray:
        """float32 `[H, W]`: pixels per metre of a head in each row, that of `far` beyond it."""
        rows = self.scale_at(np.arange(self.size[0]) + 0.5)
        rows = np.maximum(rows, self.focal / self.far).astype(np.float32)
        return np.repeat(rows[:, None], self.size[1], axis=1)

    def at_depth(self, depth, z=HEAD_HEIGHT) -> np.ndarray:
        """The y in metres of what is z metres high and `depth` metres along the optical axis."""
        return (depth - (self.height - z) * np.sin(self.pitch)) / np.cos(self.pitch)

    def supersampled(self, factor: int) -> "Camera":
        """The same view with `factor` times the pixels, in the drawing library's coordinates,
        where whole numbers are the centres of pixels."""
        (height, width), (x, y) = self.size, self.centre
        return replace(
            self,
            focal=self.focal * factor,
            size=(height * factor, width * factor),
            centre=(x * factor - 0.5, y * factor - 0.5),
        )
