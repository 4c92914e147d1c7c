"""Perceptrons with a gate, as most decoders have them, whose activation and product are one pass; see `pointwise`.

Whether a module is one is tried. Knows modules, not models.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reward_model.pointwise import Activation, gated, is_in_one_pass

#: Share of the largest result by which another may differ: a few roundings to bf16.
_ROUNDING = 0.02
#: The largest gate of what is tried.
_GATES = (2.0, 20.0)


@torch.no_grad()
def pack_gates(model: nn.Module) -> bool:
    """Gives the perceptrons below `model` a forward pass of their own, without gradients.

    Returns:
        Whether there were any.
    """
    found = False
    for module in model.modules():
        activation = _activation_of(module)
        if activation is not None:
            module.forward = partial(_forward, module, activation)
            found = True
    return found


def unpack_gates(model: nn.Module) -> None:
    """Takes back what `pack_gates` did."""
    for module in model.modules():
        if getattr(vars(module).get("forward"), "func", None) is _forward:
            del module.forward


def _forward(module: Any, activation: Activation, x: Tensor) -> Tensor:
    out: Tensor = module.down_proj(gated(module.gate_proj(x), module.up_proj(x), activation))
    return out


def _activation_of(module: nn.Module) -> Activation | None:
    """The activation of the gate, if `module` is a perceptron that has one."""
    projections = [getattr(module, f"{name}_proj", None) for name in ("gate", "up", "down")]
    if not all(isinstance(one, nn.Linear) for one in projections) or "forward" in vars(module):
        return None
    if not is_in_one_pass(projections[0].weight):  # type: ignore[union-attr]
        return None
    try:
        inputs = _inputs(projections[0])
        errors = {one: max(_error(module, one, x) for x in inputs) for one in Activation}
    except Exception:  # noqa: BLE001 - it has another signature, so it is something else
        return None
    best = min(errors, key=errors.__getitem__)
    return best if errors[best] <= _ROUNDING else None


def _inputs(gate: Any) -> list[Tensor]:
    """[1, 3, in] each, whose gates are as large as those where activations differ, and as those that are clamped."""
    x = torch.linspace(-9.0, 12.0, 3 * gate.in_features).sin().view(1, 3, -1).to(gate.weight)
    return [x * (size / gate(x).abs().max()) for size in _GATES]


def _error(module: nn.Module, activation: Activation, x: Tensor) -> float:
    """Share of the largest result; infinite where there is none to compare."""
    expected, measured = module(x), _forward(module, activation, x)
    if not isinstance(expected, Tensor) or (expected.shape, expected.dtype) != (measured.shape, measured.dtype):
        return math.inf
    error = float((measured - expected).abs().max() / expected.abs().max())
    return math.inf if math.isnan(error) else error
