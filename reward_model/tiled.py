"""Attention over a whole packed row with gradients of its own, by matrix products on tiles.

The weights are computed anew in the backward pass instead of being kept (Dao et al. 2022, arXiv 2205.14135), and all
spans add to one gradient of keys and values, so that those who share a prefix cost no more than they compute.
Knows tensors and spans, not models.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reward_model.kernels import Rule, States, Tile, tiles
from reward_model.spans import Layout


def tiled_can(rule: Rule) -> bool:
    """Whether `tiled_attention` computes this: soft caps and dropout have no gradients here."""
    return rule.softcap is None and not rule.dropout


#: Computes attention without gradients.
Forward = Callable[[Tensor, States, Layout, Rule], Tensor]


def tiled_attention(query: Tensor, states: States, layout: Layout, rule: Rule, forward: Forward) -> Tensor:
    """Attention as the layout says, with gradients.

    Args:
        query: [heads, T, head_size].
        states: what the queries look at.
        layout: who sees whom.
        rule: how.
        forward: computes the values.

    Returns:
        [T, heads, head_size of the values].
    """
    result: Tensor = _Tiled.apply(query, states.key, states.value, layout, rule, forward)  # type: ignore[no-untyped-call]
    return result


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, rule: Rule, forward: Forward
    ) -> Tensor:
        result = forward(query, States(key, value), layout, rule)
        ctx.save_for_backward(query, key, value, result)
        ctx.layout, ctx.rule = layout, rule
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, result = ctx.saved_tensors
        gradients = _Gradients(query, key, value)
        # The mean of what each query's weights are worth: a weight gains what it is worth above that. [heads, T, 1]
        level = (result.float() * gradient.float()).sum(dim=2).t().unsqueeze(2)
        gradient = gradient.transpose(0, 1)
        states = States(key, value)
        for span in ctx.layout.spans:
            for tile in tiles(query, states, ctx.layout, span, ctx.rule):
                gradients.add(tile, gradient, level, ctx.rule.scale)
        return gradients.query, gradients.key.to(key.dtype), gradients.value.to(value.dtype), None, None, None


class _Gradients:
    """Of queries, and of keys and values: many spans add to those, so they are kept in fp32."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        self.query = torch.zeros_like(query)
        self.key, self.value = (torch.zeros(one.shape, dtype=torch.float32, device=one.device) for one in (key, value))

    def add(self, tile: Tile, gradient: Tensor, level: Tensor, scale: float) -> None:
        """Adds what a tile gives; `gradient` is [heads, T, size of the values], `level` [heads, T, 1]."""
        above, base = (tile.by_key_head(one[tile.heads, tile.rows]) for one in (gradient, level))
        query = tile.queries.new_zeros(tile.queries.shape)
        for (start, stop), keys, values, weights in zip(tile.runs, tile.keys, tile.values, tile.weights, strict=True):
            worth = torch.bmm(above, values.transpose(1, 2))
            slope = torch.sub(worth, base).mul_(weights).to(worth.dtype)
            rows, own = slice(start, stop), slice(stop - start)
            self.value[tile.key_heads, rows] += torch.bmm(weights.transpose(1, 2), above)[:, own]
            self.key[tile.key_heads, rows].add_(torch.bmm(slope.transpose(1, 2), tile.queries)[:, own], alpha=scale)
            query.baddbmm_(slope, keys.transpose(1, 2), alpha=scale)
        target = self.query[tile.heads, tile.rows]
        target.copy_(tile.by_head(query)[:, : target.shape[1]])
