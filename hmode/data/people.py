"""The people of a synthetic crowd: how they look, and what of a body is drawn where."""

from dataclasses import dataclass

import numpy as np

from hmode.data.camera import Camera
from hmode.data.scenery import limb

CROWN = 0.12  # metres from the centre of a head to its top

SKIN = ((232, 194, 168), (216, 172, 142), (190, 142, 110), (146, 100, 72), (94, 64, 48))
HAIR = ((28, 24, 24), (50, 36, 28), (84, 60, 42), (164, 128, 84), (112, 62, 40), (164, 160, 156))
PLAIN = ((34, 36, 42), (66, 70, 78), (214, 212, 206), (50, 60, 84), (110, 106, 100),
         (84, 98, 122), (148, 138, 120), (90, 74, 62))  # fmt: skip
BRIGHT = ((166, 48, 50), (48, 88, 150), (212, 174, 72), (58, 116, 84), (196, 108, 60),
          (106, 68, 116), (204, 140, 152), (108, 162, 180))  # fmt: skip


@dataclass(frozen=True)
class People:
    """Where N people stand and what they look like."""

    ground: np.ndarray  # [N, 2], metres
    stature: np.ndarray  # [N], metres
    yaw: np.ndarray  # [N], radians; 0 faces the camera
    build: np.ndarray  # [N], width as a multiple of the average
    colours: dict[str, np.ndarray]  # shirt, trousers, skin, hair, extra: [N, 3]
    traits: dict[str, np.ndarray]  # hat, long hair, raised arms ...: bool [N]

    def __len__(self) -> int:
        return len(self.ground)


def dress(rng: np.random.Generator, ground: np.ndarray, yaw: np.ndarray) -> People:
    """People with random looks who stand at those points and look roughly that way."""
    count = len(ground)

    def pick(palette, spread=0.12):
        palette = np.array(palette, float)
        tone = rng.normal(1, spread, (count, 1)) + rng.normal(0, 0.04, (count, 3))
        return np.clip(palette[rng.integers(len(palette), size=count)] * tone, 0, 255)

    shirt = np.where(rng.random((count, 1)) < 0.6, pick(PLAIN), pick(BRIGHT))
    if rng.random() < 0.15:  # supporters in the colour of their club
        club = np.array(BRIGHT[rng.integers(len(BRIGHT))])
        shirt = np.where(rng.random((count, 1)) < 0.6, club * rng.normal(1, 0.08), shirt)
    cheering = rng.random() < 0.15
    chance = {"hat": 0.12, "long": 0.35, "raised": 0.3 * cheering, "short": 0.4, "bag": 0.2,
              "stripe": 0.2}  # fmt: skip
    return People(
        ground=ground,
        stature=np.clip(rng.normal(1.70, 0.07, count), 1.5, 1.9),
        yaw=yaw + rng.normal(0, 0.5, count),
        build=rng.normal(1, 0.07, count),
        colours={
            "shirt": shirt,
            "trousers": pick(PLAIN) * 0.75,
            "skin": pick(SKIN, 0.05),
            "hair": pick(HAIR),
            "extra": pick(PLAIN + BRIGHT),
        },
        traits={trait: rng.random(count) < share for trait, share in chance.items()},
    )


def body_parts(camera: Camera, sun: np.ndarray, people: People) -> list[tuple]:
    """What to draw of each of N people, in order: corners `[N, 2 k]` (k = 2: the box of an
    ellipse), fill and whether it is shown, lists of N."""
    stature, colour, trait = people.stature, people.colours, people.traits
    heights = [0 * stature, 0.03 * stature, 0.5 * stature, 0.8 * stature, 0.85 * stature]
    foot, ankle, hip, chest, neck, head = (
        camera.project(people.ground, z)[0] for z in (*heights, stature - CROWN)
    )
    scale = camera.project(people.ground, stature - CROWN)[1]
    above = camera.height - stature
    steep = above / np.hypot(np.hypot(*people.ground.T), above)  # sine of the angle of view
    front, side = np.cos(people.yaw), np.sin(people.yaw)
    wide = scale * people.build * (0.13 + 0.08 * np.abs(front))  # half the shoulders
    rx = scale * 0.095
    ry = rx * np.sqrt(1.3**2 * (1 - steep**2) + steep**2)
    near, close = scale > 44, scale > 70  # details below a pixel are left out
    lit = -np.sign(sun[0])  # the side the light comes from
    parts = []

    def add(corners, tone, shown=True):
        if not np.any(shown):
            return
        red, green, blue = np.clip(tone, 0, 255).astype(int).T
        shown = np.broadcast_to(shown, len(people)).tolist()
        parts.append((corners, (red + 256 * green + 65536 * blue).tolist(), shown))

    def oval(centre, dx, dy, half_width, half_height, tone, shown=True):
        if not np.any(shown):
            return
        middle = centre + pair(dx * rx, dy * ry)
        radius = pair(half_width, half_height)
        add(np.hstack([middle - radius, middle + radius]), tone, shown)

    def pair(x, y):
        both = np.empty((len(people), 2))
        both[:, 0], both[:, 1] = x, y
        return both

    across = pair(wide, 0)
    for sign in (-1, 1):  # legs and shoes
        leg = sign * 0.4 * across
        add(limb(ankle + leg, hip + leg, 0.15 * scale),
            colour["trousers"] * (1 + 0.12 * sign * lit))  # fmt: skip
        oval(foot + leg, 0, 0, 0.07 * scale, 0.05 * scale, colour["hair"] * 0.8, near)
    for sign in (-1, 1):  # arms and hands
        arm = sign * across
        hand = np.where(trait["raised"][:, None], 2.2 * head - 1.2 * neck, hip) + 1.05 * arm
        bare = np.where(trait["short"][:, None], colour["skin"], colour["shirt"] * 0.84)
        add(limb(chest + 0.9 * arm, hand, 0.085 * scale), bare, near | trait["raised"])
        oval(hand, 0, 0, 0.045 * scale, 0.05 * scale, colour["skin"], near)
    add(np.hstack([neck - 0.45 * across, neck + 0.45 * across, chest + across,
        hip + 0.78 * across, hip - 0.78 * across, chest - across]), colour["shirt"])  # fmt: skip
    dark = -lit * across
    add(np.hstack([neck + 0.1 * dark, neck + 0.45 * dark, chest + dark,
        hip + 0.78 * dark, hip + 0.3 * dark]), colour["shirt"] * 0.76, near)  # fmt: skip
    waist = 0.55 * chest + 0.45 * hip
    band = np.hstack([chest - across, chest + across, waist + 0.9 * across, waist - 0.9 * across])
    add(band, colour["extra"], near & trait["stripe"])
    bag = [0.9 * chest + 0.1 * hip + k * 0.55 * across for k in (-1, 1)]
    bag += [0.2 * chest + 0.8 * hip + k * 0.6 * across for k in (1, -1)]
    add(np.hstack(bag), colour["extra"] * 0.7, trait["bag"] & (front < -0.2))
    thick = scale * (0.03 + 0.1 * steep)
    oval(chest * 0.4 + neck * 0.6, 0, 0, 0.95 * wide, thick, colour["shirt"] * 1.06, steep > 0.3)
    oval(neck, 0, -0.1, 0.55 * rx, 0.6 * ry, colour["skin"] * 0.72, near)
    oval(head, 0, 0.45, 1.12 * rx, 1.1 * ry, colour["hair"] * 0.85, trait["long"])
    oval(head, 0, 0, rx, ry, colour["hair"])
    oval(head, 0.3 * lit, -0.45, 0.4 * rx, 0.28 * ry, colour["hair"] * 1.25 + 12, close)
    down = 0.14 + 0.4 * steep
    tall = (0.84 - 0.3 * steep) * ry
    faces = front > -0.25
    oval(head, 0.35 * side, down, 0.84 * rx, tall, colour["skin"] * 0.86, faces)
    oval(head, 0.35 * side + 0.12 * lit, down, 0.66 * rx, 0.9 * tall, colour["skin"], faces & near)
    looks = close & (front > 0.2) & (steep < 0.7)
    for sign in (-1, 1):
        eye = 0.45 * side + 0.3 * sign * front
        oval(head, eye, down, 0.1 * rx, 0.1 * ry, 0.3 * colour["skin"], looks)
    oval(head, 0.45 * side, down + 0.42, 0.24 * rx, 0.07 * ry, colour["skin"] * (0.75, 0.55, 0.55),
         looks)  # fmt: skip
    oval(head, 0, -0.3, 1.06 * rx, 0.74 * ry, colour["extra"], trait["hat"])
    oval(head, 0.4 * side, 0.15 * steep, rx, 0.16 * ry, colour["extra"] * 0.7,
         trait["hat"] & faces & near)  # fmt: skip
    return parts
