"""Synthetic crowds: rendered scenes whose heads and perspective are known exactly.

The data set needs no download: image i of a split is drawn from the numbers (seed, split, i)
alone, so it is the same in any order, in any process and for any length.
"""

import operator
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

from hmode.data.camera import HEAD_HEIGHT, Camera
from hmode.data.people import CROWN, People, body_parts, dress
from hmode.data.scenery import (
    THINGS,
    Scene,
    cast_shadows,
    draw_backdrop,
    draw_clutter,
    expose,
    paint_ground,
    sample_scene,
)
from hmode.errors import InputError
from hmode.method.image import CrowdImage

LENGTHS = {"train": 240, "val": 60, "test": 60}
SPACING = 0.45  # metres: nobody stands closer to another person
SUPERSAMPLING = 2  # drawing at twice the size smooths the edges


class SyntheticCrowd(Sequence):
    """A data set of rendered crowds with every head annotated.

    Args:
        split: "train", "val" or "test"; no two share an image.
        seed: which data set, an integer of at least 0.
        length: number of images; by default 240, 60 and 60. It changes no image.
        size: side or (height, width) of the images in pixels, at least 64. People are scaled
            to the image height: at 256 rows, heads are about 3 to 30 pixels wide.

    Items are `CrowdImage`s: image uint8 `[3, H, W]`, points float32 `[N, 2]` inside the frame,
    perspective float32 `[H, W]`, the pixels per metre of a head in that row.

    Raises:
        InputError: an argument is not one of those.
    """

    name = "synthetic"

    def __init__(self, *, split="train", seed=0, length=None, size=256):
        if split not in list(LENGTHS):  # in the list, as it may not be hashable
            raise InputError(f"split is {split!r}, expected one of {', '.join(LENGTHS)}")
        self.split = split
        self.seed = _integer("seed", seed, 0)
        self.length = LENGTHS[split] if length is None else _integer("length", length, 1)
        sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        if len(sides) != 2:
            raise InputError(f"size is {size!r}, expected an integer or (height, width)")
        self.size = tuple(_integer("size", side, 64) for side in sides)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        index = self._index(index)
        image, points, perspective = self._draw(self._random(index))
        return CrowdImage(
            image=torch.from_numpy(image.transpose(2, 0, 1).copy()),
            points=torch.from_numpy(points),
            name=f"{self.name}-{self.split}-{index:04d}",
            perspective=torch.from_numpy(perspective),
        )

    def count_people(self, index: int) -> int:
        """Annotated people in one image, which is not drawn."""
        return self._count(self._random(self._index(index)))

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scene, people = sample_crowd(rng, self.size)
        points, inside = annotate(scene.camera, people)
        return render(scene, people), points[inside], scene.camera.perspective()

    def _count(self, rng: np.random.Generator) -> int:
        scene, people = sample_crowd(rng, self.size)
        return int(annotate(scene.camera, people)[1].sum())

    def _index(self, index: int) -> int:
        index = operator.index(index)
        if not -self.length <= index < self.length:
            raise IndexError(f"image {index} of {self.length} in the {self.name} {self.split} set")
        return index % self.length

    def _random(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, list(LENGTHS).index(self.split), index])

    def describe(self) -> dict:
        """What identifies this data set, as values that JSON knows."""
        return {
            "name": self.name,
            "split": self.split,
            "seed": self.seed,
            "length": self.length,
            "size": list(self.size),
        }

    def fingerprint(self, index: int) -> None:
        """None: `describe` says all that decides an image."""


def _integer(name: str, value, least: int) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{name} is {value!r}, expected an integer of at least {least}")
    if value < least:
        raise InputError(f"{name} is {value}, expected at least {least}")
    return int(value)


def sample_crowd(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Scene, People]:
    """A random scene and the people in it."""
    count = np.clip(np.exp(rng.normal(np.log(72), 1.2)), 3, 1000)
    camera = sample_camera(rng, size, count)
    scene = sample_scene(rng, camera)
    count = max(3, round(count * size[1] / size[0]))
    ground, away = place(rng, scene, count)
    return scene, dress(rng, ground, away)


def sample_camera(rng: np.random.Generator, size: tuple[int, int], count: float) -> Camera:
    """A random camera, sampled by what it shows: the heads' scale in the far and the near, and
    the row of the farthest heads, for which height and pitch are then solved."""
    height, unit = size[0], size[0] / 256
    busy = np.clip(np.log(count / 10) / np.log(50), 0, 1)  # large crowds are seen from far above
    far_scale = unit * np.exp(rng.uniform(np.log(13), np.log(45 - 30 * busy)))
    ratio = np.exp(rng.uniform(np.log(1.8), np.log(8 - 4 * busy)))
    ratio = min(ratio, 140 * unit / far_scale)
    far_row = height * rng.uniform(0.02, 0.48 - 0.2 * busy)
    horizon = far_row - (height - far_row) / (ratio - 1)
    focal = height * rng.uniform(0.8, 1.4)
    pitch = np.arctan((height / 2 - horizon) / focal)
    above = np.cos(pitch) * (far_row - horizon) / far_scale
    numbers = (float(number) for number in (focal, pitch, above + HEAD_HEIGHT))
    return Camera(*numbers, size, (size[1] / 2, height / 2), float(focal / far_scale))


def spread(rng: np.random.Generator, camera: Camera, count: int) -> np.ndarray:
    """Points `[count, 2]`, uniform on the ground below the heads in view and a bit beside it."""
    near = camera.focal / camera.scale_at(camera.size[0])
    depth = np.sqrt(rng.uniform(near**2, camera.far**2, count))
    x = rng.uniform(-0.55, 0.55, count) * camera.size[1] * depth / camera.focal
    return np.stack([x, camera.at_depth(depth)], -1)


def place(rng: np.random.Generator, scene: Scene, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ground `[N, 2]` of about `count` people in view, and the yaw `[N]` each roughly has."""
    layout = rng.choice(["clusters", "front", "rows"], p=[0.6, 0.22, 0.18])
    grouped, yaw = {"clusters": clusters, "front": front, "rows": rows}[layout](
        rng,
        scene.camera,
        3 * count + 20,  # many will be out of view or too close
    )
    loose, spare = spread(rng, scene.camera, 2 + count // 6), spread(rng, scene.camera, count)
    ground = np.concatenate([loose, grouped, spare])
    turned = rng.uniform(-np.pi, np.pi, len(loose) + len(spare))
    yaw = np.concatenate([turned[: len(loose)], yaw, turned[len(loose) :]])

    depth = scene.camera.focal / scene.camera.project(ground, HEAD_HEIGHT)[1]
    keep = depth <= scene.camera.far
    for kind, x, y in scene.clutter:
        keep &= np.hypot(*(ground - (x, y)).T) > THINGS[kind][0]
    ground, yaw = ground[keep], yaw[keep]
    keep = far_apart(ground, SPACING)
    ground, yaw = ground[keep], yaw[keep]
    points, _ = scene.camera.project(ground, HEAD_HEIGHT)
    seen = ((points >= 0) & (points < scene.camera.size[::-1])).all(axis=1)
    last = np.searchsorted(np.cumsum(seen), count, side="left") + 1
    return ground[:last], yaw[:last]


def clusters(rng, camera: Camera, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A Thomas process: normal scatter about uniform centres; a cluster looks one way."""
    number = rng.integers(1, 4 + count // 60)
    centres = spread(rng, camera, number)
    share = rng.dirichlet(np.full(number, 1.5))
    parent = rng.choice(number, size=count, p=share)
    density = np.exp(rng.uniform(np.log(0.8), np.log(6), number))  # people per m2 at a centre
    radius = np.sqrt(count / 3 * share / (2 * np.pi * density))
    scatter = rng.normal(size=(count, 2)) * radius[parent, None]
    return centres[parent] + scatter, rng.uniform(-np.pi, np.pi, number)[parent]


def front(rng, camera: Camera, count: int) -> tuple[np.ndarray, np.ndarray]:
    """People who press towards the far end, or towards the camera, and look there."""
    ground = spread(rng, camera, count)
    far, away = camera.at_depth(camera.far), rng.random() < 0.7
    near = camera.at_depth(camera.focal / camera.scale_at(camera.size[0]))
    depth = rng.exponential(rng.uniform(0.15, 0.5) * (far - near), count)
    ground[:, 1] = far - depth if away else near + depth
    return ground, np.full(count, np.pi if away else 0.0)


def rows(rng, camera: Camera, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with aisles and empty places, filled up around one spot."""
    centre = spread(rng, camera, 1)[0]
    step = np.array([rng.uniform(0.6, 0.9), rng.uniform(0.9, 1.4)])
    reach = int(np.sqrt(count)) + 1
    grid = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2), -1).reshape(-1, 2)
    grid = grid[(grid[:, 0] % rng.integers(7, 14) > 0) & (rng.random(len(grid)) > 0.15)]
    ground = grid * step + rng.normal(0, 0.06, grid.shape)
    order = np.argsort(np.hypot(*(ground / (1.6, 1)).T))[:count]
    return centre + ground[order], np.full(len(order), rng.choice([0.0, np.pi]))


def far_apart(ground: np.ndarray, distance: float) -> np.ndarray:
    """Which points `[N]` stay when each drops those after it that are nearer than `distance`."""
    keep = np.ones(len(ground), bool)
    pairs = cKDTree(ground).query_pairs(distance, output_type="ndarray")
    for first, second in pairs[np.lexsort(pairs.T[::-1])].tolist():
        if keep[first]:
            keep[second] = False
    return keep


def annotate(camera: Camera, people: People) -> tuple[np.ndarray, np.ndarray]:
    """Head centres float32 `[N, 2]` in pixels, and which `[N]` are inside the frame."""
    points = camera.project(people.ground, people.stature - CROWN)[0].astype(np.float32)
    return points, ((points >= 0) & (points < camera.size[::-1])).all(axis=1)


def render(scene: Scene, people: People) -> np.ndarray:
    """uint8 `[H, W, 3]`: the scene with those people; its textures do not depend on them."""
    rng = np.random.default_rng(scene.seed)
    return expose(scene, paint(scene, people, rng).reduce(SUPERSAMPLING), rng)


def paint(scene: Scene, people: People, rng: np.random.Generator) -> Image.Image:
    """The scene with those people, `SUPERSAMPLING` times as large, before it is exposed."""
    camera = scene.camera.supersampled(SUPERSAMPLING)
    things = np.array([(x, y) for _, x, y in scene.clutter]).reshape(-1, 2)
    clear = np.array([THINGS[kind][0] for kind, _, _ in scene.clutter])
    image = cast_shadows(
        scene,
        paint_ground(scene, rng),
        np.concatenate([people.ground, things]),
        np.concatenate([np.full(len(people), 0.2), 0.4 * clear]),
        np.concatenate([people.stature, np.ones(len(things))]),
    )
    canvas = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    canvas = canvas.resize(camera.size[::-1], Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(canvas)
    draw_backdrop(draw, scene, camera, rng)
    tones = rng.integers(2**16, size=len(things)).tolist()
    draw_person = painter(draw, camera, scene.light.sun, people)
    for i in np.argsort(-np.concatenate([people.ground, things])[:, 1]).tolist():  # far to near
        if i < len(people):
            draw_person(i)
        else:
            thing = i - len(people)
            draw_clutter(draw, camera, *scene.clutter[thing], tones[thing])
    return canvas


def painter(draw, camera: Camera, sun: np.ndarray, people: People):
    """A function of i that draws person i of those people, seen by that camera."""
    parts = [
        (draw.ellipse if corners.shape[1] == 4 else draw.polygon, corners, fills, shown)
        for corners, fills, shown in body_parts(camera, sun, people)
    ]

    def draw_person(i: int) -> None:
        for method, corners, fills, shown in parts:
            if shown[i]:
                method(corners[i].tolist(), fills[i])

    return draw_person
