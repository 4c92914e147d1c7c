"""Dividing a batch among a CPU's lanes."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_model import division
from reward_model.prefixes import FEWEST, in_order, shared_runs


@given(st.lists(st.integers(1, 600), min_size=1, max_size=60), st.integers(2, 4))
def test_every_piece_is_in_one_part_and_parts_are_even_or_there_is_one(sizes: list[int], number: int) -> None:
    parts = division.divide(sizes, number)
    assert sorted(i for part in parts for i in part) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in part) for part in parts]
    # As good as the largest first can be: a third more than the best there is, which is no less than either of these.
    best = max(sum(sizes) / number, *sizes)
    assert len(parts) == 1 or (len(parts) == number and max(loads) <= 4 / 3 * best)
    if max(sizes) * number <= sum(sizes) and len(sizes) >= 4 * number:
        assert len(parts) == number


@given(st.data(), st.integers(2, 4))
def test_a_row_is_cut_where_that_costs_little_or_not_at_all(data: st.DataObject, number: int) -> None:
    prefixes = data.draw(st.lists(st.integers(1, 200), min_size=1, max_size=6))
    prompts = [[place] * length for place, length in enumerate(prefixes)]
    drawn = data.draw(st.lists(st.tuples(st.sampled_from(prompts), st.integers(0, 99)), min_size=1, max_size=30))
    sequences = [[*prompt, *[1000 + i] * (1 + length)] for i, (prompt, length) in enumerate(drawn)]
    order, common = in_order(sequences)
    own = [len(sequences[i]) - shared for i, shared in zip(order, common, strict=True)]
    parts = division.cut(own, common, number)
    assert [i for part in parts for i in part] == list(range(len(own)))
    computed = [tokens([sequences[order[i]] for i in part]) for part in parts]
    assert len(parts) == 1 or max(computed) <= tokens(sequences) / (division.SHARED * number) * 1.1


def tokens(sequences: Sequence[Sequence[int]]) -> int:
    """That are computed for a batch."""
    return sum(run.stop - run.start for run in shared_runs(sequences).runs)


def test_equal_pieces_are_divided_and_one_that_outweighs_all_others_is_not() -> None:
    assert sorted(map(len, division.divide([100] * 8, 4))) == [2, 2, 2, 2]
    assert division.divide([1000, 10, 10], 2) == [[0, 1, 2]]
    assert division.cut([50] * 4, [0] * 4, 2) == [range(2), range(2, 4)]
    assert division.cut([500, 20, 20, 20], [0, 500, 500, 500], 2) == [range(4)]


def test_neighbours_are_those_that_start_alike() -> None:
    stem = list(range(1, FEWEST + 1))
    order, common = in_order([[*stem, 9], [50], [*stem, 7, 8], [*stem[:-1], 60]])
    assert order == [2, 0, 3, 1]
    assert common == [0, FEWEST, 0, 0]


def test_a_process_with_one_core_has_no_parts() -> None:
    assert torch.get_num_threads() == 1
    assert division.parts([[1], [2], [3]], shares_prefixes=False) == [[0, 1, 2]]


@pytest.mark.usefixtures("two_cores")
def test_a_group_of_responses_stays_together_and_two_groups_part() -> None:
    prompts = [[i] * 500 for i in (1, 2)]
    groups = [[[*prompt, *[10 * i + 9] * 20] for i in range(1, 9)] for prompt in prompts]
    assert division.parts(groups[0], shares_prefixes=True) == [[*range(8)]]
    mixed = [one for pair in zip(*groups, strict=True) for one in pair]
    assert sorted(division.parts(mixed, shares_prefixes=True)) == [[*range(0, 16, 2)], [*range(1, 16, 2)]]


@pytest.mark.usefixtures("two_cores")
def test_a_batch_of_few_tokens_is_not_divided() -> None:
    half = division.FEWEST_TOKENS // 2
    assert len(division.parts([[1] * half, [2] * half], shares_prefixes=False)) == 2
    assert len(division.parts([[1] * half, [2] * (half - 1)], shares_prefixes=False)) == 1
