"""Rotary embeddings in one pass; see `pointwise`.

transformers' attention calls a function of its own module for them. Here each attention gets a forward pass that is the
same but for that function. Whether the function is the usual one is tried. Knows modules, not models.
"""

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from reward_model.pointwise import can_rotate, is_in_one_pass, rotated

#: What transformers calls it in every model's code.
_NAME = "apply_rotary_pos_emb"
#: By how much a turned value of size 1 may differ: a few roundings to bf16.
_ROUNDING = 0.02

_Rotate = Callable[..., tuple[Tensor, Tensor]]


@torch.no_grad()
def pack_rotary(model: nn.Module) -> bool:
    """Gives the attention below `model` that has rotary embeddings a forward pass of its own, without gradients.

    Returns:
        Whether there was any.
    """
    found = False
    for module in model.modules():
        forward, weight = type(module).forward, next(module.parameters(recurse=True), None)
        if not isinstance(forward, FunctionType) or _NAME not in forward.__code__.co_names or "forward" in vars(module):
            continue
        plain = forward.__globals__.get(_NAME)
        if plain is not None and weight is not None and is_in_one_pass(weight) and _is_usual(plain, weight):
            module.forward = MethodType(_calling(forward, _in_one_pass(plain)), module)
            found = True
    return found


def unpack_rotary(model: nn.Module) -> None:
    """Takes back what `pack_rotary` did."""
    for module in model.modules():
        own = getattr(vars(module).get("forward"), "__func__", None)
        if getattr(getattr(own, "__globals__", {}).get(_NAME), "__wrapped__", None) is not None:
            del module.forward


def _calling(forward: FunctionType, rotate: _Rotate) -> FunctionType:
    """`forward`, but for what it calls to rotate."""
    names = {**forward.__globals__, _NAME: rotate}
    copy = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    copy.__kwdefaults__ = forward.__kwdefaults__
    return copy


def _in_one_pass(plain: _Rotate) -> _Rotate:
    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, **others: Any) -> tuple[Tensor, Tensor]:
        if others in ({}, {"unsqueeze_dim": 1}) and all(can_rotate(one, cos, sin) for one in (q, k)):
            return rotated(q, cos, sin), rotated(k, cos, sin)
        return plain(q, k, cos, sin, **others)

    rotate.__wrapped__ = plain  # type: ignore[attr-defined]
    return rotate


def _is_usual(plain: _Rotate, like: Tensor) -> bool:
    """Tries it on values and angles of which no two are alike."""
    values = torch.linspace(1.0, 40.0, 3 * 5 * 16).sin().to(like)
    q, k = values.view(1, 3, 5, 16), values.flip(0).view(1, 3, 5, 16)
    cos, sin = torch.linspace(0.0, 9.0, 2 * 5 * 16).cos().to(like).view(2, 1, 5, 16)
    try:
        expected = plain(q, k, cos, sin)
    except Exception:  # noqa: BLE001 - it has another signature, so it is something else
        return False
    measured = (rotated(q, cos, sin), rotated(k, cos, sin))
    return all(
        one.shape == other.shape and bool(((one - other).abs() <= _ROUNDING).all())
        for one, other in zip(measured, expected, strict=True)
    )
