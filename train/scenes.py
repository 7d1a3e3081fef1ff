"""Random scenes: coloured shapes and written words on backgrounds, as numbers only (render.py draws them).

Coordinates are fractions of the picture: x to the right, y down, both in [0, 1]. Everything random comes from the
generator passed in, so one seed is one scene.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from words import sample_word

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "diamond")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white")
SIZES = ("small", "large")
MAX_OBJECTS = 6
MAX_EDGES = 48

# Pairs no training picture shows and no question about one names: one for every shape, every colour but one.
HELD_OUT_PAIRS = frozenset({
    ("circle", "purple"), ("square", "orange"), ("triangle", "pink"), ("star", "blue"),
    ("ring", "yellow"), ("cross", "red"), ("heart", "green"), ("diamond", "white"),
})

# Hue in degrees, saturation and value: what each name covers. Names with two entries have two typical regions.
COLOUR_BOXES: dict[str, tuple[tuple[tuple[float, float], tuple[float, float], tuple[float, float]], ...]] = {
    "red": (((-13, 7), (0.75, 1.0), (0.62, 1.0)),),
    "orange": (((22, 40), (0.8, 1.0), (0.85, 1.0)),),
    "yellow": (((49, 62), (0.6, 1.0), (0.85, 1.0)),),
    "green": (((85, 160), (0.45, 1.0), (0.38, 1.0)),),
    "blue": (((200, 242), (0.6, 1.0), (0.45, 1.0)),),
    "purple": (((264, 288), (0.4, 1.0), (0.42, 0.92)), ((285, 302), (0.45, 1.0), (0.4, 0.7))),
    "pink": (((318, 352), (0.22, 0.52), (0.92, 1.0)), ((322, 336), (0.5, 0.95), (0.92, 1.0))),
    "black": (((0, 360), (0.0, 0.3), (0.0, 0.14)),),
    "white": (((0, 360), (0.0, 0.05), (0.94, 1.0)),),
}
RADIUS = {"small": (0.062, 0.118), "large": (0.15, 0.26)}
BACKGROUNDS = ("plain", "gradient", "noise", "texture")


@dataclass
class Thing:
    """One object. `edges` is [n, 4] (x0, y0, x1, y1); its inside is where a ray crosses an odd number of them."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    rgb: tuple[float, float, float]
    edges: np.ndarray
    rotation: float


@dataclass
class Writing:
    """A written word; width and height are those of its tight box, before the rotation by `angle` (radians)."""

    text: str
    colour: str
    rgb: tuple[float, float, float]
    font: int
    x: float
    y: float
    width: float
    angle: float


@dataclass
class Scene:
    things: list[Thing]
    writing: Writing | None
    background: str
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    roughness: float
    aspect: float
    outline: float = 0.0
    outline_rgb: tuple[float, float, float] = (0.0, 0.0, 0.0)
    all_pairs: bool = False  # unseen pairs may be named: only ever true of scenes that are read as text, never drawn


def sample_rgb(rng: np.random.Generator, colour: str) -> tuple[float, float, float]:
    boxes = COLOUR_BOXES[colour]
    (h0, h1), (s0, s1), (v0, v1) = boxes[rng.integers(len(boxes))]
    return colorsys.hsv_to_rgb(rng.uniform(h0, h1) % 360 / 360, rng.uniform(s0, s1), rng.uniform(v0, v1))


def distance(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    return float(np.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2))


def _loop(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.roll(points, -1, axis=0)], axis=1)


def _polar(radii: np.ndarray, phase: float = 0.0) -> np.ndarray:
    angle = np.arange(len(radii)) * (2 * np.pi / len(radii)) + phase
    return np.stack([radii * np.sin(angle), -radii * np.cos(angle)], axis=1)


def _heart(rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:
        t = np.arange(32) * (2 * np.pi / 32)
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        return np.stack([x / 16, (y + 2.5) / 15], axis=1)
    # Two cubic Bezier curves a side, as drawing programs make them; the dent's depth and the shoulders vary.
    dent, shoulder, tip = rng.uniform(-0.6, -0.35), rng.uniform(0.95, 1.1), rng.uniform(0.9, 1.1)
    top = -rng.uniform(0.95, 1.15)
    sides = [((0, dent), (0.25, top), (shoulder, top), (shoulder, dent + 0.1)),
             ((shoulder, dent + 0.1), (shoulder, 0.15), (0.45, 0.5), (0, tip))]
    t = np.arange(8)[:, None] / 8
    right = np.concatenate([
        (1 - t) ** 3 * np.array(p[0]) + 3 * t * (1 - t) ** 2 * np.array(p[1])
        + 3 * t**2 * (1 - t) * np.array(p[2]) + t**3 * np.array(p[3]) for p in sides])
    left = right[1:][::-1] * np.array([-1, 1])
    return np.concatenate([right, [[0, tip]], left])


def outline_of(rng: np.random.Generator, shape: str) -> tuple[np.ndarray, float]:
    """Edges [n, 4] of a shape of radius about 1, unrotated, and the rotation to give it."""
    if shape == "circle":
        return _loop(_polar(np.full(28, 1.0))), 0.0
    if shape == "square":
        half = 0.84
        return _loop(np.array([[-half, -half], [half, -half], [half, half], [-half, half]])), _mostly(rng, 25)
    if shape == "triangle":
        points = _polar(np.full(3, 1.1)) + rng.uniform(-0.12, 0.12, (3, 2)) * (rng.random() < 0.6)
        return _loop(points), rng.uniform(-np.pi, np.pi) if rng.random() < 0.5 else _mostly(rng, 12)
    if shape == "star":
        arms = 5 if rng.random() < 0.88 else 6
        radii = np.full(2 * arms, 1.12)
        radii[1::2] *= rng.uniform(0.36, 0.56)
        return _loop(_polar(radii)), rng.uniform(-np.pi, np.pi) if rng.random() < 0.5 else _mostly(rng, 10)
    if shape == "ring":
        inner = _polar(np.full(20, rng.uniform(0.48, 0.8)))
        return np.concatenate([_loop(_polar(np.full(28, 1.0))), _loop(inner)]), 0.0
    if shape == "cross":
        arm, reach = rng.uniform(0.2, 0.38), 1.0
        corners = [(arm, reach), (arm, arm), (reach, arm)]
        quarter = np.array([corners[2], corners[1], corners[0]])
        points = np.concatenate([quarter @ np.array([[c, s], [-s, c]]).round()
                                 for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))])
        return _loop(points), _mostly(rng, 14) + (np.pi / 4 if rng.random() < 0.3 else 0.0)
    if shape == "heart":
        return _loop(_heart(rng)), _mostly(rng, 25)
    width, height = (rng.uniform(0.52, 1.05), 1.05) if rng.random() < 0.85 else (1.1, rng.uniform(0.55, 0.8))
    return _loop(np.array([[0, -height], [width, 0], [0, height], [-width, 0]])), _mostly(rng, 9)


def _mostly(rng: np.random.Generator, degrees: float) -> float:
    """Upright in one case of two, otherwise turned by up to `degrees`."""
    return 0.0 if rng.random() < 0.5 else float(np.radians(rng.uniform(-degrees, degrees)))


def make_thing(rng: np.random.Generator, shape: str, colour: str, size: str, x: float, y: float, radius: float,
               aspect: float) -> Thing:
    """Places a shape of `radius` (of a picture of area 1) at (x, y) of a picture whose width over height is `aspect`."""
    edges, rotation = outline_of(rng, shape)
    c, s = np.cos(rotation), np.sin(rotation)
    turn = np.array([[c, s], [-s, c]])
    scale = radius * np.array([aspect**-0.5, aspect**0.5])
    points = (edges.reshape(-1, 2) @ turn) * scale + np.array([x, y])
    return Thing(shape, colour, size, x, y, radius, sample_rgb(rng, colour), points.reshape(-1, 4), rotation)


def _pairs(rng: np.random.Generator, count: int, held_out: bool, all_pairs: bool) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    few = rng.random() < 0.25  # few kinds: more that repeats, so counting and telling apart are not trivial
    shapes = [SHAPES[i] for i in rng.permutation(8)[: (2 if few else 8)]]
    colours = [COLOURS[i] for i in rng.permutation(9)[: (3 if few else 9)]]
    while len(pairs) < count:
        pair = (shapes[rng.integers(len(shapes))], colours[rng.integers(len(colours))])
        if all_pairs or pair not in HELD_OUT_PAIRS:
            pairs.append(pair)
    if held_out:
        chosen = sorted(HELD_OUT_PAIRS)
        pairs[rng.integers(count)] = chosen[rng.integers(len(chosen))]
    return pairs


def _place(rng: np.random.Generator, count: int, aspect: float, band: tuple[float, float]) -> list[tuple] | None:
    """Centres, radii and size names of `count` objects that leave each other visible, or None when it got too tight."""
    overlap = rng.random() < 0.3
    large_share = 0.5 if count <= 3 else 0.3
    width, height = aspect**0.5, aspect**-0.5
    placed: list[tuple] = []
    for _ in range(count):
        size = "large" if rng.random() < large_share else "small"
        for attempt in range(30):
            if attempt == 20:
                size = "small"
            radius = rng.uniform(*RADIUS[size])
            rx, ry = radius / width, radius / height
            low, high = band[0] + ry, band[1] - ry
            if rx > 0.48 or high <= low:
                continue
            x, y = rng.uniform(rx * 0.98, 1 - rx * 0.98), rng.uniform(low, high)
            near = 0.78 if overlap else 1.12
            if all(np.hypot((x - p[0]) * width, (y - p[1]) * height) >= near * (radius + p[2]) for p in placed):
                placed.append((x, y, radius, size))
                break
        else:
            return None
    return placed


def _touching(a: Thing, b: Thing, aspect: float) -> bool:
    gap = np.hypot((a.x - b.x) * aspect**0.5, (a.y - b.y) * aspect**-0.5)
    return gap < 1.12 * (a.radius + b.radius)


def _background(rng: np.random.Generator, inks: list[tuple]) -> tuple[str, tuple, float] | None:
    """A background all `inks` stand out from: its kind, its two colours and its roughness."""
    for _ in range(40):
        kind = BACKGROUNDS[rng.choice(4, p=(0.4, 0.2, 0.2, 0.2))]
        mood = rng.random()
        if mood < 0.3:
            base = (1.0, 1.0, 1.0) if rng.random() < 0.6 else (rng.uniform(0.9, 1.0),) * 3
        elif mood < 0.6:
            base = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.35), rng.uniform(0.65, 1.0))
        elif mood < 0.75:
            base = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.05, 0.3))
        else:
            base = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.7), rng.uniform(0.3, 0.9))
        other = base
        if kind == "gradient" or (kind != "plain" and rng.random() < 0.4):
            other = tuple(float(np.clip(c + rng.uniform(-0.35, 0.35), 0, 1)) for c in base)
        roughness = 0.0 if kind in ("plain", "gradient") else rng.uniform(0.03, 0.14 if kind == "noise" else 0.22)
        need = 0.3 + 1.0 * roughness
        middle = tuple((a + b) / 2 for a, b in zip(base, other))
        if all(min(distance(ink, base), distance(ink, other), distance(ink, middle)) >= need for ink in inks):
            return kind, (base, other), float(roughness)
    return None


def sample_scene(rng: np.random.Generator, *, writing: bool = False, held_out: bool = False, fonts: int = 1,
                 fresh_words: bool = False, all_pairs: bool = False) -> Scene:
    """One scene. `writing`: with a word; `held_out`: one object is of a pair that training never shows;
    `all_pairs`: any pair, for scenes that are read as text and not drawn."""
    while True:
        aspect = 1.0 if rng.random() < 0.65 else float(np.exp(rng.uniform(-0.45, 0.45)))
        if writing:
            count = 0 if rng.random() < 0.7 else int(rng.integers(1, 3))
        else:
            count = int(rng.choice(6, p=(0.13, 0.2, 0.2, 0.19, 0.14, 0.14))) + 1
        word, band = None, (0.0, 1.0)
        if writing:
            text = sample_word(rng, fresh_words)
            if count == 0:
                y = rng.uniform(0.15, 0.85)
            else:
                y, band = (0.17, (0.36, 1.0)) if rng.random() < 0.5 else (0.83, (0.0, 0.64))
            longest = min(0.94, 0.17 * len(text) + 0.16)
            width = rng.uniform(0.62 * longest, longest)
            x = rng.uniform(width / 2 + 0.02, 0.98 - width / 2)
            colour = COLOURS[rng.integers(9)] if rng.random() < 0.7 else "black"
            angle = 0.0 if count or rng.random() < 0.6 else float(np.radians(rng.uniform(-10, 10)))
            word = Writing(text, colour, sample_rgb(rng, colour), int(rng.integers(fonts)), x, y, width, angle)
        places = _place(rng, count, aspect, band)
        if places is None:
            continue
        pairs = _pairs(rng, count, held_out, all_pairs) if count else []
        things = [make_thing(rng, shape, colour, size, x, y, radius, aspect)
                  for (shape, colour), (x, y, radius, size) in zip(pairs, places)]
        if any(_touching(a, b, aspect) and distance(a.rgb, b.rgb) < 0.4
               for i, a in enumerate(things) for b in things[:i]):
            continue
        inks = [t.rgb for t in things] + ([word.rgb] if word else [])
        ground = _background(rng, inks)
        if ground is None:
            continue
        kind, colours, roughness = ground
        scene = Scene(things, word, kind, colours, roughness, aspect, all_pairs=all_pairs)
        if rng.random() < 0.15:
            scene.outline = rng.uniform(0.006, 0.02)
            scene.outline_rgb = (0.0, 0.0, 0.0) if rng.random() < 0.7 else (0.25, 0.25, 0.25)
        return scene
