"""Rotary embeddings in one pass; see `pointwise`.

transformers' attention calls a function of its own module for them. Here each attention gets a forward pass that is the
same but for that function. Whether the function is the usual one is tried. Knows modules, not models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from reward_model.pointwise import can_rotate, is_in_one_pass, rotated

#: What transformers calls it in every model's code.
_NAME = "apply_rotary_pos_emb"
#: By how much a turned value of size 1 may differ: a few roundings to bf16.
_ROUNDING = 0.02


@torch.no_grad()
def pack_rotary(model: nn.Module) -> bool:
    """Gives the attention below `model` that has rotary embeddings a forward pass of its own, without gradients.

    Returns:
        Whether there was any.
    """
    found: dict[FunctionType, FunctionType | None] = {}
    for module in model.modules():
        forward, weight = type(module).forward, next(module.parameters(), None)
        if not isinstance(forward, FunctionType) or _NAME not in forward.__code__.co_names or weight is None:
            continue
        if forward not in found:
            found[forward] = _in_one_pass(forward, weight)
        if (own := found[forward]) is not None and "forward" not in vars(module):
            module.forward = MethodType(own, module)
    return any(own is not None for own in found.values())


def unpack_rotary(model: nn.Module) -> None:
    """Takes back what `pack_rotary` did."""
    for module in model.modules():
        own = getattr(vars(module).get("forward"), "__func__", None)
        if isinstance(getattr(own, "__globals__", {}).get(_NAME), _Rotation):
            del module.forward


def _in_one_pass(forward: FunctionType, like: Tensor) -> FunctionType | None:
    """`forward`, but for what it calls to rotate; None where that is something else."""
    plain = forward.__globals__.get(_NAME)
    if not callable(plain) or not is_in_one_pass(like) or not _is_usual(plain, like):
        return None
    names = {**forward.__globals__, _NAME: _Rotation(plain)}
    copy = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    copy.__kwdefaults__ = forward.__kwdefaults__
    return copy


@dataclass(frozen=True, slots=True)
class _Rotation:
    """What a forward pass calls instead of `plain`, which gets what the kernels do not take."""

    plain: Callable[..., tuple[Tensor, Tensor]]

    def __call__(
        self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **others: Any
    ) -> tuple[Tensor, Tensor]:
        usual = not more and others in ({}, {"unsqueeze_dim": 1})
        if usual and all(can_rotate(one, cos, sin) for one in (q, k)):
            return rotated(q, cos, sin), rotated(k, cos, sin)
        return self.plain(q, k, cos, sin, *more, **others)


def _is_usual(plain: Callable[..., Any], like: Tensor) -> bool:
    """Tries it on values and angles without any order."""
    values = torch.linspace(1.0, 40.0, 3 * 5 * 16).sin().to(like)
    q, k = values.view(1, 3, 5, 16), values.flip(0).view(1, 3, 5, 16)
    cos, sin = torch.linspace(0.3, 90.0, 2 * 5 * 16).cos().to(like).view(2, 1, 5, 16)
    try:
        expected = plain(q, k, cos, sin)
        measured = (rotated(q, cos, sin), rotated(k, cos, sin))
        torch.testing.assert_close(measured, expected, rtol=_ROUNDING, atol=_ROUNDING)
    except Exception:  # noqa: BLE001 - it has another signature or gives something else
        return False
    return True
