"""What is said about comparisons is what their definitions say, and each is counted once."""

import math

import pytest
import torch

from reward_model.rendering import Rendered
from training.batches import collate
from training.examples import Comparison, Example
from training.outcomes import Outcomes


def test_metrics_are_those_of_their_definitions() -> None:
    chosen, rejected = [1.0, 2.0, 0.0], [0.0, 3.0, 0.0]
    metrics = Outcomes(chosen, rejected, [1.0] * 3, [*chosen, *rejected]).metrics(loss=True)
    assert metrics["accuracy"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert metrics["margin"] == pytest.approx(0)
    assert metrics["reward_mean"] == pytest.approx(1)
    assert metrics["reward_std"] == pytest.approx(math.sqrt(8 / 6))
    assert metrics["loss"] == pytest.approx(sum(math.log(1 + math.exp(-d)) for d in (1, -1, 0)) / 3)


def test_soft_labels_count_for_what_they_say() -> None:
    metrics = Outcomes([1.0, 0.0], [0.0, 2.0], [0.8, 0.6]).metrics(loss=True)
    assert metrics["accuracy"] == pytest.approx((0.8 + 0.4) / 2)
    losses = [0.8 * math.log(1 + math.exp(-1)) + 0.2 * math.log(1 + math.exp(1))]
    losses.append(0.6 * math.log(1 + math.exp(2)) + 0.4 * math.log(1 + math.exp(-2)))
    assert metrics["loss"] == pytest.approx(sum(losses) / 2)


def test_what_there_is_nothing_to_say_about_is_left_out() -> None:
    assert Outcomes().metrics(loss=True) == {}
    assert Outcomes(rewards=[1.0, 3.0]).metrics(loss=True) == {"reward_mean": 2.0, "reward_std": 1.0}


def test_ratings_are_weighed_as_the_reward_is_and_missing_ones_left_out() -> None:
    sequences = tuple(Rendered(None, [i + 1]) for i in range(4))
    given = ((1.0, 4.0), (2.0, 2.0), (math.nan, 1.0), (5.0, 0.0))
    outcomes = Outcomes.of([Example(sequences, (), 1, b"", given)], [[0.0, 1.5, 9.0, 3.5]], (1.0, 0.5))
    metrics = outcomes.metrics(loss=True)
    assert metrics["rating_loss"] == pytest.approx(((0 - 3) ** 2 + (1.5 - 3) ** 2 + (3.5 - 5) ** 2) / 3)
    assert metrics["rating_correlation"] == pytest.approx(0.9042, abs=1e-4)  # of (0, 1.5, 3.5) and (3, 3, 5)


def test_packs_and_examples_give_the_same() -> None:
    sequences = tuple(Rendered(None, [i + 1]) for i in range(3))
    examples = [
        Example(sequences, (Comparison(0, 2), Comparison(1, 2, label=0.5)), 1, b""),
        Example(sequences[:2], (Comparison(1, 0),), 2, b""),
    ]
    (pack,) = collate(examples, max_batch_tokens=100)["step"].packs
    noted = Outcomes()
    noted.add(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), pack)
    taken = noted.take()
    whole = Outcomes.of(examples, [(1.0, 2.0, 3.0), (4.0, 5.0)])
    assert taken == whole
    assert taken.margins == [-2.0, -1.0, 1.0]
    assert noted.take() == Outcomes()
    assert Outcomes.together([whole, taken]).labels == [1.0, 0.5, 1.0] * 2


def test_what_waits_keeps_no_tokens_and_not_for_long() -> None:
    example = Example((Rendered(None, [1]), Rendered(None, [2])), (Comparison(0, 1),), 1, b"")
    (pack,) = collate([example], max_batch_tokens=100)["step"].packs
    noted = Outcomes()
    for i in range(1000):
        noted.add(torch.tensor([float(i), 0.0]), pack)
    assert len(noted._waiting) < 64
    assert all(tensor.numel() <= 2 for waiting in noted._waiting for tensor in waiting)
    assert noted.take().chosen == [float(i) for i in range(1000)]
