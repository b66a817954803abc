"""The stage of a synthetic crowd: a pinhole camera, the light, the ground and what stands on it.

World coordinates are metres: x to the right, y away from the camera along the ground, z up.
Image coordinates are pixels (x right, y down), and colours are RGB from 0 to 255.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from hmode.data.camera import Camera

GROUNDS = {  # colour, contrast of the grain, sides of the tiles in metres (0: none)
    "asphalt": ((104, 104, 108), 22, (0, 0)),
    "grass": ((94, 120, 66), 24, (0, 0)),
    "paving": ((158, 150, 140), 14, (0.6, 0.6)),
    "slabs": ((136, 136, 134), 16, (2.4, 1.6)),
    "brick": ((146, 108, 92), 18, (0.5, 0.25)),
    "sand": ((190, 172, 136), 20, (0, 0)),
}
BACKDROPS = {"city": 0.36, "park": 0.24, "stage": 0.16, "wall": 0.1, "open": 0.14}
TIMES = {  # probability, gain, tint, darkness and length of shadows, top and bottom of the sky
    "day": (0.45, 1.1, (1.02, 1.0, 0.96), 0.5, 0.8, (92, 148, 212), (196, 218, 236)),
    "overcast": (0.25, 0.96, (0.98, 1.0, 1.02), 0.25, 0.15, (164, 172, 182), (214, 216, 218)),
    "dusk": (0.17, 0.78, (1.12, 0.95, 0.82), 0.36, 2.0, (96, 104, 156), (250, 190, 140)),
    "night": (0.13, 0.55, (0.92, 0.96, 1.12), 0.3, 0.4, (22, 26, 52), (62, 62, 90)),
}
GREY, DARK, WOOD, LEAF, GLOBE = (
    (92, 96, 100),
    (40, 44, 50),
    (146, 108, 72),
    (72, 100, 54),
    (240,) * 3,
)
PAINT = ((168, 44, 40), (44, 76, 130), (216, 212, 204), (52, 54, 60), (206, 160, 56), (70, 112, 84))
CLUTTER = {  # metres that people keep clear, then the parts (colour None: any of PAINT);
    # boxes are (dx, dy, base, width, depth, height), balls are (dx, z, radius)
    "lamp": (0.3, [((0, 0, 0, 0.1, 0.1, 4.5), GREY), ((-0.35, 4.5, 0.2), GLOBE),
                   ((0.35, 4.5, 0.2), GLOBE)]),
    "bin": (0.5, [((0, 0, 0, 0.55, 0.5, 0.9), (66, 86, 72)), ((0, 0, 0.9, 0.62, 0.5, 0.1), DARK)]),
    "crate": (0.7, [((0, 0, 0, 0.9, 0.6, 0.6), WOOD)]),
    "bollard": (0.3, [((0, 0, 0, 0.14, 0.14, 0.8), GREY), ((0, 0.85, 0.12), GREY)]),
    "ball": (0.4, [((0, 0.14, 0.14), None)]),
    "bush": (0.8, [((-0.3, 0.4, 0.4), LEAF), ((0.35, 0.35, 0.38), LEAF), ((0, 0.6, 0.42), LEAF)]),
    "sign": (0.4, [((0, 0, 0, 0.08, 0.08, 2.1), GREY), ((0, 2.2, 0.3), None)]),
    "balloons": (0.5, [((-0.16, 2.2, 0.15), None), ((0.14, 2.3, 0.15), PAINT[0]),
                       ((0, 2.55, 0.15), PAINT[4])]),
    "bench": (1.1, [((0, 0, 0.4, 1.8, 0.5, 0.08), WOOD), ((0, 0.5, 0.48, 1.8, 0.06, 0.4), WOOD)]),
    "car": (2.6, [((-1.3, 0.32, 0.32), DARK), ((1.3, 0.32, 0.32), DARK),
                  ((0, 0, 0.3, 4.2, 1.7, 0.6), None), ((-0.2, 0.1, 0.9, 2.3, 1.5, 0.5), GREY),
                  ((-0.2, 0.1, 1.4, 2.0, 1.5, 0.06), None)]),
}  # fmt: skip
DECOYS = {  # heads without people, of many sizes; as CLUTTER
    f"mask {width} m": (0.15 * width, [((0, 1.62, 0.5 * width), (62, 46, 40)),
                                       ((0, 1.62 - 0.12 * width, 0.4 * width), (206, 164, 138))])
    for width in (0.045, 0.08, 0.22, 0.6, 1.1)
}  # fmt: skip
THINGS = {**CLUTTER, **DECOYS}


@dataclass(frozen=True)
class Light:
    """The light of a scene: its colour and strength, the sun and how dark shadows are."""

    time: str
    cast: np.ndarray  # gain of red, green and blue
    sun: np.ndarray  # where a shadow falls: metres (x, y) per metre of height
    shadow: float  # share of the light that a shadow takes, 0 to 1


@dataclass(frozen=True)
class Scene:
    """All of an image but its people; `seed` is that of its textures and noise."""

    camera: Camera
    light: Light
    ground: str
    backdrop: str
    clutter: tuple[tuple[str, float, float], ...]  # kind, x, y
    seed: int


def sample_light(rng: np.random.Generator) -> Light:
    """Light of a random time of day."""
    time = str(rng.choice(list(TIMES), p=[row[0] for row in TIMES.values()]))
    _, gain, tint, shadow, length, *_ = TIMES[time]
    angle = rng.uniform(0, 2 * np.pi)
    cast = gain * np.array(tint) * rng.uniform(0.85, 1.12) * rng.normal(1, 0.02, 3)
    sun = length * rng.uniform(0.6, 1.3) * np.array([np.cos(angle), np.sin(angle)])
    return Light(time, cast, sun, shadow)


def sample_scene(rng: np.random.Generator, camera: Camera) -> Scene:
    """A random stage in front of a camera."""
    ground = str(rng.choice(list(GROUNDS)))
    backdrop = str(rng.choice(list(BACKDROPS), p=list(BACKDROPS.values())))
    kinds = [kind for kind in CLUTTER if kind != "car" or ground in ("asphalt", "slabs")]
    kinds = rng.choice(kinds, size=rng.poisson(4))
    near = camera.focal / camera.scale_at(camera.size[0])
    depth = np.sqrt(rng.uniform(near**2, camera.far**2, len(kinds)))
    x = rng.uniform(-0.55, 0.55, len(kinds)) * camera.size[1] * depth / camera.focal
    # What is wide or tall would hide the crowd if it stood right before the camera.
    clear = np.isin(kinds, ["ball", "bollard"]) | (depth > 0.5 * camera.far)
    y = camera.at_depth(depth)
    clutter = tuple((str(kinds[i]), float(x[i]), float(y[i])) for i in np.flatnonzero(clear))
    return Scene(camera, sample_light(rng), ground, backdrop, clutter, int(rng.integers(2**32)))


def fractal_noise(rng: np.random.Generator, side: int, power: float) -> np.ndarray:
    """Periodic noise `[side, side]` of mean 0, deviation 1 and spectrum 1 / frequency^power."""
    wave = np.fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    noise = np.fft.irfft2(wave / _falloff(side, power), s=(side, side)).astype(np.float32)
    return noise / noise.std()


@cache
def _falloff(side: int, power: float) -> np.ndarray:
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    return frequency**power


def look_up(noise: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Periodic noise `[n, n]` at columns x `[H, W]` and rows y `[H, 1]`, linear in between."""
    side = len(noise)
    row = np.floor(y).astype(np.int32)
    lines = noise[row[:, 0] % side] * (1 - y + row) + noise[(row[:, 0] + 1) % side] * (y - row)
    column = np.floor(x).astype(np.int32)
    start = side * np.arange(len(y), dtype=np.int32)[:, None]
    left, right = (np.take(lines, start + (column + k) % side) for k in (0, 1))
    return left + (right - left) * (x - column)


def paint_ground(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """float32 `[H, W, 3]`: the textured ground, and the sky above the horizon."""
    camera, (height, width) = scene.camera, scene.camera.size
    colour, contrast, tile = GROUNDS[scene.ground]
    limit = camera.focal / camera.far / 30
    scale = np.maximum(camera.scale_at(np.arange(height) + 0.5, 0), limit)[:, None].astype("f4")
    x = (np.arange(width, dtype=np.float32) + 0.5 - camera.centre[0]) / scale
    y = camera.at_depth(camera.focal / scale, 0).astype(np.float32)
    noise = fractal_noise(rng, 128, 0.8)
    grain = look_up(noise, 4 * x, 4 * y) + look_up(noise, 19 * x, 19 * y)
    tone = contrast * 0.5 * grain
    if tile[0]:
        tone = tone - 34 * tile_joints(rng, camera, x, y, scale, tile, noise)
    if scene.ground == "grass" and rng.random() < 0.5:  # mowing
        tone = tone + 9 * np.tanh(8 * np.sin(x * rng.uniform(0.6, 1.2)))
    if scene.ground == "asphalt" and rng.random() < 0.6:  # a painted line
        offset = np.abs(x - rng.uniform(-4, 4) - y * rng.uniform(-0.6, 0.6))
        tone = tone + 75 * np.clip((0.09 - offset) * scale + 0.5, 0, 1) * (grain > -1.2)
    tone *= np.clip(camera.far * scale / camera.focal * 2, 0, 1)  # texture ends in the distance
    colour = np.array(colour) * rng.normal(1, 0.08) * rng.normal(1, 0.02, 3)
    image = colour.astype(np.float32) + tone[..., None]
    horizon = np.clip(np.ceil(camera.centre[1] - camera.focal * np.tan(camera.pitch)), 0, height)
    return paint_sky(scene, rng, image, int(horizon))


def tile_joints(rng, camera: Camera, x, y, scale, tile, noise) -> np.ndarray:
    """`[H, W]`: 1 on the joints of a rotated tiling, less where a pixel is wider than a joint,
    and some tiles a shade darker than others."""
    angle = rng.choice([0, np.pi / 4, rng.uniform(-0.5, 0.5)])
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    dense = scale**2 * camera.height / camera.focal  # pixels per metre along y
    joints, cells = 0, []
    for (a, b), side in zip([(cos, sin), (-sin, cos)], tile, strict=True):
        position = (a * x + b * y) / side
        pixel = np.hypot(a / scale, b / dense)
        nearest = np.round(position)
        cover = (0.012 - np.abs(position - nearest) * side) / pixel + 0.5
        joints = np.maximum(joints, np.clip(cover, 0, 1) * np.clip(side / pixel / 4, 0, 1))
        cells.append(np.floor(position).astype(np.int32) % len(noise))
    return joints - 0.15 * noise[cells[0], cells[1]]


def paint_sky(scene: Scene, rng, image: np.ndarray, horizon: int) -> np.ndarray:
    """The image `[H, W, 3]` with the rows above the horizon turned to sky and far hills."""
    top, low = TIMES[scene.light.time][-2:]
    ramp = np.linspace(0, 1, max(horizon, 1), dtype=np.float32)[:horizon, None, None]
    noise = fractal_noise(rng, 64, 1.6)
    clouds = Image.fromarray(noise).resize((image.shape[1], max(horizon * 2, 1)))
    clouds = np.clip(np.asarray(clouds)[:horizon, :, None], 0, 2)
    sky = np.array(top, np.float32) * (1 - ramp) + np.array(low, np.float32) * ramp
    image[:horizon] = sky + clouds * (8 if scene.light.time == "night" else 26)
    ridge = np.interp(np.linspace(0, 63, image.shape[1]), np.arange(64), noise[:, 0])
    hills = np.arange(horizon)[:, None] > horizon - image.shape[0] * (0.03 + 0.015 * ridge)
    image[:horizon][hills] = np.array(low) * 0.6 + (10, 20, 10)
    return image


def cast_shadows(scene: Scene, image: np.ndarray, ground, radius, height) -> np.ndarray:
    """The image `[H, W, 3]`, darker where things of a radius and height `[N]` shade it."""
    camera, mask = scene.camera, Image.new("L", scene.camera.size[::-1])
    draw = ImageDraw.Draw(mask)
    foot, scale = camera.project(ground)
    tip, _ = camera.project(ground + np.outer(height, scene.light.sun))
    flat = 0.35 + 0.65 * np.sin(camera.pitch)  # a disc on the ground, as seen
    spot = 1.3 * np.stack([radius * scale, flat * radius * scale], -1)
    bars = limb(foot, tip, radius * scale * 1.5).tolist()
    for bar, disc in zip(bars, np.hstack([foot - spot, foot + spot]).tolist(), strict=True):
        draw.polygon(bar, fill=215)
        draw.ellipse(disc, fill=255)
    soft = camera.size[0] / 256 * (3 if scene.light.time == "overcast" else 1.2)
    dark = np.asarray(mask.filter(ImageFilter.BoxBlur(soft)), np.float32)[..., None] / 255
    return image * (1 - np.float32(scene.light.shadow) * dark)


def limb(start, end, width) -> np.ndarray:
    """Corners `[N, 8]` of the bars of a width `[N]` between points `[N, 2]`."""
    along = end - start
    across = np.stack([-along[:, 1], along[:, 0]], -1)
    across *= (width / 2 / np.maximum(np.hypot(*along.T), 1e-6))[:, None]
    return np.hstack([start + across, end + across, end - across, start - across])


def shade(colour, gain) -> tuple[int, int, int]:
    """The colour times a gain, as a fill."""
    return tuple(int(min(max(part * gain, 0), 255)) for part in colour)


def draw_box(draw, camera: Camera, x, y, size, colour, base=0.0) -> None:
    """A box whose front stands at y: its side, top and front that the camera sees."""
    width, depth, height = size
    left, right, top = x - width / 2, x + width / 2, base + height
    inner = left if left > 0 else right  # the side that faces the middle of the image

    def face(corners, gain):
        corners = np.array(corners)
        points, _ = camera.project(corners[:, :2], corners[:, 2])
        draw.polygon(points.ravel().tolist(), fill=shade(colour, gain))

    if left > 0 or right < 0:
        face([(inner, y, base), (inner, y + depth, base), (inner, y + depth, top),
              (inner, y, top)], 0.72)  # fmt: skip
    if camera.height > top:
        face([(left, y, top), (right, y, top), (right, y + depth, top), (left, y + depth, top)],
             1.15)  # fmt: skip
    face([(left, y, base), (right, y, base), (right, y, top), (left, y, top)], 0.9)


def draw_ball(draw, camera: Camera, x, y, z, radius, colour) -> None:
    """A ball with its centre at height z, lit from above."""
    (cx, cy), scale = camera.project((x, y), z)
    for shift, share, gain in ((0, 1, 0.72), (0.14, 0.84, 0.92), (0.3, 0.5, 1.08)):
        r, up = radius * scale * share, radius * scale * shift
        draw.ellipse((cx - r, cy - up - r, cx + r, cy - up + r), fill=shade(colour, gain))


def draw_tree(draw, camera: Camera, rng, x, y, height, colour) -> None:
    """A trunk below a crown of many overlapping leaves, darker towards the ground."""
    draw_box(draw, camera, x, y, (0.04 * height, 0.2, 0.5 * height), (84, 66, 52))
    crown = rng.normal(0, 0.13, (16, 2)) * height
    crown = crown[np.argsort(crown[:, 1])]
    ground = np.stack([x + crown[:, 0], np.full(len(crown), y)], -1)
    centre, scale = camera.project(ground, 0.6 * height + crown[:, 1])
    radius = 0.13 * height * scale[:, None] * (1, 0.9)
    boxes = np.hstack([centre - radius, centre + radius]).tolist()
    for box, gain in zip(boxes, 0.9 + crown[:, 1] / height, strict=True):
        draw.ellipse(box, fill=shade(colour, gain))


def draw_building(draw, camera: Camera, rng, x, y, size, night: bool) -> None:
    """A block with rows of windows, some of them lit at night."""
    colour = np.array([156, 144, 130]) * rng.uniform(0.6, 1.25) * rng.normal(1, 0.05, 3)
    draw_box(draw, camera, x, y, size, colour)
    step, floor = rng.uniform(1.4, 3.2), rng.uniform(2.6, 3.4)
    columns, rows = int(size[0] / step), int(size[2] / floor)
    left = x - columns * step / 2
    glass = ((70, 84, 100), (46, 54, 66), (118, 136, 150))[rng.integers(3)]
    wide, tall = rng.uniform(0.4, 0.8), rng.uniform(0.45, 0.75)
    corner = np.array([(0, 0), (wide, 0), (wide, tall), (0, tall)]) + ((1 - wide) / 2, 0.2)
    cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 1, 2)
    along, up = np.moveaxis((cells + corner) * (step, floor), -1, 0)
    points, _ = camera.project(np.stack([left + along, np.full(along.shape, y)], -1), up)
    lit = rng.random(len(points)) < (0.4 if night else 0.03)
    tones = rng.uniform(0.75, 1.2, len(points))
    for quad, tone, on in zip(points.reshape(-1, 8).tolist(), tones, lit, strict=True):
        draw.polygon(quad, fill=shade((255, 222, 150) if on else glass, tone))


def draw_stage(draw, camera: Camera, rng, y: float) -> None:
    """A platform with a screen between two towers."""
    wide, x = rng.uniform(6, 14), rng.uniform(-4, 4)
    glow = np.array(PAINT[rng.integers(len(PAINT))]) * 1.3 + 40
    draw_box(draw, camera, x, y + 3, (wide, 0.3, 5), DARK)
    draw_box(draw, camera, x, y + 2.9, (wide * 0.6, 0.1, 2.4), glow, base=2)
    for side in (-0.5, 0.5):
        draw_box(draw, camera, x + side * wide, y + 1, (0.9, 0.9, 5.5), DARK)
    draw_box(draw, camera, x, y, (wide, 3, 1.2), (70, 70, 76))


def draw_backdrop(draw, scene: Scene, camera: Camera, rng) -> None:
    """What closes the view behind the farthest people."""
    y = camera.at_depth(camera.far) * np.exp(rng.uniform(0.08, 0.8)) + 1
    (_, base), scale = camera.project((0, y))
    if base < 0:
        return
    half = camera.size[1] / 2 / scale
    # Beyond this height the projection of a pitched camera runs away.
    tallest = camera.height + 0.5 * y / np.tan(camera.pitch)
    x = -half * 1.1
    while x < half * 1.2:
        width = rng.uniform(5, 14)
        if scene.backdrop == "city" and rng.random() < 0.85:
            size = (width, 6, min(rng.uniform(3.5, 14), tallest))
            draw_building(draw, camera, rng, x + width / 2, y, size, scene.light.time == "night")
        elif scene.backdrop == "wall":
            width = 3.0
            colour = np.array([128, 124, 118]) * rng.uniform(0.94, 1.06)
            draw_box(draw, camera, x + 1.5, y, (2.96, 0.4, min(2.6, tallest)), colour)
        else:
            width = rng.uniform(1, 3) if scene.backdrop == "park" else rng.uniform(5, 16)
            tall, leaf = min(rng.uniform(2.5, 6), tallest), np.array(LEAF) * rng.uniform(0.75, 1.2)
            if scene.backdrop == "park" and rng.random() < 0.6:  # undergrowth
                draw_ball(draw, camera, x + 1, y + 3, 0.3, rng.uniform(0.7, 1.3), leaf)
            draw_tree(draw, camera, rng, x, y + rng.uniform(0, 3), tall, leaf)
        x += width
    if scene.backdrop == "stage":
        draw_stage(draw, camera, rng, camera.at_depth(camera.far) + 1)


def draw_clutter(draw, camera: Camera, kind: str, x: float, y: float, tone: int) -> None:
    """One thing on the ground that is not a person; `tone` picks its paint."""
    for part, colour in THINGS[kind][1]:
        colour = colour or PAINT[tone % len(PAINT)]
        if len(part) == 3:
            draw_ball(draw, camera, x + part[0], y, *part[1:], colour)
        else:
            dx, dy, base, *size = part
            draw_box(draw, camera, x + dx, y + dy, size, colour, base)


def expose(scene: Scene, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """uint8 `[H, W, 3]`: the image in the scene's light, a bit soft, with the sensor's noise."""
    camera, (height, width) = scene.camera, scene.camera.size
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.1, 0.35)))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height - 0.5
    slope = rng.normal(0, 0.14, 2).astype(np.float32)
    field = np.float32(1) + slope[0] * x + slope[1] * y - np.float32(0.3) * (x * x + y * y)
    night = scene.light.time == "night"
    lamps = [(a, b, 4.5) for kind, a, b in scene.clutter if kind == "lamp"]
    for a, b, z in [*lamps, (rng.normal(0, 2), camera.at_depth(camera.far * 0.8), 3)] * night:
        (cx, cy), scale = camera.project((a, b), z / 2)
        near = np.hypot(x - cx / height + 0.5, y - cy / height + 0.5) * np.float32(height / scale)
        field += np.exp(-near / 3)
    pixels = np.asarray(image, np.float32) * field[..., None] * scene.light.cast.astype("f4")
    noise = rng.standard_normal((height, width, 1), dtype=np.float32)
    pixels += noise * rng.uniform(1, 7 if night else 4)
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)
