"""Gated activations and rotary embeddings in one pass say what several operations say."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reward_model import triton_kernels
from reward_model.compiled import is_compiled_for
from reward_model.pointwise import Activation, can_rotate, gated, is_in_one_pass, rotated

GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))
CPU = pytest.mark.skipif(
    not is_compiled_for(torch.device("cpu"), torch.bfloat16),
    reason="the CPU lacks AVX-512 BF16, or there was no C compiler",
)
DEVICES = pytest.mark.parametrize("device", [pytest.param("cpu", marks=CPU), pytest.param("cuda", marks=GPU)])
PLAIN: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.SILU: F.silu,
    Activation.GELU_TANH: partial(F.gelu, approximate="tanh"),
}


@DEVICES
@pytest.mark.parametrize("apart", [False, True], ids=["side by side", "apart"])
@pytest.mark.parametrize("size", [1, 16, 33, 1536])
@pytest.mark.parametrize("activation", list(Activation))
def test_a_gate(activation: Activation, size: int, apart: bool, device: str) -> None:
    torch.manual_seed(0)
    both = (20 * torch.randn(2, 7, 2 * size)).bfloat16().to(device)
    gate, up = both[..., :size], both[..., size:]
    if not apart:
        gate, up = gate.contiguous(), up.contiguous()
    expected = PLAIN[activation](gate.float()) * up.float()
    measured = gated(gate, up, activation)
    assert measured.shape == gate.shape
    torch.testing.assert_close(measured.float(), expected, rtol=0.005, atol=1e-4)


@DEVICES
@pytest.mark.parametrize("activation", list(Activation))
def test_a_gate_of_extremes(activation: Activation, device: str) -> None:
    gate = torch.tensor([-3.3e38, -1e4, -88.0, -0.0, 0.0, 1e-30, 88.0, 1e4, torch.nan]).bfloat16().to(device)
    measured = gated(gate, torch.ones_like(gate), activation)
    torch.testing.assert_close(measured, PLAIN[activation](gate), equal_nan=True)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(1) + torch.cat((-right, left), dim=-1) * sin.unsqueeze(1)


@DEVICES
@pytest.mark.parametrize(("heads", "size", "whole"), [(1, 2, 2), (3, 16, 16), (8, 64, 64), (5, 24, 40)])
def test_a_rotation(heads: int, size: int, whole: int, device: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 9, heads, whole).bfloat16().to(device).transpose(1, 2)[..., :size]
    cos, sin = torch.randn(2, 1, 9, size).bfloat16().to(device)
    assert can_rotate(x, cos, sin)
    measured = rotated(x, cos, sin)
    assert measured.shape == x.shape
    torch.testing.assert_close(measured.float(), turned(x.float(), cos.float(), sin.float()), rtol=0.01, atol=0.01)


@CPU
def test_what_is_laid_out_otherwise_is_not_rotated() -> None:
    x, angles = torch.randn(1, 3, 5, 8).bfloat16(), torch.randn(1, 5, 8).bfloat16()
    assert can_rotate(x, angles, angles)
    assert not can_rotate(x.float(), angles.float(), angles.float())
    assert not can_rotate(x, angles.float(), angles)
    assert not can_rotate(x, angles[..., :4], angles[..., :4])
    assert not can_rotate(x, torch.randn(1, 8, 5).bfloat16().mT, angles)
    assert not can_rotate(torch.randn(1, 3, 8, 5).bfloat16().mT, angles, angles)
    assert not can_rotate(torch.cat([x, x]), angles, angles)


@CPU
def test_a_gate_whose_values_are_apart_is_copied() -> None:
    gate, up = torch.randn(2, 24, 7).bfloat16().unbind()
    measured = gated(gate.mT, up.mT, Activation.SILU)
    torch.testing.assert_close(measured, F.silu(gate.mT) * up.mT, rtol=0.02, atol=0.01)


def test_fp32_on_a_cpu_is_left_to_torch() -> None:
    assert not is_in_one_pass(torch.zeros(1))


def test_without_triton_a_gpu_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "triton", None)
    assert not triton_kernels._work_on.__wrapped__(torch.device("cuda"))


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with torch's builds for CUDA")
def test_the_kernels_for_a_gpu_as_triton_interprets_them() -> None:
    code = """
import torch
from reward_model import triton_kernels
from tests.reward_model.test_pointwise import PLAIN, turned
both = torch.randn(5, 2 * 1500).bfloat16()
gate, up = both.chunk(2, dim=1)
for activation, plain in PLAIN.items():
    out = torch.empty(5, 1500, dtype=torch.bfloat16)
    triton_kernels.gated(gate, up, out, gelu=activation.name == "GELU_TANH")
    torch.testing.assert_close(out.float(), plain(gate.float()) * up.float(), rtol=0.01, atol=1e-6)
x, (cos, sin) = torch.randn(9, 3, 24).bfloat16(), torch.randn(2, 1, 9, 24).bfloat16()
out = torch.empty_like(x)
triton_kernels.rotated(x, cos[0], sin[0], out)
expected = turned(x.float().transpose(0, 1)[None], cos.float(), sin.float())[0].transpose(0, 1)
torch.testing.assert_close(out.float(), expected, rtol=0.01, atol=0.02)
"""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
