"""Attention over a whole packed row in one call, on a GPU: FlashAttention's kernel for variable lengths.

Knows tensors and spans, not models.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen

from reward_model.kernels import Rule, States
from reward_model.packing import to_device
from reward_model.spans import Layout, Span

#: Rows of keys and values that `by_varlen` copies at once for those who share them: half a gigabyte in a large model.
GATHERED = 2**17
#: Older releases of torch (2.11) want one key head for each query head.
_TAKES_GROUPS = "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters
#: Its annotations differ between releases too.
_kernel: Any = varlen.varlen_attn


def varlen_can(query: Tensor, states: States, layout: Layout, rule: Rule) -> bool:
    """Whether `by_varlen` computes this: FlashAttention's dtypes and head sizes, no soft cap, no dropout.

    It takes the queries for the last positions of their keys, which must hold unless all see everything.
    """
    if not query.is_cuda or query.dtype not in {torch.bfloat16, torch.float16}:
        return False
    size = query.shape[-1]
    if size % 8 or size > 256 or states.value.shape[-1] != size or rule.softcap is not None or rule.dropout:
        return False
    return layout.aligned or (not rule.causal and rule.window is None)


def by_varlen(query: Tensor, states: States, layout: Layout, rule: Rule) -> Tensor:
    """The whole row in one call of FlashAttention's variable-length kernel (Dao 2023, arXiv 2307.08691).

    Returns:
        [T, heads, head_size].
    """
    rows = layout.made("varlen", lambda: tuple(_varlen_rows(layout, query.device)))
    pieces = [_varlen(query, states, row, rule) for row in rows]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _varlen(query: Tensor, states: States, row: "_VarlenRow", rule: Rule) -> Tensor:
    q, k, v = (tensor.transpose(0, 1) for tensor in (query, states.key, states.value))
    if row.rows is not None:
        q, k, v = q[row.queries], k[row.rows], v[row.rows]
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1 and not _TAKES_GROUPS:
        k, v = (tensor.repeat_interleave(repeats, dim=1) for tensor in (k, v))
    left = -1 if rule.window is None else rule.window - 1
    grouped = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}
    result: Tensor = _kernel(
        q,
        k,
        v,
        row.cu_queries,
        row.cu_keys,
        row.most_queries,
        row.most_keys,
        scale=rule.scale,
        window_size=(left, 0 if rule.causal else left),
        **grouped,
    )
    return result


class LayoutOnDevice(Layout):
    """Sequences whose bounds the host does not know: kernels may be recorded now and run over others later."""

    def groups(self) -> tuple[tuple[Span, int], ...]:
        """Nothing can go span by span.

        Raises:
            RuntimeError: always.
        """
        msg = "this attention needs the sequences' bounds on the host"
        raise RuntimeError(msg)


def layout_on_device(bounds: Tensor, size: int) -> Layout:
    """The layout of a row of `size` tokens, whose sequences are between `bounds`, [n + 1] int32, at each time."""
    row = _VarlenRow(slice(0, size), bounds, bounds, size, size, None)
    layout = LayoutOnDevice((Span(0, size, ((0, size),), 0),), size)
    layout.made("varlen", lambda: (row,))
    return layout


@dataclass(frozen=True, slots=True)
class _VarlenRow:
    """Some spans in the kernel's terms, on its device.

    Attributes:
        queries: their rows.
        cu_queries, cu_keys: [spans + 1] int32, cumulative numbers.
        most_queries, most_keys: of one span.
        rows: [sum of all num_keys] int64, where the keys stand; None where that is the row itself.
    """

    queries: slice
    cu_queries: Tensor
    cu_keys: Tensor
    most_queries: int
    most_keys: int
    rows: Tensor | None

    @classmethod
    def of(cls, spans: Sequence[Span], device: torch.device, *, gathered: bool) -> "_VarlenRow":
        queries = [span.queries for span in spans]
        keys = [span.num_keys for span in spans]
        rows = torch.cat([torch.arange(*run) for span in spans for run in span.keys]) if gathered else None
        return cls(
            slice(spans[0].start, spans[-1].stop),
            to_device(torch.tensor([0, *accumulate(queries)], dtype=torch.int32), device),
            to_device(torch.tensor([0, *accumulate(keys)], dtype=torch.int32), device),
            max(queries),
            max(keys),
            None if rows is None else to_device(rows, device),
        )


def _varlen_rows(layout: Layout, device: torch.device) -> Iterator[_VarlenRow]:
    """The whole row at once, or, where keys have to be gathered, as many spans at a time as memory should hold."""
    if layout.states is None and all(span.alone for span in layout.spans):
        yield _VarlenRow.of(layout.spans, device, gathered=False)
        return
    some: list[Span] = []
    keys = 0
    for span in layout.spans:
        if some and keys + span.num_keys > GATHERED:
            yield _VarlenRow.of(some, device, gathered=True)
            some, keys = [], 0
        some.append(span)
        keys += span.num_keys
    yield _VarlenRow.of(some, device, gathered=True)
