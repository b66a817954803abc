"""Crowds in which scales conflict: heads of 6 and of 60 pixels side by side, whatever the row.

An image is a wall of panels: strips, and inserts on top of them, each through a camera of its own,
with its own vanishing point and size of heads; some people walk in front of all of it. Heads
without bodies of a size that no head of that view has look like heads at one wrong scale only.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from hmode.data.camera import HEAD_HEIGHT, HEAD_WIDTH, Camera
from hmode.data.people import CROWN, People, dress
from hmode.data.scenery import DECOYS, Scene, expose, sample_scene
from hmode.data.synthetic import (
    SUPERSAMPLING,
    SyntheticCrowd,
    annotate,
    paint,
    painter,
    place,
    spread,
)

HEADS = (6.0, 60.0)  # pixels across, in an image of 256 rows
FRAME = (28, 28, 30)


class Panel(NamedTuple):
    """A part of the image, and the scene and people that it shows through a camera of its own."""

    rows: slice
    columns: slice
    scene: Scene
    people: People
    veil: float = 0.0


class Content(NamedTuple):
    """What a panel is filled with: the share of it that heads cover, clutter as `Scene.clutter`,
    and the share of its contrast that is lost."""

    crowded: float
    clutter: tuple
    veil: float = 0.0


def conflict_of_scales(rng, camera: Camera, head: float, heads, busy: float) -> Content:
    """A crowd, and mostly masks that could pass for heads in another panel, if there is one whose
    heads differ enough.

    Args:
        head, heads: sizes of heads in this and in all panels, in pixels. Large ones may cover more,
            as they would be too few among the small ones else.
        busy: about which share heads cover in panels with the smallest.
    """
    ratio = rng.choice(heads) / head
    alike = 0.45 < ratio < 2.2 or rng.random() < 0.2
    masks = () if alike else decoys(rng, camera, head, ratio)
    crowded = busy * np.exp(rng.normal(0, 0.6)) * np.sqrt(head / heads.min())
    return Content(min(crowded, 0.6), masks)


def conflict_of_order(rng, camera: Camera, head: float, heads, busy: float) -> Content:
    """A crowd that can hardly be seen, or hardly anybody among masks as large as heads."""
    if rng.random() < 0.5:
        return Content(np.exp(rng.uniform(np.log(0.15), np.log(0.6))), (), rng.uniform(0.6, 0.85))
    return Content(0.01, decoys(rng, camera, head, 1.0))


def sample_wall(
    rng: np.random.Generator, size: tuple[int, int], content=conflict_of_scales
) -> tuple[list[Panel], list[Panel]]:
    """The panels of a random image, those on top last, and who walks in front of them."""
    boxes = strips(rng, size) + [insert(rng, size) for _ in range(rng.integers(1, 3))]
    unit, light = size[0] / 256, None
    shares = (rng.permutation(len(boxes)) + rng.random(len(boxes))) / len(boxes)
    heads = unit * HEADS[0] * (HEADS[1] / HEADS[0]) ** shares  # small and large in each image
    busy = np.exp(rng.uniform(np.log(0.01), np.log(0.5)))
    panels = []
    for (rows, columns), head in zip(boxes, heads, strict=True):
        shape = rows.stop - rows.start, columns.stop - columns.start
        camera = aim(rng, shape, head / HEAD_WIDTH)
        scene = sample_scene(rng, camera)
        crowded, clutter, veil = content(rng, camera, head, heads, busy)
        light = light or scene.light
        scene = replace(scene, clutter=clutter, light=light)
        people = dress(rng, *place(rng, scene, round(crowded * shape[0] * shape[1] / head**2)))
        panels.append(Panel(rows, columns, scene, people, veil))
    passers = []
    for _ in range(rng.integers(0, 3)):
        camera = aim(rng, size, unit * rng.uniform(18, 36) / HEAD_WIDTH)
        person = dress(rng, spread(rng, camera, 1), rng.uniform(-np.pi, np.pi, 1))
        scene = replace(panels[0].scene, camera=camera, clutter=())
        passers.append(Panel(slice(0, size[0]), slice(0, size[1]), scene, person))
    return panels, passers


def strips(rng: np.random.Generator, size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """The image cut into three to five boxes, the largest in two each time."""
    boxes = [(slice(0, size[0]), slice(0, size[1]))]
    for _ in range(rng.integers(2, 5)):
        sides = np.array([[side.stop - side.start for side in box] for box in boxes])
        i = int(sides.prod(axis=1).argmax())
        box, across = boxes.pop(i), int(rng.random() * sides[i].sum() > sides[i, 0])
        cut = box[across].start + round(sides[i, across] * rng.uniform(0.35, 0.65))
        for side in (slice(box[across].start, cut), slice(cut, box[across].stop)):
            boxes.append((side, box[1]) if across == 0 else (box[0], side))
    return boxes


def insert(rng: np.random.Generator, size: tuple[int, int]) -> tuple[slice, slice]:
    """A box somewhere in the image, a quarter to a half of it high and wide."""
    sides = [round(side * rng.uniform(0.25, 0.5)) for side in size]
    starts = [int(rng.integers(whole - side + 1)) for whole, side in zip(size, sides, strict=True)]
    return tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))


def aim(rng: np.random.Generator, size: tuple[int, int], scale: float) -> Camera:
    """A random camera that sees heads at about one scale, in pixels per metre, in all rows."""
    height, pitch = size[0], rng.uniform(0.35, 0.95)
    change = rng.uniform(0.03, 0.25)  # of the scale from the middle to the lowest row
    focal = max(height / (2 * change * np.tan(pitch)), 1.3 * max(size))
    above = focal * np.sin(pitch) / scale
    far = focal / (scale - np.cos(pitch) / above * height * rng.uniform(0.2, 0.5))
    numbers = (float(number) for number in (focal, pitch, above + HEAD_HEIGHT))
    return Camera(*numbers, size, (size[1] / 2, height / 2), float(far))


def decoys(rng, camera: Camera, head: float, ratio: float) -> tuple:
    """Clutter: masks of about `ratio` times the size of heads."""
    widths = {kind: 2 * parts[0][0][2] for kind, (_, parts) in DECOYS.items()}
    kind = min(widths, key=lambda kind: abs(np.log(widths[kind] / HEAD_WIDTH / ratio)))
    covered = np.prod(camera.size) * np.exp(rng.uniform(np.log(0.01), np.log(0.1)))
    number = 1 + round(covered / (widths[kind] / HEAD_WIDTH * head) ** 2)
    return tuple((kind, float(x), float(y)) for x, y in spread(rng, camera, number))


def annotate_wall(
    panels: list[Panel], passers: list[Panel], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Centres float32 `[N, 2]` of the heads in sight, pixels per metre float32 `[H, W]`."""
    owner, perspective = np.empty(size, int), np.empty(size, np.float32)
    for k, panel in enumerate(panels):
        owner[panel.rows, panel.columns] = k
        perspective[panel.rows, panel.columns] = panel.scene.camera.perspective()
    for k, passer in enumerate(passers, len(panels)):
        shape = silhouette(passer)
        owner[shape] = k
        top = passer.people.stature - CROWN
        perspective[shape] = passer.scene.camera.project(passer.people.ground, top)[1]
    points = []
    for k, (rows, columns, scene, people, _) in enumerate([*panels, *passers]):
        found, seen = annotate(scene.camera, people)
        for kind, *ground in scene.clutter:  # a decoy in front of a head hides it
            (_, z, radius), _ = DECOYS[kind][1][0]
            centre, scale = scene.camera.project(ground, z)
            covered = np.hypot(*(found - centre).T) < radius * scale
            seen &= ~(covered & (people.ground[:, 1] > ground[1]))
        found = found[seen] + np.array([columns.start, rows.start], np.float32)
        found = found[(found < size[::-1]).all(axis=1)]  # a sum may round up
        x, y = found.astype(int).T
        points.append(found[owner[y, x] == k])
    return np.concatenate(points), perspective


def silhouette(passer: Panel) -> np.ndarray:
    """bool `[H, W]`: where a passer-by is."""
    camera = passer.scene.camera.supersampled(1)
    colours = {part: np.full((1, 3), 255.0) for part in passer.people.colours}
    canvas = Image.new("RGB", camera.size[::-1])
    white = replace(passer.people, colours=colours)
    painter(ImageDraw.Draw(canvas), camera, passer.scene.light.sun, white)(0)
    return np.asarray(canvas).any(axis=2)


def render_wall(panels: list[Panel], passers: list[Panel], size: tuple[int, int]) -> np.ndarray:
    """uint8 `[H, W, 3]`: the panels, framed, and the passers-by, in one light."""
    scene = panels[0].scene
    rng = np.random.default_rng(scene.seed)
    canvas = Image.new("RGB", (size[1] * SUPERSAMPLING, size[0] * SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for rows, columns, view, people, veil in panels:
        corner = columns.start * SUPERSAMPLING, rows.start * SUPERSAMPLING
        picture = paint(view, people, rng)
        if veil:
            mean = picture.resize((1, 1), Image.Resampling.BOX).resize(picture.size)
            picture = Image.blend(picture, mean, veil)
        canvas.paste(picture, corner)
        end = corner[0] + picture.width - 1, corner[1] + picture.height - 1
        draw.rectangle((*corner, *end), outline=FRAME, width=SUPERSAMPLING)
    for _, _, view, people, _ in passers:
        painter(draw, view.camera.supersampled(SUPERSAMPLING), view.light.sun, people)(0)
    whole = replace(scene, camera=replace(scene.camera, size=size), clutter=())
    return expose(whole, canvas.reduce(SUPERSAMPLING), rng)


class ScalesCrowd(SyntheticCrowd):
    """A data set of crowds in which scales conflict: options and items as `SyntheticCrowd`'s.

    perspective is the pixels per metre of the heads of the view, or of the passer-by, that a pixel
    shows: times `HEAD_WIDTH`, the size of head that is right there. People hidden by another view
    or by a passer-by are not annotated.
    """

    name = "scales"
    content = staticmethod(conflict_of_scales)

    def _draw(self, rng):
        panels, passers = sample_wall(rng, self.size, self.content)
        points, perspective = annotate_wall(panels, passers, self.size)
        return render_wall(panels, passers, self.size), points, perspective

    def _count(self, rng):
        return len(annotate_wall(*sample_wall(rng, self.size, self.content), self.size)[0])


class OrderCrowd(ScalesCrowd):
    """A data set of crowds in which counts conflict: many people who can hardly be seen beside
    masks where nobody is; else as `ScalesCrowd`."""

    name = "order"
    content = staticmethod(conflict_of_order)
