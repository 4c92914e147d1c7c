"""What is logged about pairs of rewards."""

import math

import pytest

from training.trainer import pair_metrics


def test_pair_metrics_are_those_of_their_definitions() -> None:
    metrics = pair_metrics([1.0, 2.0, 0.0], [0.0, 3.0, 0.0], [1.0] * 3, loss=True)
    assert metrics["accuracy"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert metrics["margin"] == pytest.approx(0)
    assert metrics["reward_mean"] == pytest.approx(1)
    assert metrics["reward_std"] == pytest.approx(math.sqrt(8 / 6))
    assert metrics["loss"] == pytest.approx(sum(math.log(1 + math.exp(-d)) for d in (1, -1, 0)) / 3)


def test_soft_labels_count_for_what_they_say() -> None:
    metrics = pair_metrics([1.0, 0.0], [0.0, 2.0], [0.8, 0.6], loss=True)
    assert metrics["accuracy"] == pytest.approx((0.8 + 0.4) / 2)
    losses = [0.8 * math.log(1 + math.exp(-1)) + 0.2 * math.log(1 + math.exp(1))]
    losses.append(0.6 * math.log(1 + math.exp(2)) + 0.4 * math.log(1 + math.exp(-2)))
    assert metrics["loss"] == pytest.approx(sum(losses) / 2)
