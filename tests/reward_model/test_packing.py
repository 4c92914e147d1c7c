"""A packed batch holds exactly the tokens it was given, in their order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_model.packing import pack

sequences = st.lists(st.lists(st.integers(0, 2**31), min_size=1, max_size=12), min_size=1, max_size=12)


@given(sequences)
def test_unpacking_gives_back_every_sequence_with_positions_from_zero(rows: list[list[int]]) -> None:
    batch = pack(rows)
    bounds = batch.cu_seqlens.tolist()
    for row, start, end in zip(rows, bounds[:-1], bounds[1:], strict=True):
        assert batch.input_ids[start:end].tolist() == row
        assert batch.position_ids[start:end].tolist() == list(range(len(row)))
    assert bounds[-1] == len(batch.input_ids)
    assert batch.cu_seqlens.dtype == torch.int32
    assert "segment_ids" not in batch.tensors()


def test_sequences_without_segment_ids_get_zeros_beside_those_with() -> None:
    batch = pack([[5, 6], [7, 8, 9]], [None, [0, 1, 1]])
    assert batch.tensors()["segment_ids"].tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_an_empty_batch_or_sequence_is_a_bug_of_the_caller(rows: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="one or more tokens"):
        pack(rows)
