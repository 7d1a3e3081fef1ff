"""Holds the GPU kernels against their definitions:  python train/check.py"""

from __future__ import annotations

import torch

import scan
from data import make_block
from render import CANVASES, _cover_reference, paint


def check_paint() -> None:
    block = make_block((7, 0, "scenes"))
    batch = {k: torch.from_numpy(v[200:206]).cuda() for k, v in block.items() if not k.startswith("word")}
    size = CANVASES[0]
    soft, shade = torch.rand(6).cuda() + 0.5, torch.rand(6, 2).cuda() * 0.2
    results = []
    for function in (_cover_reference, paint):
        canvas = torch.full((6, 3, size, size), 0.5, device="cuda")
        ids = torch.zeros(6, size, size, dtype=torch.int8, device="cuda")
        function(canvas, ids, batch, soft, shade)
        results.append((canvas, ids))
    # A pixel whose centre a polygon's edge meets exactly may fall on either side.
    off = ((results[0][0] - results[1][0]).abs() > 1e-3).float().mean().item()
    other = (results[0][1] != results[1][1]).float().mean().item()
    print(f"paint: {off:.1e} of the values and {other:.1e} of the owners differ")
    if off > 1e-3 or other > 1e-3:
        raise AssertionError("the paint kernel does not draw what its definition draws")


if __name__ == "__main__":
    scan.check()
    check_paint()
