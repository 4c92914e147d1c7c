"""Attention of few queries without keys and values: their projections go to the other side of the products.

In the last layer of an encoder one query of each sequence is asked. Its logits q . (K x + b) are (K' q) . x and what is
the same for all x, which softmax does not see; what it returns, the sum of weights p of V x + b, is V (sum of p x) + b.
So x itself is key and value, and two matrices that every token goes through are multiplied by the few queries (as
DeepSeek-V2 does when it decodes: arXiv 2405.04434, section 2.1.2). Knows graphs, linear layers and attention, not
models.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from reward_model.kernels import Rule, States
from reward_model.leaves import LEAF, Notes
from reward_model.linear import PackedLinear
from reward_model.native import by_native, native_can
from reward_model.spans import Layout, Span

#: Tokens, of a batch and for each query, below which to make keys and values is as fast or takes less memory.
FEWEST_TOKENS, FEWEST_FOR_EACH = 128, 32
#: Attention of read queries: their tensor, keys, values, and the layout of the batch.
OfRead = Callable[[Tensor, Tensor, Tensor, Layout], Tensor]


def is_worth_it(tokens: int, queries: int) -> bool:
    """Whether a batch of so many tokens, of which so many are read, is computed without keys and values."""
    return tokens >= max(FEWEST_TOKENS, FEWEST_FOR_EACH * queries)


class Absorbed:
    """Attention of read queries over the states that keys and values would be projected from.

    Args:
        of_read: the same of keys and values.
        rule: how; every query sees all of its span's keys.
        key, value: the projections.
        heads: of queries, keys and values alike.
    """

    def __init__(self, of_read: OfRead, rule: Rule, key: PackedLinear, value: PackedLinear, heads: int) -> None:
        self._of_read, self._rule, self._heads = of_read, rule, heads
        self._key, self._value = key, value
        (self._from_query, _), (self._to_value, self._bias) = (_by_heads(one, heads) for one in (key, value))

    def attend(self, query: Tensor, states: Tensor, layout: Layout) -> Tensor:
        """[1, heads, n, head_size] and [1, T, d] -> [1, n, heads, head_size of the values]."""
        (_, tokens, width), n = states.shape, query.shape[2]
        if not is_worth_it(tokens, n):
            key, value = (self._split(one.forward(states)) for one in (self._key, self._value))
            return self._of_read(query, key, value, layout)
        assert layout.read is not None
        absorbed = (query[0].float() @ self._from_query).to(states.dtype).transpose(0, 1)
        rows = _heads_as_queries(layout.read, self._heads)
        seen = by_native(absorbed.reshape(1, n * self._heads, width), States(states, states), rows, self._rule)
        value = seen.view(n, self._heads, width).transpose(0, 1).float() @ self._to_value.transpose(1, 2)
        return (value + self._bias).to(states.dtype).transpose(0, 1).contiguous().unsqueeze(0)

    def _split(self, projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:2], self._heads, -1).transpose(1, 2)


def _by_heads(linear: PackedLinear, heads: int) -> tuple[Tensor, Tensor]:
    """Weight, [heads, head_size, in], and bias, [heads, 1, head_size], in fp32."""
    weight, bias = linear.dense()
    bias = weight.new_zeros(linear.out_features) if bias is None else bias
    return weight.float().view(heads, -1, linear.in_features), bias.float().view(heads, 1, -1)


def _heads_as_queries(read: Layout, heads: int) -> Layout:
    """One head, with as many queries for each that was read."""
    spans = (Span(one.start * heads, one.stop * heads, one.keys, 0) for one in read.spans)
    return Layout(tuple(spans), read.tokens * heads)


def absorb(graph: Graph, notes: Notes) -> bool:
    """Has attention of read queries do without keys and values where these come straight from linear layers.

    Args:
        graph: in which leaves are still numbers.
        notes: the leaves; attention of read queries is owned by its rule.

    Returns:
        Whether there was any.
    """
    found = False
    for node in list(graph.nodes):
        rule = _owner(node, notes)
        if not isinstance(rule, Rule) or rule.causal or rule.window is not None:
            continue
        query, *states = node.args[1]
        key, value = (_projection(one, notes) for one in states)
        if key is None or value is None or key[1] is not value[1] or not _fits(query, states, rule):
            continue
        heads = query.meta["val"].shape[1]
        plain = notes.leaves[node.args[0]]
        notes.leaves.append(
            replace(plain, compute=Absorbed(plain.compute, rule, key[0], value[0], heads).attend, owner=None)
        )
        node.args = (len(notes.leaves) - 1, [query, key[1]])
        found = True
    return found


def _projection(states: Any, notes: Notes) -> tuple[PackedLinear, Node] | None:
    """The linear layer whose result, cut into heads, `states` are, and what it was given."""
    if states.target is not torch.ops.aten.transpose.int or states.args[1:] != (1, 2):
        return None
    cut = states.args[0]
    if cut.target is not torch.ops.aten.view.default:
        return None
    linear = _owner(cut.args[0], notes)
    if not isinstance(linear, PackedLinear) or linear.gelu:
        return None
    return linear, cut.args[0].args[1][0]


def _fits(query: Any, states: Sequence[Node], rule: Rule) -> bool:
    """Whether there is a kernel for it, and each head has keys and values of its own."""
    query, key, value = (one.meta["val"] for one in (query, *states))
    return native_can(query, States(key, value), rule) and query.shape[1] == key.shape[1] == value.shape[1]


def _owner(node: Any, notes: Notes) -> object:
    return notes.leaves[node.args[0]].owner if node.target is LEAF else None
