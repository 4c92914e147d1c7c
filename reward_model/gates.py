"""Perceptrons with a gate, as most decoders have them, whose activation and product are one pass; see `pointwise`.

Whether a module is one is tried. Knows modules, not models.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reward_model.pointwise import Activation, gated, is_in_one_pass

#: Share of the largest result by which another may differ: a few roundings to bf16.
_ROUNDING = 0.02


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
    weight = module.get_parameter("gate_proj.weight")
    if not is_in_one_pass(weight):
        return None
    x = torch.linspace(-9.0, 12.0, 3 * weight.shape[1]).sin().view(1, 3, -1).to(weight)
    try:
        expected = module(x)
    except Exception:  # noqa: BLE001 - it has another signature, so it is something else
        return None
    bound = _ROUNDING * expected.abs().max()
    return next((one for one in Activation if (_forward(module, one, x) - expected).abs().max() <= bound), None)
