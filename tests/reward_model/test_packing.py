"""A packed batch holds exactly the tokens it was given, in their order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packed import rows_of

from reward_model.packing import PackedBatch, pack

sequences = st.lists(st.lists(st.integers(0, 2**31), min_size=1, max_size=12), min_size=1, max_size=12)
alike = st.lists(
    st.tuples(st.integers(0, 20), st.integers(20, 45), st.lists(st.integers(0, 2), max_size=12)),
    min_size=1,
    max_size=12,
)


def unpacked(batch: PackedBatch) -> list[tuple[list[int], list[int]]]:
    """Ids and positions of every sequence."""
    return [(batch.input_ids[rows].tolist(), batch.position_ids[rows].tolist()) for rows in rows_of(batch)]


@given(sequences)
def test_unpacking_gives_back_every_sequence_with_positions_from_zero(rows: list[list[int]]) -> None:
    batch = pack(rows)
    assert unpacked(batch) == [(row, list(range(len(row)))) for row in rows]
    assert batch.cu_seqlens[-1] == len(batch.input_ids) == sum(map(len, rows))
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.parents is batch.segment_ids is None


@given(alike)
def test_sequences_that_share_prefixes_unpack_to_the_same(drawn: list[tuple[int, int, list[int]]]) -> None:
    rows = [[*range(kind), *range(100, 100 + length), *tail] for kind, length, tail in drawn]
    batch = pack(rows, share_prefixes=True)
    assert unpacked(batch) == [(row, list(range(len(row)))) for row in rows]
    assert batch.cu_seqlens[-1] == len(batch.input_ids) <= sum(map(len, rows))


@pytest.mark.parametrize("share", [True, False])
def test_what_lengthens_a_row_is_of_no_sequence(share: bool) -> None:
    rows = [[*range(40), 1, 2], [*range(40), 3], [9] * 5]
    segments = None if share else [[0] * 40 + [1, 1], None, [1] * 5]
    batch = pack(rows, segments, share_prefixes=share)
    tokens = len(batch.input_ids)
    longer = batch.lengthened(7)
    assert unpacked(longer) == unpacked(batch)
    assert longer.input_ids[tokens:].tolist() == longer.position_ids[tokens:].tolist() == [0] * 7
    assert longer.segment_ids is None if share else len(longer.segment_ids) == tokens + 7
    assert batch.lengthened(0) is batch


def test_a_prefix_in_common_is_in_the_row_once() -> None:
    prompt = list(range(40))
    batch = pack([[*prompt, 1, 2], [*prompt, 3], prompt, [9] * 5], share_prefixes=True)
    assert len(batch.input_ids) == 40 + 2 + 1 + 5


def test_sequences_of_one_length_stand_side_by_side() -> None:
    batch = pack([[1] * 5, [2] * 3, [3] * 5, [4] * 3])
    assert batch.cu_seqlens.diff().tolist() == [3, 3, 5, 5]


def test_sequences_without_segment_ids_get_zeros_beside_those_with() -> None:
    batch = pack([[5, 6], [7, 8, 9]], [None, [0, 1, 1]])
    assert batch.segment_ids is not None
    assert batch.segment_ids.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_an_empty_batch_or_sequence_is_a_bug_of_the_caller(rows: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="one or more tokens"):
        pack(rows)
