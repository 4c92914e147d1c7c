"""Lengths in tokens, as they are trained on."""

import pytest

from reward_model.rendering import Rendered
from training.examples import Comparison, Example
from training.lengths import Lengths


def example(prompt: int, *responses: int, label: float = 1.0, cut: bool = False, rated: bool = False) -> Example:
    sequences = tuple(Rendered(None, [5] * (prompt + one), truncated=cut) for one in responses)
    comparisons = (Comparison(0, 1, label=label),) if len(responses) > 1 else ()
    return Example(sequences, comparisons, 1, b"", ((1.0,),) * len(responses) if rated else (), prompt)


def measured(*examples: Example) -> Lengths:
    lengths = Lengths()
    assert list(lengths.of_examples(examples)) == list(examples)
    return lengths


def test_quantiles_are_lengths_that_occur() -> None:
    document = measured(*(example(10 * i, i, 200) for i in range(1, 101))).to_json()
    assert document["prompt"] == {"p10": 100, "p50": 500, "p90": 900, "p99": 990, "max": 1000}
    assert document["chosen"] == {"p10": 10, "p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert set(document["rejected"].values()) == {200}


def test_how_often_the_longer_response_wins_follows_the_labels() -> None:
    examples = (example(1, 5, 3), example(1, 3, 5), example(1, 4, 4), example(1, 3, 5, label=0.7))
    assert measured(*examples).to_json()["longer_wins"] == pytest.approx((1 + 0 + 0.5 + 0.3) / 4)


def test_cut_prompts_are_counted_once_each() -> None:
    assert measured(example(1, 2, 3, cut=True), example(1, 2, 3)).to_json()["prompts_cut"] == 1


def test_rated_responses_need_not_be_compared() -> None:
    document = measured(example(4, 7, rated=True)).to_json()
    assert document["response"]["max"] == 7
    assert "longer_wins" not in document


def test_the_table_is_for_people() -> None:
    table = measured(example(1000, 5, 3), example(8, 3, 5)).table().splitlines()
    assert table[0].split() == ["tokens", "p10", "p50", "p90", "p99", "max"]
    assert table[1].split() == ["prompt", "8", "8", "1,000", "1,000", "1,000"]
    assert table[-1] == "the longer response wins 50.0%, prompts cut: 0"
