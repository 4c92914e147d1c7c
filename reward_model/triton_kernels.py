"""The kernels of `pointwise` for a GPU, in Triton, which comes with torch's builds for CUDA.

Whether they work is tried once: Triton wants a C compiler when it first runs. Knows rows, not models.
"""

# mypy: disable-error-code="import-not-found, no-untyped-def"
# ruff: noqa: ANN001, ANN202, N803, PLR0913, PLR0917 - Triton reads the kernels' annotations
from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    from triton import language as tl
except ImportError:
    triton = None

log = logging.getLogger(__name__)

#: Values of a row that one program computes.
_BLOCK = 1024


def work_for(like: Tensor) -> bool:
    """Whether there are kernels for its device and dtype, and they work there."""
    return like.is_cuda and like.dtype in {torch.bfloat16, torch.float16} and _work_on(like.device)


@cache
def _work_on(device: torch.device) -> bool:
    if triton is None:
        log.info("without Triton gated activations and rotary embeddings are torch's, slower")
        return False
    x = torch.zeros(1, 1, 16, dtype=torch.bfloat16, device=device)
    try:
        gated(x[0], x[0], torch.empty_like(x[0]), gelu=False)
        rotated(x, x[0], x[0], torch.empty_like(x))
        torch.cuda.synchronize(device)
    except Exception as error:  # noqa: BLE001 - without a C compiler, say; torch can do it
        log.warning("Triton does not work here, so gated activations and rotary embeddings are slower: %s", error)
        return False
    return True


def gated(gate: Tensor, up: Tensor, out: Tensor, *, gelu: bool) -> None:
    """Writes activation(gate) * up; each is [rows, size], `out` contiguous."""
    rows, size = gate.shape
    grid = (rows, triton.cdiv(size, _BLOCK))
    with _on(gate.device):
        _gated[grid](gate, up, out, size, gate.stride(0), up.stride(0), GELU=gelu, BLOCK=_BLOCK)


def rotated(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Writes `x`, [T, heads, head_size], turned by the angles of [T, head_size]; all but `x` contiguous."""
    tokens, heads, head_size = x.shape
    half = head_size // 2
    with _on(x.device):
        _rotated[(tokens,)](
            x, cos, sin, out, heads, half, x.stride(0), x.stride(1),
            HEADS=triton.next_power_of_2(heads), HALF=triton.next_power_of_2(half),
        )  # fmt: skip


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton starts kernels on the current device, wherever their memory is."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _kernel(function: Any) -> Any:
    return function if triton is None else triton.jit(function)


@_kernel
def _gated(gate, up, out, size, gate_row, up_row, GELU: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    within = at < size
    x = tl.load(gate + row * gate_row + at, mask=within, other=0).to(tl.float32)
    y = tl.load(up + row * up_row + at, mask=within, other=0).to(tl.float32)
    # 0.5 * (1 + tanh(z)) is the logistic function of 2 * z.
    z = 1.5957691216 * (x + 0.044715 * x * x * x) if GELU else x
    tl.store(out + row * size + at, (x * tl.sigmoid(z) * y).to(out.dtype.element_ty), mask=within)


@_kernel
def _rotated(x, cos, sin, out, heads, half, x_row, x_head, HEADS: tl.constexpr, HALF: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    head, at = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    within, there = at < half, (head < heads) & (at < half)
    angle = row * 2 * half + at
    start = x + row * x_row + head * x_head + at
    a = tl.load(start, mask=there, other=0).to(tl.float32)
    b = tl.load(start + half, mask=there, other=0).to(tl.float32)
    left = a * tl.load(cos + angle, mask=within, other=0) - b * tl.load(sin + angle, mask=within, other=0)
    right = b * tl.load(cos + angle + half, mask=within, other=0) + a * tl.load(
        sin + angle + half, mask=within, other=0
    )
    end = out + (row * heads + head) * 2 * half + at
    tl.store(end, left.to(out.dtype.element_ty), mask=there)
    tl.store(end + half, right.to(out.dtype.element_ty), mask=there)
