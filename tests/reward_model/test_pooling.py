"""Which rows are read, and the mean, against a loop over sequences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_model.packing import pack
from reward_model.pooling import Pooling, mean, read_rows

PAD = 0
tails = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=6)


def position(ids: list[int], pooling: Pooling) -> int:
    if pooling == "cls":
        return 0
    if pooling == "last":
        return len(ids) - 1
    return max((i for i, token in enumerate(ids) if token != PAD), default=0)


@pytest.mark.parametrize("prefix", [[], list(range(1, 21)), [PAD] * 20])
@pytest.mark.parametrize("pooling", ["cls", "last", "last_non_pad"])
@given(drawn=tails)
def test_the_row_that_is_read_equals_a_loop_over_the_sequences(
    pooling: Pooling, prefix: list[int], drawn: list[list[int]]
) -> None:
    sequences = [prefix + tail for tail in drawn]
    batch = pack(sequences, share_prefixes=True)
    rows = read_rows(batch, pooling, PAD)
    assert rows is not None
    expected = [position(ids, pooling) for ids in sequences]
    assert batch.position_ids[rows].tolist() == expected
    assert batch.input_ids[rows].tolist() == [ids[i] for ids, i in zip(sequences, expected, strict=True)]


@given(tails)
def test_the_mean_equals_a_loop_over_the_sequences(sequences: list[list[int]]) -> None:
    batch = pack(sequences)
    assert read_rows(batch, "mean", PAD) is None
    result = mean(batch.input_ids[:, None] * torch.tensor([1.0, -2.0]), batch)
    expected = [[sum(ids) / len(ids), -2 * sum(ids) / len(ids)] for ids in sequences]
    torch.testing.assert_close(result, torch.tensor(expected))


def test_means_are_fp32_whatever_the_backbone_computes_in() -> None:
    assert mean(torch.ones(3, 2, dtype=torch.bfloat16), pack([[1], [2, 3]])).dtype == torch.float32
