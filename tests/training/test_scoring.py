"""Rewards come back in the order of the pairs, whatever the batches."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reward_model import checkpoint
from reward_model.records import as_prompt
from training.batches import RenderedPair, render_pair
from training.pairs import PreferencePair
from training.scoring import score_pairs


@pytest.fixture
def loaded(checkpoint_of: Callable[[str], Path]) -> checkpoint.Checkpoint:
    return checkpoint.load(checkpoint_of("bert"), device="cpu", dtype="float32")


def pairs(loaded: checkpoint.Checkpoint) -> list[RenderedPair]:
    made = [
        PreferencePair(as_prompt(f"prompt {i}"), "a" * (1 + 7 * i % 11), "b" * (1 + 5 * i % 13), None, None, None, i)
        for i in range(12)
    ]
    return [render_pair(pair, loaded.renderer) for pair in made]


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_each_pair_keeps_its_own_rewards(loaded: checkpoint.Checkpoint, batch_tokens: int) -> None:
    rendered = pairs(loaded)
    done: list[int] = []
    rewards = score_pairs(loaded.model, rendered, batch_tokens, done.append)
    assert sum(done) == 2 * len(rendered)
    for pair, (chosen, rejected) in zip(rendered, rewards, strict=True):
        alone = [loaded.model.score([one])[0].value for one in (pair.chosen, pair.rejected)]
        assert [chosen, rejected] == pytest.approx(alone, abs=1e-5)


def test_the_budget_is_the_models_own_where_none_is_given(loaded: checkpoint.Checkpoint) -> None:
    rendered = pairs(loaded) * 20
    done: list[int] = []
    score_pairs(loaded.model, rendered, done=done.append)
    lengths = sorted((len(one.token_ids) for pair in rendered for one in (pair.chosen, pair.rejected)), reverse=True)
    assert len(done) > 1
    assert done[0] == loaded.model.batch_tokens // lengths[0]


def test_no_pairs_have_no_rewards(loaded: checkpoint.Checkpoint) -> None:
    assert score_pairs(loaded.model, []) == []
