"""The selective scan of Mamba (Gu & Dao 2023, Algorithm 2) with a gradient: Triton kernels on a GPU, a loop elsewhere.

    h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_t,   Δ = softplus(dt + bias),   y_t = (C_t · h_t + D x_t) silu(z_t)

Shapes: x, dt, z [b, l, e]; B, C [b, l, n]; A [e, n]; D, bias [e]; h0, last state [b, e, n]. States are float32.
One program walks the whole length for 32 channels of one row: at lengths around 150 there are enough rows and channels
to fill the card, so nothing is gained from splitting the length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None


def scan_reference(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor,
                   h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The definition, step by step, in float32."""
    x, dt, B, C, z = (t.float() for t in (x, dt, B, C, z))
    delta = F.softplus(dt + bias)
    h = torch.zeros(x.shape[0], *A.shape, device=x.device) if h0 is None else h0
    rows = []
    for t in range(x.shape[1]):
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * x[:, t])[..., None] * B[:, t, None, :]
        rows.append((h * C[:, t, None, :]).sum(-1) + D * x[:, t])
    return torch.stack(rows, 1) * F.silu(z), h


if triton is not None:

    @triton.jit
    def _softplus(v):
        return tl.where(v > 20.0, v, tl.log(1.0 + tl.exp(v)))

    @triton.jit
    def _forward(x, dt, z, Bm, Cm, A, D, bias, h0, y, states, last, length, channels,
                 sx, sdt, sz, sB, sC, bx, bdt, bz, bB, bC,
                 START: tl.constexpr, KEEP: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        n = tl.arange(0, N)
        en = e[:, None] * N + n[None, :]
        a = tl.load(A + en)
        d_skip = tl.load(D + e)
        shift = tl.load(bias + e)
        h = tl.load(h0 + row * channels * N + en) if START else tl.zeros((BLOCK, N), tl.float32)
        for t in range(length):
            xt = tl.load(x + row * bx + t * sx + e).to(tl.float32)
            delta = _softplus(tl.load(dt + row * bdt + t * sdt + e).to(tl.float32) + shift)
            zt = tl.load(z + row * bz + t * sz + e).to(tl.float32)
            Bt = tl.load(Bm + row * bB + t * sB + n).to(tl.float32)
            Ct = tl.load(Cm + row * bC + t * sC + n).to(tl.float32)
            h = tl.exp(delta[:, None] * a) * h + (delta * xt)[:, None] * Bt[None, :]
            if KEEP:
                tl.store(states + (row * length + t) * channels * N + en, h.to(tl.bfloat16))
            yt = (tl.sum(h * Ct[None, :], 1) + d_skip * xt) * (zt * tl.sigmoid(zt))
            tl.store(y + (row * length + t) * channels + e, yt.to(y.dtype.element_ty))
        tl.store(last + row * channels * N + en, h)

    @triton.jit
    def _backward(x, dt, z, Bm, Cm, A, D, bias, h0, states, dy, dlast,
                  dx, ddt, dz, dB, dC, dA, dD, dbias, dh0, length, channels, rows,
                  sx, sdt, sz, sB, sC, bx, bdt, bz, bB, bC, sdy, bdy,
                  START: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        part = tl.program_id(1).to(tl.int64)
        e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        n = tl.arange(0, N)
        en = e[:, None] * N + n[None, :]
        a = tl.load(A + en)
        d_skip = tl.load(D + e)
        shift = tl.load(bias + e)
        dh = tl.load(dlast + row * channels * N + en)
        da = tl.zeros((BLOCK, N), tl.float32)
        dd_skip = tl.zeros((BLOCK,), tl.float32)
        dshift = tl.zeros((BLOCK,), tl.float32)
        h = tl.load(states + (row * length + length - 1) * channels * N + en).to(tl.float32)
        for back in range(length):
            t = length - 1 - back
            xt = tl.load(x + row * bx + t * sx + e).to(tl.float32)
            raw = tl.load(dt + row * bdt + t * sdt + e).to(tl.float32) + shift
            zt = tl.load(z + row * bz + t * sz + e).to(tl.float32)
            Bt = tl.load(Bm + row * bB + t * sB + n).to(tl.float32)
            Ct = tl.load(Cm + row * bC + t * sC + n).to(tl.float32)
            dyt = tl.load(dy + row * bdy + t * sdy + e).to(tl.float32)
            if t > 0:
                before = tl.load(states + (row * length + t - 1) * channels * N + en).to(tl.float32)
            else:
                if START:
                    before = tl.load(h0 + row * channels * N + en)
                else:
                    before = tl.zeros((BLOCK, N), tl.float32)
            delta = _softplus(raw)
            s = tl.sigmoid(zt)
            ungated = tl.sum(h * Ct[None, :], 1) + d_skip * xt
            out = (row * length + t) * channels + e
            tl.store(dz + out, (dyt * ungated * s * (1.0 + zt * (1.0 - s))).to(dz.dtype.element_ty))
            g = dyt * zt * s
            dh += g[:, None] * Ct[None, :]
            tl.store(dC + ((part * rows + row) * length + t) * N + n, tl.sum(g[:, None] * h, 0))
            tl.store(dB + ((part * rows + row) * length + t) * N + n, tl.sum(dh * (delta * xt)[:, None], 0))
            decay = tl.exp(delta[:, None] * a)
            flow = dh * decay * before
            through = tl.sum(dh * Bt[None, :], 1)
            da += flow * delta[:, None]
            ddelta = tl.sum(flow * a, 1) + through * xt
            draw = ddelta * tl.sigmoid(raw)
            dshift += draw
            dd_skip += g * xt
            tl.store(ddt + out, draw.to(ddt.dtype.element_ty))
            tl.store(dx + out, (g * d_skip + through * delta).to(dx.dtype.element_ty))
            dh = dh * decay
            h = before
        tl.store(dA + row * channels * N + en, da)
        tl.store(dD + row * channels + e, dd_skip)
        tl.store(dbias + row * channels + e, dshift)
        tl.store(dh0 + row * channels * N + en, dh)


BLOCK = 32


def _rows(*tensors: Tensor) -> list[Tensor]:
    return [t if t.stride(-1) == 1 else t.contiguous() for t in tensors]


@torch.library.custom_op("vl_mamba::scan", mutates_args=())
def _scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor, h0: Tensor,
          start: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    x, dt, B, C, z = _rows(x, dt, B, C, z)
    b, l, e = x.shape
    n = A.shape[1]
    y = torch.empty(b, l, e, device=x.device, dtype=x.dtype)
    states = torch.empty((b, l, e, n) if keep else (1, 1, 1, 1), device=x.device, dtype=torch.bfloat16)
    last = torch.empty(b, e, n, device=x.device)
    _forward[(b, e // BLOCK)](
        x, dt, z, B, C, A, D, bias, h0, y, states, last, l, e,
        *(t.stride(1) for t in (x, dt, z, B, C)), *(t.stride(0) for t in (x, dt, z, B, C)),
        START=start, KEEP=keep, N=n, BLOCK=BLOCK, num_warps=1)
    return y, last, states


@_scan.register_fake
def _(x, dt, A, B, C, D, z, bias, h0, start, keep):
    b, l, e = x.shape
    n = A.shape[1]
    states = x.new_empty((b, l, e, n) if keep else (1, 1, 1, 1), dtype=torch.bfloat16)
    return x.new_empty((b, l, e)), x.new_empty((b, e, n), dtype=torch.float32), states


@torch.library.custom_op("vl_mamba::scan_backward", mutates_args=())
def _scan_backward(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor,
                   h0: Tensor, states: Tensor, dy: Tensor, dlast: Tensor, start: bool) -> list[Tensor]:
    x, dt, B, C, z, dy = _rows(x, dt, B, C, z, dy)
    b, l, e = x.shape
    n = A.shape[1]
    parts = e // BLOCK
    dx, ddt, dz = (torch.empty(b, l, e, device=x.device, dtype=x.dtype) for _ in range(3))
    dB, dC = (torch.empty(parts, b, l, n, device=x.device) for _ in range(2))
    dA, dh0 = (torch.empty(b, e, n, device=x.device) for _ in range(2))
    dD, dbias = (torch.empty(b, e, device=x.device) for _ in range(2))
    _backward[(b, parts)](
        x, dt, z, B, C, A, D, bias, h0, states, dy, dlast.contiguous(),
        dx, ddt, dz, dB, dC, dA, dD, dbias, dh0, l, e, b,
        *(t.stride(1) for t in (x, dt, z, B, C)), *(t.stride(0) for t in (x, dt, z, B, C)), dy.stride(1), dy.stride(0),
        START=start, N=n, BLOCK=BLOCK, num_warps=1)
    return [dx, ddt, dA.sum(0), dB.sum(0).to(x.dtype), dC.sum(0).to(x.dtype), dD.sum(0), dz, dbias.sum(0), dh0]


@_scan_backward.register_fake
def _(x, dt, A, B, C, D, z, bias, h0, states, dy, dlast, start):
    b, l, e = x.shape
    n = A.shape[1]
    f32 = {"dtype": torch.float32}
    return [x.new_empty((b, l, e)), x.new_empty((b, l, e)), x.new_empty((e, n), **f32), x.new_empty((b, l, n)),
            x.new_empty((b, l, n)), x.new_empty((e,), **f32), x.new_empty((b, l, e)), x.new_empty((e,), **f32),
            x.new_empty((b, e, n), **f32)]


def _setup(ctx, inputs, output) -> None:
    x, dt, A, B, C, D, z, bias, h0, start, _ = inputs
    ctx.save_for_backward(x, dt, A, B, C, D, z, bias, h0, output[2])
    ctx.start = start


def _gradient(ctx, dy, dlast, _):
    *saved, states = ctx.saved_tensors
    dx, ddt, dA, dB, dC, dD, dz, dbias, dh0 = _scan_backward(*saved, states, dy, dlast, ctx.start)
    return dx, ddt, dA, dB, dC, dD, dz, dbias, dh0 if ctx.start else None, None, None


_scan.register_autograd(_gradient, setup_context=_setup)


def selective_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor,
                   h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns y in x's dtype and the last state."""
    if triton is None or not x.is_cuda:
        y, last = scan_reference(x, dt, A, B, C, D, z, bias, h0)
        return y.to(x.dtype), last
    keep = torch.is_grad_enabled()
    start = h0 is not None
    h0 = h0 if start else torch.zeros(1, device=x.device)
    y, last, _ = _scan(x, dt, A.contiguous(), B, C, D, z, bias, h0.contiguous(), start, keep)
    return y, last


def check(device: str = "cuda") -> None:
    """Holds the kernels against the definition: outputs and all gradients."""
    torch.manual_seed(0)
    for start in (False, True):
        b, l, e, n = 3, 37, 64, 16
        shapes = {"x": (b, l, e), "dt": (b, l, e), "B": (b, l, n), "C": (b, l, n), "D": (e,), "z": (b, l, e), "bias": (e,)}
        leaves = {k: torch.randn(s, device=device, requires_grad=True) for k, s in shapes.items()}
        leaves["A"] = (-torch.rand(e, n, device=device) * 4).requires_grad_()
        leaves["h0"] = torch.randn(b, e, n, device=device, requires_grad=True)
        weights = torch.randn(b, l, e, device=device), torch.randn(b, e, n, device=device)
        grads = []
        for function in (scan_reference, selective_scan):
            arguments = {k: v for k, v in leaves.items() if k != "h0" or start}
            y, last = function(**arguments)
            loss = (y * weights[0]).sum() + (last * weights[1]).sum()
            grads.append([y, last, *torch.autograd.grad(loss, list(arguments.values()))])
        for name, ours, theirs in zip(["y", "last", *arguments], grads[1], grads[0]):
            error = ((ours - theirs).norm() / theirs.norm()).item()
            print(f"scan start={start} {name}: {error:.1e}")
            if not error < 1e-2:
                raise AssertionError(f"the scan kernel's {name} is off by {error}")
