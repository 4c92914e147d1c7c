"""Attention over a whole packed row in one call, on a CPU: our own kernel for bf16, in csrc/attention.c.

Nothing is padded, copied or compiled at run time, and the interpreter is free meanwhile. Knows tensors and spans, not
models.
"""

import ctypes
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from reward_model.compiled import has_tiles, is_compiled_for, shared_object
from reward_model.kernels import Rule, States
from reward_model.spans import Layout

_POINTERS = ("query", "key", "value", "out")
_STRIDES = ("query_head", "query_row", "key_head", "key_row", "value_head", "value_row")
_NUMBERS = ("num_spans", "heads", "key_heads", "head_size", "value_size", "causal", "window", "amx", "threads")


class Attention(ctypes.Structure):
    """The kernel's arguments, as csrc/attention.c declares them."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _STRIDES),
        ("spans", ctypes.c_void_p),
        ("ranges", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in _NUMBERS),
        ("scale", ctypes.c_float),
        ("by_query", ctypes.c_void_p),
        ("by_key", ctypes.c_void_p),
        ("half", ctypes.c_int64),
    )


@dataclass(frozen=True, slots=True)
class DistanceTiles:
    """What `reward_model.disentangled` says of distances, as the kernel reads it.

    Attributes:
        by_query, by_key: [heads, 2 N / 16, head_size / 32, 16, 32] bf16: of 16 rows 16 pairs of a row's values.
    """

    by_query: Tensor
    by_key: Tensor

    @classmethod
    def of(cls, by_query: Tensor, by_key: Tensor) -> "DistanceTiles":
        """From [heads, 2 N, head_size] each."""
        return cls(_tiles(by_query), _tiles(by_key))


def _tiles(rows: Tensor) -> Tensor:
    heads, n, size = rows.shape
    filled = torch.constant_pad_nd(rows, (0, -size % 32))
    return filled.view(heads, n // 16, 16, -1, 16, 2).permute(0, 1, 3, 4, 2, 5).contiguous()


def native_can(query: Tensor, states: States, rule: Rule) -> bool:
    """Whether `by_native` computes this: without gradients, soft caps and dropout."""
    if rule.softcap is not None or rule.dropout or rule.scale <= 0:
        return False
    tensors = (query, states.key, states.value)
    if not all(is_compiled_for(one.device, one.dtype) for one in tensors):
        return False
    return not (torch.is_grad_enabled() and any(one.requires_grad for one in tensors))


def by_native(
    query: Tensor, states: States, layout: Layout, rule: Rule, distances: DistanceTiles | None = None
) -> Tensor:
    """Attention as the layout says, by all of the caller's threads; zeros where it says nothing.

    Args:
        query: [heads, T, head_size].
        states: what the queries look at.
        layout: who sees whom.
        rule: how.
        distances: of disentangled attention, where there is one key head for each head, and everybody sees all keys.

    Returns:
        [T, heads, head_size of the values], the same for a span to the last bit whatever else is in the row.

    Raises:
        MemoryError: there is none to work in.
    """
    kernels = shared_object()
    assert kernels is not None
    query, key, value = (one if one.stride(2) == 1 else one.contiguous() for one in (query, states.key, states.value))
    spans, ranges, rows = layout.made("native", lambda: _tables(layout))
    (heads, tokens, head_size), (key_heads, states_of, value_size) = query.shape, value.shape
    end = layout.spans[-1].stop
    # The kernel trusts what it is told.
    assert (key_heads, states_of, head_size) == key.shape
    assert heads % key_heads == 0
    assert end <= tokens
    assert rows <= states_of
    extra: tuple[int | None, int | None, int] = (None, None, 0)
    if distances is not None:
        half = distances.by_query.shape[1] * 16 // 2
        assert heads == key_heads == len(distances.by_query)
        assert not rule.causal
        assert rule.window is None
        longest = max(span.num_keys for span in layout.spans)
        assert longest + 48 <= half, f"{longest} tokens are more than distances were made for"
        assert all(span.position + span.queries <= span.num_keys for span in layout.spans)
        extra = (distances.by_query.data_ptr(), distances.by_key.data_ptr(), half)
    out = query.new_empty(tokens, heads, value_size)
    out[end:] = 0
    pointers = (one.data_ptr() for one in (query, key, value, out))
    strides = (size for one in (query, key, value) for size in one.stride()[:2])
    numbers = (len(spans), heads, key_heads, head_size, value_size, rule.causal, rule.window or 0)
    how = (has_tiles(), torch.get_num_threads(), rule.scale)
    arguments = Attention(*pointers, *strides, spans.data_ptr(), ranges.data_ptr(), *numbers, *how, *extra)
    if kernels.reward_model_attention(ctypes.byref(arguments)):
        msg = f"no memory for attention over {max(span.num_keys for span in layout.spans)} keys"
        raise MemoryError(msg)
    return out


def _tables(layout: Layout) -> tuple[Tensor, Tensor, int]:
    """Start, stop, position, first and last range of each span, [n, 5] int32; the ranges of keys, [m, 2]; their end."""
    bounds = pairwise(accumulate((len(span.keys) for span in layout.spans), initial=0))
    spans = [(one.start, one.stop, one.position, *some) for one, some in zip(layout.spans, bounds, strict=True)]
    ranges = [run for span in layout.spans for run in span.keys]
    rows = max(stop for _, stop in ranges)
    return torch.tensor(spans, dtype=torch.int32), torch.tensor(ranges, dtype=torch.int32), rows
