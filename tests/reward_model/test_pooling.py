"""Pooling on packed rows against a loop over sequences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_model.pooling import Pooling, pool

PAD = 0
rows = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=6)


def by_loop(hidden: torch.Tensor, ids: list[int], pooling: Pooling) -> torch.Tensor:
    if pooling == "mean":
        return hidden.mean(0)
    if pooling == "cls":
        return hidden[0]
    if pooling == "last":
        return hidden[-1]
    return hidden[max((i for i, token in enumerate(ids) if token != PAD), default=0)]


@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "last_non_pad"])
@given(rows)
def test_pooling_equals_a_loop_over_the_sequences(pooling: Pooling, sequences: list[list[int]]) -> None:
    flat = [token for sequence in sequences for token in sequence]
    hidden = torch.arange(len(flat) * 2, dtype=torch.float32).view(-1, 2)
    bounds = torch.tensor([0, *torch.tensor([len(s) for s in sequences]).cumsum(0).tolist()])
    result = pool(hidden, torch.tensor(flat), bounds, pooling, PAD)
    for i, sequence in enumerate(sequences):
        expected = by_loop(hidden[bounds[i] : bounds[i + 1]], sequence, pooling)
        torch.testing.assert_close(result[i], expected)


def test_pooled_states_are_fp32_whatever_the_backbone_computes_in() -> None:
    hidden = torch.ones(3, 2, dtype=torch.bfloat16)
    for pooling in ("cls", "mean", "last", "last_non_pad"):
        assert pool(hidden, torch.ones(3), torch.tensor([0, 1, 3]), pooling, PAD).dtype == torch.float32
