"""All candidates of the benchmarks score the same, or their speeds say nothing."""

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.engine import batches, run_engine, run_padded
from reward_model.model import RewardModel
from reward_model.precision import choose_precision

SEQUENCES = [[5 + (7 * i + j * j) % 50 for j in range(n)] for i, n in enumerate((3, 17, 40, 99, 1, 22))]


@pytest.mark.parametrize("size", [1, 4])
def test_the_engine_scores_as_transformers_does_padded_or_not(size: int) -> None:
    tokenizer = tiny.tiny_tokenizer("encoder")
    plain = tiny.tiny_model("bert", tokenizer)
    engine = RewardModel(tiny.tiny_model("bert", tokenizer), choose_precision("cpu", "float32")).freeze()
    assert run_engine(engine, SEQUENCES, 64) == pytest.approx(run_padded(plain, SEQUENCES, size), abs=1e-5)


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 60))
def test_batches_hold_everything_in_order_within_the_budget(lengths: list[int], budget: int) -> None:
    sequences = [[i] * n for i, n in enumerate(lengths)]
    cut = list(batches(sequences, budget))
    assert [one for batch in cut for one in batch] == sequences
    assert all(len(batch) == 1 or sum(map(len, batch)) <= budget for batch in cut)
