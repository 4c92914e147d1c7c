"""Attention over a packed row: each token sees its own sequence and nothing else.

Registered with transformers' `AttentionInterface`, so that the models' own code does everything but attention. Equal to
transformers' eager attention on each sequence alone; causality, sliding windows and soft caps are the model's. Knows
nothing of batches of requests.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import AttentionInterface

from reward_model.errors import CheckpointRefused
from reward_model.kernels import Rule, States, by_matmul, by_sdpa
from reward_model.leaves import Leaf, notes
from reward_model.native import by_native, native_can
from reward_model.precision import has_amx
from reward_model.spans import Layout
from reward_model.tiled import tiled_attention, tiled_can
from reward_model.varlen import by_varlen, varlen_can

#: The name under which transformers dispatches to `packed_attention`.
PACKED = "reward_model_packed"
#: Keys from which on plain matrix products are faster than SDPA for bf16 on a CPU without AMX; for fp32 they never are.
FEWEST_KEYS = 48
#: Tensors that some models hand through and that change nothing here.
_HARMLESS = frozenset({"position_ids", "cache_position"})


class StatesFound(Exception):
    """The keys and values, each [1, heads, T, head_size], of a layer whose layout asked for nothing else.

    No error: it ends a forward pass of which no more is wanted.
    """

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.key, self.value = key, value


def packed_attention(  # noqa: PLR0913 - the signature is transformers'
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Attention as the layout says.

    Args:
        module: the model's attention module; its `is_causal` says whether tokens see later ones.
        query: [1, heads, T, head_size].
        key, value: [1, key_value_heads, T, head_size].
        attention_mask: always None: transformers builds none for an attention it has no mask function for.
        layout: who sees whom.
        scaling: factor on the logits; default head_size ** -0.5.
        dropout: probability, in training.
        sliding_window: a token sees others less than this many positions away.
        softcap: logits become softcap * tanh(logits / softcap) (Gemma 2).
        is_causal: overrides the module's.

    Returns:
        [1, T, heads, head_size], and None for the weights.

    Raises:
        CheckpointRefused: the model's attention has a term that is not known here (attention sinks, say).
        StatesFound: the layout has no queries, only the states were wanted.
    """
    if unknown := sorted(name for name, value in others.items() if isinstance(value, Tensor) and name not in _HARMLESS):
        msg = f"this model's attention has a term that packed attention does not know: {', '.join(unknown)}"
        raise CheckpointRefused(msg)
    if not layout.spans:
        raise StatesFound(key, value)
    rule = Rule(
        scale=query.shape[3] ** -0.5 if scaling is None else scaling,
        causal=bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal,
        window=sliding_window,
        softcap=softcap,
        dropout=dropout,
    )
    key, value = layout.states or (key, value)
    if (trace := notes()) is not None:
        empty = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        owner = None if layout.states is None else rule
        made = Leaf(_noted(layout, rule), lambda: empty, of_layout=True, owner=owner)
        return trace.add(made, query, key, value), None
    return _of_row(query, key, value, layout, rule), None


def _of_row(query: Tensor, key: Tensor, value: Tensor, layout: Layout, rule: Rule) -> Tensor:
    """[1, T, heads, head_size of the values]; the tensors as in `packed_attention`."""
    query, key, value = (_autocast(one) for one in (query, key, value))
    return _attend(query[0], States(key[0], value[0]), layout, rule).unsqueeze(0)


def _noted(traced: Layout, rule: Rule) -> Callable[..., Tensor]:
    """What a trace calls with another batch's layout: for all of its queries, or those that are read."""

    def of_row(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
        return _of_row(query, key, value, layout, rule)

    def of_read(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
        assert layout.read is not None
        assert layout.rows is not None
        return _of_row(query, key, value, layout.read.with_states(key, value, layout.rows), rule)

    return of_row if traced.states is None else of_read


def _autocast(tensor: Tensor) -> Tensor:
    """In the dtype that torch's own attention would compute in."""
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


def _attend(query: Tensor, states: States, layout: Layout, rule: Rule) -> Tensor:
    """[T, heads, head_size of the values]."""
    if varlen_can(query, states, layout, rule):
        return by_varlen(query, states, layout, rule)
    if native_can(query, states, rule):
        return by_native(query, states, layout, rule)
    if torch.is_grad_enabled() and _is_cpu_bf16(query) and tiled_can(rule):
        return tiled_attention(query, states, layout, rule, _attend)
    return _by_spans(query, states, layout, rule)


def _by_spans(query: Tensor, states: States, layout: Layout, rule: Rule) -> Tensor:
    """Span by span, each in the way that is fastest for it."""
    pieces = []
    fewest = 0 if rule.softcap is not None else _fewest_keys(query, states)
    for span, count in layout.groups():
        if span.num_keys >= fewest:
            spans = [span] if count == 1 else [span.moved(i * span.queries) for i in range(count)]
            pieces += [by_matmul(query, states, layout, one, rule) for one in spans]
        else:
            pieces.append(by_sdpa(query, states, layout, span, rule, count))
    if behind := query.shape[1] - layout.spans[-1].stop:
        pieces.append(query.new_zeros(behind, *pieces[-1].shape[1:]))
    # Some models view the heads of a token as one vector, as transformers' own attention allows.
    return pieces[0].contiguous() if len(pieces) == 1 else torch.cat(pieces)


def _fewest_keys(query: Tensor, states: States) -> float:
    """Keys from which on plain matrix products are fastest; they would keep all weights where gradients are needed."""
    if not _is_cpu_bf16(query) or torch.is_grad_enabled():
        return math.inf
    # torch fuses attention only where values are as large as keys.
    return math.inf if has_amx() and query.shape[2] == states.value.shape[2] else FEWEST_KEYS


def _is_cpu_bf16(query: Tensor) -> bool:
    return query.dtype == torch.bfloat16 and query.device.type == "cpu"


AttentionInterface.register(PACKED, packed_attention)
