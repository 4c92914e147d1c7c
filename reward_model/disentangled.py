"""Disentangled attention over a packed row: DeBERTa's, whose logits depend on how far apart two tokens are.

A query is also multiplied by what stands for the distance to each key, and a key by what stands for the distance to
each query (He et al. 2021, arXiv 2006.03654, section 3.1). transformers makes those anew in every layer of every pass,
and gathers what it needs of the products pair by pair. Here they are made once for all distances in their order, so
that the products of neighbours are shifted by one, which is a view and no work. Knows tensors and spans, not models.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from reward_model.kernels import SCORES, Rule, States
from reward_model.spans import Layout, Span

#: Tokens of a kernel's tile, of which three reach over either end of a sequence.
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
        """The distances that the rows of both are for, each [2 N]: all that sequences of up to so many tokens have."""
        half = (-(-longest // _TILE) + 3) * _TILE
        rows = torch.arange(2 * half)
        return half - 1 - rows, rows - half + 1

    def of_queries(self, span: Span) -> Tensor:
        """For a span's last query and first key, ..., its first query and last key, and one more; transposed."""
        first = self.by_query.shape[1] // 2 - span.position
        return self.by_query[:, first - span.queries : first + span.num_keys].transpose(1, 2)

    def of_keys(self, span: Span) -> Tensor:
        """For a span's first query and last key, ..., its last query and first key, and one more; transposed."""
        first = self.by_key.shape[1] // 2 + span.position
        return self.by_key[:, first - span.num_keys : first + span.queries].transpose(1, 2)


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
    pieces = [torch.cat([*_by_heads(query, states, span, rule, distances)]).transpose(0, 1) for span in layout.spans]
    if behind := query.shape[1] - layout.spans[-1].stop:
        pieces.append(query.new_zeros(behind, *pieces[-1].shape[1:]))
    return torch.cat(pieces)


def _by_heads(query: Tensor, states: States, span: Span, rule: Rule, distances: Distances) -> Iterator[Tensor]:
    """[some heads, queries, head_size of the values] each, so few that their products stay in a core's cache."""
    (keys,) = span.keys
    q, (k, v) = query[:, span.start : span.stop], (one[:, slice(*keys)] for one in (states.key, states.value))
    of_queries, of_keys = distances.of_queries(span), distances.of_keys(span)
    step = max(1, SCORES // (span.num_keys * (span.queries + span.num_keys)))
    for first in range(0, len(q), step):
        some = slice(first, first + step)
        own = shifted(torch.bmm(q[some], of_queries[some]), span.num_keys)
        logits = torch.baddbmm(own, q[some], k[some].transpose(1, 2), beta=rule.scale, alpha=rule.scale)
        logits.add_(shifted(torch.bmm(k[some], of_keys[some]), span.queries).transpose(1, 2), alpha=rule.scale)
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
