"""Any batch of any sequences, alike or not: each gets the score that it has alone, and costs what is counted for it."""

from functools import cache

import architectures
import pytest
from effort import times
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_model.model import RewardModel
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered

#: Packed with and without shared prefixes, with a sliding window, and padded.
KINDS = ["llama", "gpt2", "mistral", "gemma3_text", "bert", "modernbert", "bloom", "deberta-v2"]
#: Put together from few pieces, so that they share prefixes of many depths, and are equal now and then.
SEQUENCES = st.lists(
    st.tuples(st.lists(st.integers(0, 2), max_size=5), st.integers(1, 20)).map(
        lambda drawn: tuple(5 + part for part in drawn[0] for _ in range(9)) + tuple(range(10, 10 + drawn[1]))
    ),
    min_size=1,
    max_size=10,
)


@cache
def model(kind: str) -> RewardModel:
    return RewardModel(architectures.tiny_network(kind), choose_precision("cpu", "float32")).eval()


@cache
def alone(kind: str, sequence: tuple[int, ...]) -> float:
    return model(kind).score([Rendered(None, list(sequence))])[0].value


@settings(max_examples=times(60, 10_000), deadline=None)
@given(kind=st.sampled_from(KINDS), sequences=SEQUENCES)
def test_a_score_is_its_inputs_own_whatever_the_batch(kind: str, sequences: list[tuple[int, ...]]) -> None:
    scores = model(kind).score([Rendered(None, list(one)) for one in sequences])
    assert [score.value for score in scores] == pytest.approx([alone(kind, one) for one in sequences], abs=2e-5)
    first = {one: sequences.index(one) for one in sequences}
    for place, (one, score) in enumerate(zip(sequences, scores, strict=True)):
        assert 0 <= score.reused_tokens <= len(one)
        if first[one] != place:
            assert score.value == scores[first[one]].value, "equal inputs tie to the last bit"
    distinct = sum(len(one) for one in first)
    computed = sum(len(one) - score.reused_tokens for one, score in zip(sequences, scores, strict=True))
    assert computed <= distinct, "nothing is computed twice"
