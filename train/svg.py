"""The same kind of scenes drawn another way: SVG with a drawing program's own primitives, named colours and fonts."""

from __future__ import annotations

import math

import numpy as np

from questions import pick
from scenes import COLOURS, Scene, sample_scene

# What people write for each name.
NAMED = {
    "red": ("red", "crimson", "#e11", "firebrick", "#dc2626"),
    "orange": ("orange", "darkorange", "#ff7f0e", "#fb8c00"),
    "yellow": ("yellow", "gold", "#ffe119", "#fde047"),
    "green": ("green", "limegreen", "seagreen", "#2ca02c", "#22c55e"),
    "blue": ("blue", "royalblue", "dodgerblue", "#1f77b4", "navy"),
    "purple": ("purple", "blueviolet", "indigo", "#9333ea", "rebeccapurple"),
    "pink": ("hotpink", "pink", "deeppink", "lightpink"),
    "black": ("black", "#111", "#1a1a1a"),
    "white": ("white", "#fafafa", "snow"),
}
PALE, DARK = ("white", "#f5f5f5", "whitesmoke", "#eef2ff", "beige", "lightgray", "#e0f2f1"), ("#222", "#333a40", "#2d2a32")
FONTS = ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono", "sans-serif", "serif", "monospace")
PALE_INKS, DARK_INKS = {"white", "yellow", "pink"}, {"black", "blue", "purple"}


def _points(pairs) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def _round(count: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
    return [(radii[i % len(radii)] * math.sin(2 * math.pi * i / count), -radii[i % len(radii)] * math.cos(2 * math.pi * i / count))
            for i in range(count)]


def shape_markup(rng: np.random.Generator, shape: str, r: float, paint: str) -> str:
    """One shape about the origin with radius r (pixels)."""
    if shape == "circle":
        return f'<circle r="{r:.1f}" fill="{paint}"/>'
    if shape == "ring":
        width = r * rng.uniform(0.25, 0.45)
        return f'<circle r="{r - width / 2:.1f}" fill="none" stroke="{paint}" stroke-width="{width:.1f}"/>'
    if shape == "square":
        side = r * 1.65
        corner = side * 0.08 if rng.random() < 0.3 else 0
        return f'<rect x="{-side / 2:.1f}" y="{-side / 2:.1f}" width="{side:.1f}" height="{side:.1f}" rx="{corner:.1f}" fill="{paint}"/>'
    if shape == "cross":
        arm = r * rng.uniform(0.45, 0.7)
        return (f'<g fill="{paint}"><rect x="{-arm / 2:.1f}" y="{-r:.1f}" width="{arm:.1f}" height="{2 * r:.1f}"/>'
                f'<rect x="{-r:.1f}" y="{-arm / 2:.1f}" width="{2 * r:.1f}" height="{arm:.1f}"/></g>')
    if shape == "triangle":
        points = [(0, -r), (r * 0.95, r * 0.75), (-r * 0.95, r * 0.75)]
    elif shape == "star":
        points = _round(10, (r * 1.1, r * rng.uniform(0.42, 0.52)))
    elif shape == "diamond":
        points = [(0, -r * 1.1), (r * rng.uniform(0.6, 1.0), 0), (0, r * 1.1)]
        points.append((-points[1][0], 0))
    else:
        s = r / 10
        return (f'<path fill="{paint}" d="M0 {9.5 * s:.1f} C{-14 * s:.1f} {-0.5 * s:.1f} {-9 * s:.1f} {-11 * s:.1f} 0 {-4.5 * s:.1f} '
                f'C{9 * s:.1f} {-11 * s:.1f} {14 * s:.1f} {-0.5 * s:.1f} 0 {9.5 * s:.1f} Z"/>')
    return f'<polygon points="{_points(points)}" fill="{paint}"/>'


def sample_svg(rng: np.random.Generator, *, writing: bool = False, held_out: bool = False) -> tuple[Scene, str]:
    """A scene and its drawing. Objects keep apart in colour from the background and from their neighbours."""
    while True:
        scene = sample_scene(rng, writing=writing, held_out=held_out, fresh_words=True)
        inks = {t.colour for t in scene.things} | ({scene.writing.colour} if scene.writing else set())
        grounds = [g for g, bad in ((PALE, PALE_INKS), (DARK, DARK_INKS)) if not inks & bad]
        if grounds:
            break
    area = float(pick(rng, (200, 256, 320, 400)))
    width, height = round(area * scene.aspect**0.5), round(area * scene.aspect**-0.5)
    ground = pick(rng, pick(rng, grounds))
    parts = [f'<rect width="{width}" height="{height}" fill="{ground}"/>']
    if rng.random() < 0.3 and ground in PALE:
        parts[0] = (f'<defs><linearGradient id="g" x2="0" y2="1"><stop stop-color="{ground}"/><stop offset="1" '
                    f'stop-color="{pick(rng, PALE)}"/></linearGradient></defs><rect width="{width}" height="{height}" fill="url(#g)"/>')
    for thing in scene.things:
        turn = round(math.degrees(rng.uniform(-0.35, 0.35))) if thing.shape not in ("diamond",) and rng.random() < 0.4 else 0
        parts.append(f'<g transform="translate({thing.x * width:.1f} {thing.y * height:.1f}) rotate({turn})">'
                     + shape_markup(rng, thing.shape, thing.radius * area, pick(rng, NAMED[thing.colour])) + "</g>")
    if scene.writing is not None:
        word = scene.writing
        room = min(word.width * width, 2 * min(word.x, 1 - word.x) * width * 0.95)
        size = min(room / (0.68 * len(word.text)), 0.3 * height)
        style = pick(rng, ("", ' font-weight="bold"', ' font-style="italic"'))
        y = min(max(word.y * height, size * 0.8), height - size * 0.5)
        parts.append(f'<text x="{word.x * width:.1f}" y="{y + size * 0.35:.1f}" font-family="{pick(rng, FONTS)}" font-size="{size:.1f}"'
                     f'{style} text-anchor="middle" fill="{pick(rng, NAMED[word.colour])}">{word.text}</text>')
    body = "\n".join(parts)
    return scene, f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">\n{body}\n</svg>\n'
