"""A step's examples dealt into packs: all of them, each once, within the budget, and with weights that add up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_model.rendering import Rendered
from training.batches import Pack, collate, computed_tokens
from training.examples import Comparison, Example


def example(
    lengths: list[int], *, prompt: int = 0, line: int = 1, comparisons: tuple[Comparison, ...] | None = None
) -> Example:
    """Sequences of `lengths` tokens, of which the first `prompt` are the same."""
    sequences = tuple(Rendered(None, [5] * prompt + [10 + i] * (length - prompt)) for i, length in enumerate(lengths))
    return Example(sequences, comparisons or (Comparison(0, 1),), line, b"")


def rows(pack: Pack) -> list[list[int]]:
    runs = torch.split(pack.batch.input_ids, pack.batch.cu_seqlens.diff().tolist())
    return [runs[end].tolist() for end in pack.batch.ends.tolist()]


shapes = st.lists(st.lists(st.integers(1, 30), min_size=2, max_size=4), min_size=1, max_size=12)


@given(shapes, st.integers(1, 100))
def test_every_example_is_in_one_pack_and_packs_stay_within_the_budget(drawn: list[list[int]], budget: int) -> None:
    examples = [example(lengths, line=i) for i, lengths in enumerate(drawn)]
    step = collate(examples, max_batch_tokens=budget)["step"]
    assert step.lines == tuple(range(len(examples)))
    assert step.count == len(examples)
    assert sorted({i for pack in step.packs for i in pack.examples.tolist()}) == list(range(len(examples)))
    for pack in step.packs:
        members = list(dict.fromkeys(pack.examples.tolist()))
        assert len(pack.batch.input_ids) <= budget or len(members) == 1
        assert rows(pack) == [one.token_ids for i in members for one in examples[i].sequences]
    assert sum(len(pack.chosen) for pack in step.packs) == len(examples)


def test_comparisons_point_to_their_own_sequences() -> None:
    ranking = (Comparison(2, 0, margin=1.5), Comparison(2, 1, label=0.5))
    examples = [example([3, 4]), example([5, 6, 7], comparisons=ranking)]
    (pack,) = collate(examples, max_batch_tokens=100)["step"].packs
    lengths = [len(row) for row in rows(pack)]
    assert [(lengths[a], lengths[b]) for a, b in zip(pack.chosen, pack.rejected, strict=True)] == [
        (7, 5),
        (7, 6),
        (3, 4),
    ]
    assert pack.weight.tolist() == [0.5, 0.5, 1.0]
    assert pack.label.tolist() == [1.0, 0.5, 1.0]
    assert pack.margin.nan_to_num(-1).tolist() == [1.5, -1.0, -1.0]


def test_a_prompt_is_computed_once_for_its_responses_where_that_is_asked_for() -> None:
    one = example([50, 60, 70], prompt=40)
    assert computed_tokens(one, share_prefixes=True) == 40 + 10 + 20 + 30
    assert computed_tokens(one, share_prefixes=False) == 180
    (pack,) = collate([one], max_batch_tokens=100, share_prefixes=True)["step"].packs
    assert len(pack.batch.input_ids) == 100


@pytest.mark.parametrize(("budget", "packs"), [(10, 3), (20, 2), (1000, 1)])
def test_a_smaller_budget_makes_more_packs(budget: int, packs: int) -> None:
    examples = [example([5, 5]), example([5, 5]), example([5, 5])]
    assert len(collate(examples, max_batch_tokens=budget)["step"].packs) == packs
