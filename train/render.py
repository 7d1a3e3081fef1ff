"""Draws packed scenes (data.py) as pictures, on the GPU, each a little differently every time.

A picture is painted on a canvas of another size with soft or hard edges, then blurred, brightened, compressed like a
JPEG, and brought to the encoder's size with Pillow's bicubic weights: the path of a real file.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

CANVASES = (128, 160, 208)
WORD_ID = 7
Batch = dict[str, Tensor]


def _cover_reference(canvas: Tensor, ids: Tensor, batch: Batch, soft: Tensor, shade: Tensor) -> None:
    """Paints every object over `canvas` [b, 3, s, s] in place and notes its number in `ids`: the definition."""
    size = canvas.shape[-1]
    grid = torch.arange(size, device=canvas.device) + 0.5
    py, px = torch.meshgrid(grid, grid, indexing="ij")
    for b in range(canvas.shape[0]):
        for o in range(batch["edge_count"].shape[1]):
            count = int(batch["edge_count"][b, o])
            if count == 0:
                continue
            nearest = torch.full_like(px, 1e9)
            inside = torch.zeros_like(px, dtype=torch.bool)
            for ax, ay, bx, by in (batch["edges"][b, o, :count] * size).tolist():
                dx, dy = bx - ax, by - ay
                along = (((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy + 1e-9)).clamp(0, 1)
                nearest = torch.minimum(nearest, (px - ax - along * dx) ** 2 + (py - ay - along * dy) ** 2)
                crossing = ((ay > py) != (by > py)) & (px - ax < (py - ay) * dx / (dy if abs(dy) > 1e-9 else 1e-9))
                inside ^= crossing
            signed = torch.where(inside, -1.0, 1.0) * nearest.sqrt()
            cover = (0.5 - signed / soft[b]).clamp(0, 1)
            width = batch["outline"][b, 0] * size
            line = (0.5 - (signed.abs() - width / 2) / soft[b]).clamp(0, 1) * (width > 0)
            light = shade[b, 0] * (px / size - 0.5) + shade[b, 1] * (py / size - 0.5)
            for c in range(3):
                canvas[b, c] += (batch["rgb"][b, o, c] + light - canvas[b, c]) * cover
                canvas[b, c] += (batch["outline"][b, 1 + c] - canvas[b, c]) * line
            ids[b][cover > 0.5] = o + 1


if triton is not None:

    @triton.jit
    def _cover(canvas, ids, edges, edge_count, rgb, outline, soft, shade, size,
               OBJECTS: tl.constexpr, EDGES: tl.constexpr, BLOCK: tl.constexpr):
        b = tl.program_id(0).to(tl.int64)
        p = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        area = size * size
        live = p < area
        scale = size.to(tl.float32)
        px = (p % size).to(tl.float32) + 0.5
        py = (p // size).to(tl.float32) + 0.5
        red = tl.load(canvas + b * 3 * area + p, live)
        green = tl.load(canvas + (b * 3 + 1) * area + p, live)
        blue = tl.load(canvas + (b * 3 + 2) * area + p, live)
        top = tl.zeros((BLOCK,), tl.int32)
        softness = tl.load(soft + b)
        width = tl.load(outline + b * 4) * scale
        light = tl.load(shade + b * 2) * (px / scale - 0.5) + tl.load(shade + b * 2 + 1) * (py / scale - 0.5)
        for o in range(OBJECTS):
            count = tl.load(edge_count + b * OBJECTS + o)
            if count > 0:
                nearest = tl.full((BLOCK,), 1e9, tl.float32)
                crossings = tl.zeros((BLOCK,), tl.int32)
                first = edges + (b * OBJECTS + o) * EDGES * 4
                for v in range(count):
                    ax = tl.load(first + v * 4) * scale
                    ay = tl.load(first + v * 4 + 1) * scale
                    dx = tl.load(first + v * 4 + 2) * scale - ax
                    by = tl.load(first + v * 4 + 3) * scale
                    dy = by - ay
                    qx = px - ax
                    qy = py - ay
                    along = tl.minimum(tl.maximum((qx * dx + qy * dy) / (dx * dx + dy * dy + 1e-9), 0.0), 1.0)
                    ex = qx - along * dx
                    ey = qy - along * dy
                    nearest = tl.minimum(nearest, ex * ex + ey * ey)
                    steep = tl.where(tl.abs(dy) > 1e-9, dy, 1e-9)
                    straddles = (ay > py) != (by > py)
                    crossings += (straddles & (qx < qy * dx / steep)).to(tl.int32)
                signed = tl.where(crossings % 2 == 1, -1.0, 1.0) * tl.sqrt(nearest)
                cover = tl.minimum(tl.maximum(0.5 - signed / softness, 0.0), 1.0)
                line = tl.minimum(tl.maximum(0.5 - (tl.abs(signed) - width / 2) / softness, 0.0), 1.0)
                line = tl.where(width > 0, line, 0.0)
                ink = rgb + (b * OBJECTS + o) * 3
                red += (tl.load(ink) + light - red) * cover
                green += (tl.load(ink + 1) + light - green) * cover
                blue += (tl.load(ink + 2) + light - blue) * cover
                red += (tl.load(outline + b * 4 + 1) - red) * line
                green += (tl.load(outline + b * 4 + 2) - green) * line
                blue += (tl.load(outline + b * 4 + 3) - blue) * line
                top = tl.where(cover > 0.5, o + 1, top)
        tl.store(canvas + b * 3 * area + p, red, live)
        tl.store(canvas + (b * 3 + 1) * area + p, green, live)
        tl.store(canvas + (b * 3 + 2) * area + p, blue, live)
        tl.store(ids + b * area + p, top.to(tl.int8), live)


def paint(canvas: Tensor, ids: Tensor, batch: Batch, soft: Tensor, shade: Tensor) -> None:
    if triton is None or not canvas.is_cuda:
        return _cover_reference(canvas, ids, batch, soft, shade)
    b, _, size, _ = canvas.shape
    objects, edges = batch["edges"].shape[1:3]
    _cover[(b, triton.cdiv(size * size, 256))](
        canvas, ids, batch["edges"], batch["edge_count"], batch["rgb"], batch["outline"], soft, shade, size,
        OBJECTS=objects, EDGES=edges, BLOCK=256)


def _uniform(like: Tensor, low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(*shape, device=like.device) * (high - low) + low


def background(batch: Batch, size: int) -> Tensor:
    """[b, 3, s, s]: a colour or a gradient, with grain (kind 2) or a photograph's 1/f texture (kind 3) on it."""
    ground, kind = batch["ground"], batch["ground_kind"]
    b, device = ground.shape[0], ground.device
    axis = (torch.arange(size, device=device) + 0.5) / size - 0.5
    angle = _uniform(ground, 0, 2 * math.pi, b, 1, 1)
    mix = (0.5 + angle.cos() * axis[None, None, :] + angle.sin() * axis[None, :, None]).clamp(0, 1)[:, None]
    out = ground[:, 0, :, None, None] * (1 - mix) + ground[:, 1, :, None, None] * mix
    # A few textures serve the whole batch: they are drawn anew for every batch.
    few = min(b, 32)
    texture = torch.zeros(few, 3, size, size, device=device)
    for octave, cells in enumerate((3, 6, 12, 24, 48)):
        noise = torch.randn(few, 3, cells, cells, device=device) * 0.45 + torch.randn(few, 1, cells, cells, device=device)
        texture += F.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False) * 0.72**octave
    texture /= 1.9
    grain = torch.randn(few, 3, size, size, device=device) * 0.6 + torch.randn(few, 1, size, size, device=device) * 0.6
    grain[::2] = F.interpolate(grain[::2, :, ::2, ::2], size=(size, size), mode="nearest")
    which = torch.randint(few, (b,), device=device)
    rough = batch["roughness"][:, None, None, None]
    out += torch.where((kind == 3)[:, None, None, None], texture[which], grain[which]) * rough * (kind >= 2)[:, None, None, None]
    return out.clamp(0, 1)


def word_coordinates(frame: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Picture positions (fractions) to positions in the word's bitmap (pixels). frame [t, 8]; u, v [t, ...] or [...]."""
    x, y, w, h, angle, bw, bh, aspect = (frame[:, i].view(-1, *[1] * u.dim()) for i in range(8))
    root = aspect.sqrt()
    dx, dy = (u - x) * root, (v - y) / root
    c, s = angle.cos(), angle.sin()
    along, down = dx * c + dy * s, -dx * s + dy * c
    return (along / (w * root) + 0.5) * bw, (down / (h / root) + 0.5) * bh


def write(canvas: Tensor, ids: Tensor, batch: Batch) -> None:
    """Writes the words over the first pictures, in place; four samples a pixel."""
    if "word" not in batch or batch["word"].shape[0] == 0:
        return
    words, frame = batch["word"].float()[:, None] / 255, batch["word_frame"]
    t, size = words.shape[0], canvas.shape[-1]
    alpha = torch.zeros(t, size, size, device=canvas.device)
    for oy in (0.25, 0.75):
        for ox in (0.25, 0.75):
            line = torch.arange(size, device=canvas.device)
            v, u = torch.meshgrid((line + oy) / size, (line + ox) / size, indexing="ij")
            tx, ty = word_coordinates(frame, u, v)
            grid = torch.stack([2 * tx / words.shape[3] - 1, 2 * ty / words.shape[2] - 1], -1)
            alpha += F.grid_sample(words, grid, mode="bilinear", align_corners=False)[:, 0] / 4
    canvas[:t] += (batch["word_rgb"][:, :, None, None] - canvas[:t]) * alpha[:, None]
    ids[:t] = torch.where(alpha > 0.5, WORD_ID, ids[:t])


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian of its own width (pixels, [b]) for each picture, seven taps a side and direction."""
    taps = torch.exp(-0.5 * (torch.arange(-3, 4, device=x.device) / sigma[:, None]) ** 2)
    taps = (taps / taps.sum(1, keepdim=True))[:, :, None, None, None]
    for dim in (2, 3):
        pad = F.pad(x, (3, 3, 0, 0) if dim == 3 else (0, 0, 3, 3), mode="replicate")
        x = sum(pad.narrow(dim, k, x.shape[dim]) * taps[:, k] for k in range(7))
    return x


# ITU-T T.81, Annex K: the usual quantisation tables.
LUMINANCE = (16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22,
             29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87,
             103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99)
CHROMINANCE = (17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66,
               *(99,) * 38)


@lru_cache(maxsize=4)
def _jpeg_constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    k, i = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    dct = torch.cos((2 * i + 1) * k * math.pi / 16) * math.sqrt(2 / 8)
    dct[0] /= math.sqrt(2)
    tables = torch.tensor([LUMINANCE, CHROMINANCE]).float().view(2, 8, 8)
    colour = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return dct.to(device), tables.to(device), colour.to(device)


def _quantise(plane: Tensor, table: Tensor, dct: Tensor) -> Tensor:
    """plane [b, c, h, w] in 0..255 about 0, table [b, 8, 8]."""
    b, c, h, w = plane.shape
    blocks = plane.reshape(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    coefficients = dct @ blocks @ dct.t()
    step = table[:, None, None, None]
    coefficients = torch.round(coefficients / step) * step
    return (dct.t() @ coefficients @ dct).transpose(3, 4).reshape(b, c, h, w)


def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """What baseline JPEG with halved chrominance does to pictures in [0, 1]; quality [b] of 1..100."""
    dct, tables, colour = _jpeg_constants(x.device)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    table = (tables[None] * scale[:, None, None, None]).clamp(1, 255)
    ycc = torch.einsum("bchw,oc->bohw", x * 255, colour)
    light = _quantise(ycc[:, :1] - 128, table[:, 0], dct) + 128
    chroma = _quantise(F.avg_pool2d(ycc[:, 1:], 2), table[:, 1], dct)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.einsum("bchw,oc->bohw", torch.cat([light, chroma], 1), torch.linalg.inv(colour)) / 255


@lru_cache(maxsize=16)
def resampling(source: int, target: int, device: torch.device) -> Tensor:
    """Pillow's bicubic weights as a matrix [target, source] (model: a = -0.5, support widened when shrinking)."""
    scale = source / target
    stretch = max(scale, 1.0)
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    low = (centre - 2 * stretch + 0.5).int().clamp(min=0)
    high = (centre + 2 * stretch + 0.5).int().clamp(max=source)
    column = torch.arange(source)
    x = ((column[None] - centre[:, None] + 0.5) / stretch).abs()
    weight = torch.where(x < 1, ((1.5 * x - 2.5) * x) * x + 1, torch.where(x < 2, (((x - 5) * x + 8) * x - 4) * -0.5, 0.0))
    weight = weight * ((column[None] >= low[:, None]) & (column[None] < high[:, None]))
    return (weight / weight.sum(1, keepdim=True)).float().to(device)


@torch.no_grad()
def render(batch: Batch, canvas_size: int, size: int, spoil: bool = True) -> tuple[Tensor, Tensor]:
    """Pictures [b, 3, size, size] in [0, 1] in steps of 1/255, and which object (1..6) or word (7) owns each canvas pixel."""
    canvas = background(batch, canvas_size)
    b = canvas.shape[0]
    ids = torch.zeros(b, canvas_size, canvas_size, dtype=torch.int8, device=canvas.device)
    soft = torch.where(torch.rand(b, device=canvas.device) < 0.75, 1.0, _uniform(canvas, 0.05, 2.2, b))
    shade = _uniform(canvas, -0.25, 0.25, b, 2) * (torch.rand(b, 1, device=canvas.device) < 0.3)
    paint(canvas, ids, batch, soft, shade)
    write(canvas, ids, batch)
    canvas = canvas.clamp_(0, 1)
    if spoil:
        canvas[::3] = blur(canvas[::3], _uniform(canvas, 0.3, 1.5, canvas[::3].shape[0]))
        changed = (torch.rand(b, 1, 1, 1, device=canvas.device) < 0.5).float()
        gain = 1 + changed * _uniform(canvas, -0.2, 0.12, b, 1, 1, 1)
        lift = changed * _uniform(canvas, -0.05, 0.08, b, 1, 1, 1)
        canvas = (canvas * gain + lift).clamp_(0, 1)
        canvas[1::4] += torch.randn_like(canvas[1::4]) * _uniform(canvas, 0, 0.035, canvas[1::4].shape[0], 1, 1, 1)
        canvas[::2] = jpeg(canvas[::2].clamp(0, 1), _uniform(canvas, 30, 97, canvas[::2].shape[0]))
    weights = resampling(canvas_size, size, canvas.device)
    small = torch.matmul(torch.matmul(weights, canvas.clamp(0, 1)), weights.t())
    return torch.round(small.clamp(0, 1) * 255) / 255, ids


def normalised(pictures: Tensor) -> Tensor:
    """What the encoder reads: mean and deviation 0.5."""
    return pictures * 2 - 1
