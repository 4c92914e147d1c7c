"""Ways to compute attention over the spans of a packed row, all to the same result.

`varlen` does a whole row in one call on a GPU, `native` on a CPU in bf16, `tiled` has gradients of its own. Here is
what any device can do, span by span: `by_matmul` knows soft caps, `by_sdpa` is faster for most else. Which is used when
is `attention`'s decision, measured in benchmarks/attention.py. Knows tensors and spans, not models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from reward_model.sizes import STEPS, round_up
from reward_model.spans import Layout, Range, Span

#: Attention weights that `by_matmul` holds at once: what stays in a core's cache.
SCORES = 2**20
#: Queries of one tile where not all of them see the same keys: fewer see less, more are faster.
ROWS = 256


@dataclass(frozen=True, slots=True)
class Rule:
    """What a model's attention does beside softmax(Q K^T) V.

    Attributes:
        scale: factor on the logits.
        causal: a token does not see later ones.
        window: a token sees others less than this many positions away.
        softcap: logits become softcap * tanh(logits / softcap) (Gemma 2, arXiv 2408.00118).
        dropout: probability of a weight to be dropped, in training.
    """

    scale: float
    causal: bool
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class States:
    """Keys and values of one layer.

    Attributes:
        key: [key_value_heads, T, head_size].
        value: [key_value_heads, T, head_size of the values].
    """

    key: Tensor
    value: Tensor
    _cut: dict[Range, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def seen(self, rows: Range, run: Range) -> tuple[Tensor, Tensor]:
        """Keys, transposed, and values of `rows`, as matrix products want them: laid out once for all of `run`.

        They are filled up to one of few sizes, with zeros or with what follows in `run`.
        """
        if run not in self._cut:
            size = run[1] - run[0]
            # Some of the last rows, too, are filled up to a size of their own.
            more = round_up(size + size // STEPS) - size
            key, value = (_filled(one[:, slice(*run)], more).contiguous() for one in (self.key, self.value))
            self._cut[run] = key.transpose(1, 2), value
        keys, values = self._cut[run]
        first = rows[0] - run[0]
        own = slice(first, first + round_up(rows[1] - rows[0]))
        return keys[:, :, own], values[:, own]


def by_matmul(query: Tensor, states: States, layout: Layout, span: Span, rule: Rule) -> Tensor:
    """Plain matrix products and a softmax, a tile at a time: some queries, and what they see, of some heads.

    Args:
        query: [heads, T, head_size].
        states: what the queries look at.
        layout: the one that `span` is of.
        span: what to compute.
        rule: how.

    Returns:
        [queries, heads, head_size of the values].
    """
    blocks = [_block(query, states, layout, span, part, rule) for part in _parts(span, rule, query, states.key)]
    result = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
    return result.transpose(0, 1)


def _parts(span: Span, rule: Rule, query: Tensor, key: Tensor) -> Iterator[Span]:
    """A few queries each, with no keys but those that they may see."""
    repeats = query.shape[0] // key.shape[0]
    rows = max(1, SCORES // (repeats * span.num_keys))
    if rule.causal or rule.window is not None:
        rows = min(rows, ROWS)
    for first in range(0, span.queries, rows):
        yield span.part(first, min(first + rows, span.queries), rule.window, causal=rule.causal)


def _block(query: Tensor, states: States, layout: Layout, span: Span, part: Span, rule: Rule) -> Tensor:
    """[heads, queries, head_size of the values] of a part of `span` that is few enough queries."""
    results = []
    for tile in _tiles_of(query, states, layout, span, part, rule):
        result = torch.bmm(tile.weights[0], tile.values[0])
        for weights, values in zip(tile.weights[1:], tile.values[1:], strict=True):
            result.baddbmm_(weights, values)
        results.append(tile.by_head(result)[:, : part.queries])
    return results[0] if len(results) == 1 else torch.cat(results)


@dataclass(frozen=True, slots=True)
class Tile:
    """The attention weights of some queries of some heads, and what they are made of.

    All matrices are filled up to few sizes: queries by zeros, keys and values by some that nobody sees.

    Attributes:
        rows: the queries'.
        heads: the queries'; those that share a key head are one matrix, so that nothing is repeated.
        key_heads: those that they look at.
        queries: [k, repeats * r, head_size], for k key heads and `rows` filled up to r.
        runs: rows of keys, each range with one of `keys`, `values` and `weights`.
        keys: [k, head_size, n] each.
        values: [k, n, size] each.
        weights: [k, repeats * r, n] each; 0 for keys that fill up.
    """

    rows: slice
    heads: slice
    key_heads: slice
    queries: Tensor
    runs: tuple[Range, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]

    def by_head(self, tensor: Tensor) -> Tensor:
        """[k, repeats * r, size] -> [heads, r, size]."""
        return tensor.view(self.heads.stop - self.heads.start, -1, tensor.shape[2])

    def by_key_head(self, tensor: Tensor) -> Tensor:
        """[heads, rows, size] -> [k, repeats * r, size], filled up with zeros."""
        return _by_key_head(tensor, len(self.queries))


def tiles(query: Tensor, states: States, layout: Layout, span: Span, rule: Rule) -> Iterator[Tile]:
    """All tiles of a span; see `by_matmul`."""
    for part in _parts(span, rule, query, states.key):
        yield from _tiles_of(query, states, layout, span, part, rule)


def _tiles_of(query: Tensor, states: States, layout: Layout, span: Span, part: Span, rule: Rule) -> Iterator[Tile]:
    repeats = query.shape[0] // states.key.shape[0]
    # Without a window all queries see all that comes before them, so that only their own keys need a mask.
    masked = part.itself if rule.causal and rule.window is None else part
    mask = layout.mask(masked, rule.window, query, causal=rule.causal)
    rows = slice(part.start, part.stop)
    step = max(1, SCORES // (repeats * part.queries * part.num_keys))
    runs, wholes = zip(*part.keys_within(span), strict=True)
    seen = [states.seen(run, whole) for run, whole in zip(runs, wholes, strict=True)]
    for first in range(0, states.key.shape[0], step):
        some = slice(first, first + step)
        keys, values = (tuple(one[some] for one in each) for each in zip(*seen, strict=True))
        heads = slice(first * repeats, (first + len(values[0])) * repeats)
        queries = _by_key_head(query[heads, rows], len(values[0]))
        weights = _weights(queries, keys, [stop - start for start, stop in runs], rule, mask)
        yield Tile(rows, heads, some, queries, runs, keys, values, weights)


def _by_key_head(tensor: Tensor, key_heads: int) -> Tensor:
    rows = tensor.shape[1]
    return _filled(tensor, round_up(rows) - rows).reshape(key_heads, -1, tensor.shape[2])


def _weights(
    q: Tensor, keys: Sequence[Tensor], counts: Sequence[int], rule: Rule, mask: Tensor | None
) -> tuple[Tensor, ...]:
    """[k, repeats * r, n] of q's dtype for each of `keys`, of which only the first so many count."""
    nothing = q.new_empty(1)
    pieces = tuple(torch.baddbmm(nothing, q, one, beta=0, alpha=rule.scale) for one in keys)
    logits = [piece[:, :, :count] for piece, count in zip(pieces, counts, strict=True)]
    scores = logits[0] if len(logits) == 1 else torch.cat(logits, dim=2)
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    if mask is not None:
        seen = torch.unflatten(scores[:, :, -mask.shape[1] :], 1, (-1, round_up(len(mask))))
        seen[:, :, : len(mask)].add_(mask)
    # In bf16 all along it takes twice as long where the number of keys is odd.
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
    if rule.dropout:
        weights = F.dropout(weights, rule.dropout)
    for piece, count, own in zip(pieces, counts, torch.split(weights, list(counts), dim=2), strict=True):
        piece[:, :, :count] = own
        piece[:, :, count:] = 0
    return pieces


def by_sdpa(query: Tensor, states: States, layout: Layout, span: Span, rule: Rule, count: int = 1) -> Tensor:
    """What torch calls scaled_dot_product_attention, for `count` spans like `span` side by side; see `by_matmul`."""
    if span.alone:
        q, k, v = (_stacked(tensor, span, count) for tensor in (query, states.key, states.value))
    else:
        q = query[None, :, span.start : span.stop]
        k, v = (_gathered(tensor, span)[None] for tensor in (states.key, states.value))
    # Its own causality is faster than a mask, but it takes queries and keys for the same tokens.
    square = span.position == 0 and span.queries == span.num_keys
    own = rule.causal and square and (rule.window is None or span.queries <= rule.window)
    result = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if own else layout.mask(span, rule.window, query, causal=rule.causal),
        is_causal=own and span.queries > 1,
        dropout_p=rule.dropout,
        scale=rule.scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return result.transpose(1, 2).flatten(0, 1)


def _filled(tensor: Tensor, more: int) -> Tensor:
    """[..., n, size] -> [..., n + more, size]."""
    return torch.constant_pad_nd(tensor, (0, 0, 0, more)) if more else tensor


def _stacked(tensor: Tensor, span: Span, count: int) -> Tensor:
    """[heads, T, head_size] -> [count, heads, queries, head_size], without a copy."""
    heads, _, head_size = tensor.shape
    rows = tensor[:, span.start : span.start + count * span.queries]
    if count == 1:
        return rows.unsqueeze(0)
    return rows.view(heads, count, span.queries, head_size).transpose(0, 1)


def _gathered(tensor: Tensor, span: Span) -> Tensor:
    """[heads, num_keys, head_size]."""
    pieces = [tensor[:, start:stop] for start, stop in span.keys]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
