"""Gated activations and rotary embeddings for scoring, each in one pass, by our own kernels.

transformers writes them as several operations, each of which reads and writes all states: in a decoder they take as
long as its matrix products do where those are fast. For bf16 on a CPU the kernels are in csrc/pointwise.c, for a GPU in
`triton_kernels`. Knows tensors, not models.
"""

from enum import IntEnum

import torch
from torch import Tensor

from reward_model import triton_kernels
from reward_model.compiled import is_compiled_for, shared_object
from reward_model.leaves import leaf


class Activation(IntEnum):
    """What a gate goes through; the kernels know it by these numbers."""

    SILU = 0
    GELU_TANH = 1


def is_in_one_pass(like: Tensor) -> bool:
    """Whether there are kernels for its device and dtype."""
    return is_compiled_for(like.device, like.dtype) or triton_kernels.work_for(like)


def _empty_gated(gate: Tensor, _up: Tensor, _activation: Activation) -> Tensor:
    return torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)


@leaf(_empty_gated)
def gated(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """activation(gate) * up (Shazeer 2020, arXiv 2002.05202), without gradients.

    Args:
        gate, up: [..., size], alike.
        activation: of the gate.
    """
    size = gate.shape[-1]
    assert gate.shape == up.shape
    assert gate.dtype == up.dtype
    assert is_in_one_pass(gate)
    gates, ups = (one.reshape(-1, size) for one in (gate, up))
    gates, ups = (one if one.stride(1) == 1 else one.contiguous() for one in (gates, ups))
    out = _empty_gated(gate, up, activation)
    if gate.is_cuda:
        triton_kernels.gated(gates, ups, out.view(-1, size), gelu=activation is Activation.GELU_TANH)
        return out
    kernels = shared_object()
    assert kernels is not None
    numbers = (len(gates), size, gates.stride(0), ups.stride(0))
    kernels.reward_model_gated(*_pointers(gates, ups, out), *numbers, int(activation), torch.get_num_threads())
    return out


def can_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether `rotated` computes this."""
    row = (1, x.shape[-2], x.shape[-1])
    if not is_in_one_pass(x) or x.dim() != 4 or len(x) != 1 or x.stride(3) != 1:
        return False
    angles = (cos, sin)
    return all(one.is_contiguous() and (one.shape, one.dtype, one.device) == (row, x.dtype, x.device) for one in angles)


def _empty_rotated(x: Tensor, _cos: Tensor, _sin: Tensor) -> Tensor:
    _, heads, tokens, head_size = x.shape
    return x.new_empty(tokens, heads, head_size).transpose(0, 1).unsqueeze(0)


@leaf(_empty_rotated)
def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys turned by their positions' angles (Su et al. 2021, arXiv 2104.09864), without gradients.

    Args:
        x: [1, heads, T, head_size], values of a head side by side; each turns with the one half a head away.
        cos, sin: [1, T, head_size].

    Returns:
        As `x`; the heads of a token are side by side.
    """
    _, heads, tokens, head_size = x.shape
    out = torch.empty(tokens, heads, head_size, dtype=x.dtype, device=x.device)
    if x.is_cuda:
        triton_kernels.rotated(x[0].transpose(0, 1), cos[0], sin[0], out)
    else:
        kernels = shared_object()
        assert kernels is not None
        # The kernel trusts what it is told, and a trace has asked `can_rotate` only once.
        assert x.dtype == cos.dtype == sin.dtype
        assert cos.shape == sin.shape == (1, tokens, head_size)
        assert cos.is_contiguous()
        assert sin.is_contiguous()
        numbers = (tokens, heads, head_size // 2, x.stride(2), x.stride(1))
        kernels.reward_model_rotated(*_pointers(x, out, cos, sin), *numbers, torch.get_num_threads())
    return out.transpose(0, 1).unsqueeze(0)


def _pointers(*tensors: Tensor) -> list[int]:
    return [one.data_ptr() for one in tensors]
