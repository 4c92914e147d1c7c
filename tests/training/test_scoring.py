"""Rewards come back in the order of the pairs, whatever the batches."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reward_model import checkpoint
from reward_model.records import as_prompt
from reward_model.rendering import Rendered
from training.examples import render_responses
from training.scoring import score_groups


@pytest.fixture
def loaded(checkpoint_of: Callable[[str], Path]) -> checkpoint.Checkpoint:
    return checkpoint.load(checkpoint_of("bert"), device="cpu", dtype="float32")


def groups(loaded: checkpoint.Checkpoint) -> list[tuple[Rendered, ...]]:
    """Two or three responses to each of twelve prompts, of all lengths."""
    return [
        render_responses(
            as_prompt(f"prompt {i}"),
            ["a" * (1 + 7 * i % 11), "b" * (1 + 5 * i % 13), *(["c"] if i % 3 == 0 else [])],
            loaded.renderer,
        )
        for i in range(12)
    ]


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_each_sequence_keeps_its_own_reward(loaded: checkpoint.Checkpoint, batch_tokens: int) -> None:
    rendered = groups(loaded)
    done: list[int] = []
    rewards = score_groups(loaded.model, rendered, batch_tokens, done.append)
    assert sum(done) == len(rendered)
    for group, values in zip(rendered, rewards, strict=True):
        alone = [loaded.model.score([one])[0].value for one in group]
        assert values == pytest.approx(alone, abs=1e-5)


def test_the_budget_is_the_models_own_where_none_is_given(loaded: checkpoint.Checkpoint) -> None:
    rendered = groups(loaded) * 20
    done: list[int] = []
    score_groups(loaded.model, rendered, done=done.append)
    # Batches are drawn from the longest on; of equally long ones, the first comes first.
    padded = sorted(((max(len(one.token_ids) for one in group), len(group)) for group in rendered), key=lambda x: -x[0])
    assert len(done) > 1
    assert padded[0][0] * sum(size for _, size in padded[: done[0]]) <= loaded.model.batch_tokens
    assert padded[0][0] * sum(size for _, size in padded[: done[0] + 1]) > loaded.model.batch_tokens


@pytest.mark.parametrize("parts", [2, 5])
def test_parts_that_are_computed_apart_make_the_whole_in_as_many_passes_each(
    loaded: checkpoint.Checkpoint, parts: int
) -> None:
    rendered = groups(loaded)
    passes: list[list[int]] = [[] for _ in range(parts)]
    scored = [score_groups(loaded.model, rendered, 100, passes[i].append, part=(i, parts)) for i in range(parts)]
    whole = score_groups(loaded.model, rendered, 100)
    for i, rewards in enumerate(whole):
        assert all(one[i] in {(), rewards} for one in scored)
        assert any(one[i] for one in scored)
    assert len({len(done) for done in passes}) == 1


def test_no_groups_have_no_rewards(loaded: checkpoint.Checkpoint) -> None:
    assert score_groups(loaded.model, []) == []
