"""Disentangled attention over a packed row: DeBERTa's, whose logits depend on how far apart two tokens are.

A query is also multiplied by what stands for the distance to each key, and a key by what stands for the distance to
each query (He et al. 2021, arXiv 2006.03654, section 3.1). transformers makes those anew in every layer of every pass,
and gathers what it needs of the products pair by pair. Here they are made once for all distances in their order, so
that the products of neighbours are shifted by one, which is a view and no work. Knows tensors and spans, not models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from reward_model.kernels import SCORES, Rule, States
from reward_model.spans import Layout, Range, Span

#: Tokens of a kernel's tile.
_TILE = 16


@dataclass(frozen=True, slots=True)
class Distances:
    """What queries and keys are multiplied by for the distances d = i - j of queries i and keys j.

    Attributes:
        by_query: [heads, 2 N, head_size], row x for d = N - 1 - x.
        by_key: [heads, 2 N, head_size], row x for d = x - N + 1.
    """

    by_query: Tensor
    by_key: Tensor

    @staticmethod
    def rows(longest: int) -> tuple[Tensor, Tensor]:
        """The distances that the rows of both are for, each [2 N]: all that sequences of up to so many tokens have.

        There are more: three tiles of a kernel reach over either end of a sequence.
        """
        half = (-(-longest // _TILE) + 3) * _TILE
        rows = torch.arange(2 * half)
        return half - 1 - rows, rows - half + 1

    @property
    def longest(self) -> int:
        """Tokens of a sequence that they are enough for."""
        return self.by_key.shape[1] // 2 - 3 * _TILE

    def of(self, span: Span) -> tuple[Tensor, Tensor]:
        """What a span's queries are multiplied by, and what its keys are, transposed, of distances in their order.

        Returns:
            [heads, head_size, queries + keys] each: for the last query and the first key, ..., the first query and the
            last key, and one more; and for the first query and the last key, ..., the last query and the first key, and
            one more.
        """
        half = self.by_key.shape[1] // 2
        first, last = half - span.position - span.queries, half + span.position - span.num_keys
        size = span.queries + span.num_keys
        by_query, by_key = self.by_query[:, first : first + size], self.by_key[:, last : last + size]
        return by_query.transpose(1, 2), by_key.transpose(1, 2)


def disentangled_attention(query: Tensor, states: States, layout: Layout, rule: Rule, distances: Distances) -> Tensor:
    """Attention as the layout says, of sequences that are one run each; zeros where it says nothing.

    Args:
        query: [heads, T, head_size].
        states: what the queries look at, of as many heads.
        layout: who sees whom.
        rule: how; everybody sees all keys.
        distances: their products with queries and keys are added to the logits.

    Returns:
        [T, heads, head_size of the values].
    """
    longest = max(span.num_keys for span in layout.spans)
    assert longest <= distances.longest, f"{longest} tokens are more than distances were made for"
    queries = torch.split(query, [*(span.queries for span in layout.spans), query.shape[1] - layout.spans[-1].stop], 1)
    keys, values = (_cut(one, layout.spans) for one in (states.key, states.value))
    own: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}
    pieces = []
    for span, q in zip(layout.spans, queries, strict=False):
        shape = (span.position, span.queries, span.num_keys)
        if shape not in own:
            own[shape] = distances.of(span)
        heads = _by_heads(q, keys[span.keys], values[span.keys], own[shape], rule)
        pieces.append(torch.cat([*heads]).transpose(0, 1))
    behind = queries[-1].shape[1]
    return torch.cat([*pieces, query.new_zeros(behind, *pieces[0].shape[1:])])


def _cut(states: Tensor, spans: Sequence[Span]) -> dict[tuple[Range, ...], Tensor]:
    """Each span's keys, or values; cut at once, because the gradient of each cut alone is as large as the whole."""
    bounds = sorted({0, states.shape[1], *(row for span in spans for row in span.keys[0])})
    pieces = torch.split(states, [stop - start for start, stop in pairwise(bounds)], 1)
    return {(run,): piece for run, piece in zip(pairwise(bounds), pieces, strict=True)}


def _by_heads(q: Tensor, k: Tensor, v: Tensor, distances: tuple[Tensor, Tensor], rule: Rule) -> Iterator[Tensor]:
    """[some heads, queries, head_size of the values] each, so few that their products stay in a core's cache."""
    of_queries, of_keys = distances
    num_queries, num_keys = q.shape[1], k.shape[1]
    step = max(1, SCORES // (num_keys * (num_queries + num_keys)))
    for first in range(0, len(q), step):
        some = slice(first, first + step)
        own = shifted(torch.bmm(q[some], of_queries[some]), num_keys)
        logits = torch.baddbmm(own, q[some], k[some].transpose(1, 2), beta=rule.scale, alpha=rule.scale)
        logits.add_(shifted(torch.bmm(k[some], of_keys[some]), num_queries).transpose(1, 2), alpha=rule.scale)
        weights = torch.softmax(logits, dim=-1, dtype=torch.float32)
        if rule.dropout:
            weights = F.dropout(weights, rule.dropout)
        yield torch.bmm(weights.to(v.dtype), v[some])


def shifted(products: Tensor, count: int) -> Tensor:
    """Of each row what begins one further to the left than in the row before it; the last begins at 0.

    Args:
        products: [heads, rows, rows + count].
        count: how many.

    Returns:
        [heads, rows, count], a view.
    """
    heads, rows, columns = products.shape
    # Where rows are taken to be one shorter, each begins one further to the left.
    shorter = products.flatten(1)[:, rows - 1 :][:, : rows * (columns - 1)]
    return shorter.view(heads, rows, columns - 1)[:, :, :count]
