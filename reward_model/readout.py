"""The last layer for those tokens only whose last state is read: one of each sequence, and few others.

A score depends on one token's last hidden state, so in the last layer all other tokens matter as keys and values only:
in a model of six layers that saves an eighth of the work. Exact, and the same with gradients. It is done with hooks, so
that the layer's own code runs: once up to its attention for all tokens (their queries are thrown away), then as a whole
for those that are read. Knows layers and layouts, not architectures.
"""

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from reward_model.attention import StatesFound
from reward_model.modes import evaluating
from reward_model.spans import Layout

log = logging.getLogger(__name__)

#: Share of the largest state by which two ways to compute it may differ, bf16 included.
_ROUNDING = 0.05


class Probe(Protocol):
    """Computes the last states of a few sequences, with the last layer read only, or as a whole."""

    def __call__(self, *, read_only: bool) -> Tensor:
        """[n, d]."""
        ...


def install(model: PreTrainedModel, probe: Probe) -> bool:
    """Has the last layer compute the tokens of `layout.read` only, wherever a layout has one.

    The rows of all other tokens hold zeros after it. Whether a layer can be run that way is tried, not guessed.

    Returns:
        Whether it can; where not, nothing has changed.
    """
    layer = _last_layer(model)
    if layer is None:
        return False
    if _before in layer._forward_pre_hooks.values():  # noqa: SLF001 - it has no public name
        return True
    hooks = [
        layer.register_forward_pre_hook(_before, with_kwargs=True),
        layer.register_forward_hook(_after, with_kwargs=True),
    ]
    works = False
    try:
        with evaluating(model):
            works = _same(probe)
    finally:
        if not works:
            for hook in hooks:
                hook.remove()
    return works


def _last_layer(model: PreTrainedModel) -> nn.Module | None:
    """The last of the model's layers, if they are a list of modules."""
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    base = getattr(model, model.base_model_prefix)
    found = [one for one in base.modules() if isinstance(one, nn.ModuleList) and len(one) == layers]
    return found[0][-1] if len(found) == 1 else None


@torch.no_grad()
def _same(probe: Probe) -> bool:
    expected = probe(read_only=False)
    try:
        measured = probe(read_only=True)
    except Exception:  # whatever a layer of a shape that nobody foresaw raises: it is then run as a whole
        log.info("the last layer cannot be run for single tokens", exc_info=True)
        return False
    # Rounding differs with the shapes; a wrong token is off by as much as the states are large.
    return bool((measured - expected).abs().max() <= _ROUNDING * expected.abs().max())


def _before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    layout = kwargs.get("layout")
    if not isinstance(layout, Layout) or layout.read is None:
        return None
    if layer.training and getattr(layer, "gradient_checkpointing", False):
        # What is computed anew in the backward pass must be all that the layer computed.
        return None
    key, value = _states(layer, args, kwargs)
    rows, tokens = layout.rows, layout.tokens
    assert rows is not None
    picked = {name: _pick(value, rows, tokens) for name, value in kwargs.items() if name != "layout"}
    read = layout.read.with_states(key, value, rows)
    return tuple(_pick(one, rows, tokens) for one in args), {**picked, "layout": read}


def _states(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Keys and values of all tokens, after whatever the layer does to them."""
    try:
        # Not through __call__: this hook is among its hooks.
        layer.forward(*args, **{**kwargs, "layout": Layout(())})
    except StatesFound as found:
        return found.key, found.value
    msg = "the last layer has no attention of the packed kind"
    raise AssertionError(msg)


def _after(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:  # noqa: ARG001
    layout = kwargs.get("layout")
    if not isinstance(layout, Layout) or layout.states is None:
        return None
    assert layout.rows is not None
    tokens = layout.states[0].shape[2]
    if isinstance(output, tuple):
        return (_spread(output[0], layout.rows, tokens), *output[1:])
    return _spread(output, layout.rows, tokens)


def _pick(value: Any, rows: Tensor, tokens: int) -> Any:
    """`value` for some rows, if it is a tensor [1, tokens, ...] or a tuple of such; else as it is."""
    if isinstance(value, tuple):
        return tuple(_pick(one, rows, tokens) for one in value)
    if isinstance(value, Tensor) and value.dim() > 1 and value.shape[:2] == (1, tokens):
        return value.index_select(1, rows)
    return value


def _spread(states: Tensor, rows: Tensor, tokens: int) -> Tensor:
    """[1, n, d] -> [1, tokens, d], the other rows zero."""
    return states.new_zeros(1, tokens, states.shape[2]).index_copy(1, rows, states)
