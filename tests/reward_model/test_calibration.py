"""The temperature: recovered from simulated pairs, bounded, and doubted where it should be."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_model.calibration import (
    MIN_PAIRS,
    TEMPERATURE_BOUNDS,
    Calibration,
    expected_calibration_error,
    fit,
    margin_quality,
    reward_statistics,
    shares,
    sigmoid,
)

floats = st.floats(-1e6, 1e6)


def simulated_margins(temperature: float, n: int, seed: int = 0) -> list[float]:
    """Margins of pairs whose winner was drawn with P = sigmoid(margin / temperature)."""
    rng = random.Random(seed)
    gaps = [rng.gauss(0, 3) for _ in range(n)]
    return [gap if rng.random() < sigmoid(gap / temperature) else -gap for gap in gaps]


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    calibration = fit(simulated_margins(temperature, 8000))
    assert calibration.temperature == pytest.approx(temperature, rel=0.1)
    assert calibration.calibrated
    assert calibration.metrics["ece_after"] < 0.02


def test_an_overconfident_model_gets_a_better_likelihood_after_scaling() -> None:
    metrics = fit(simulated_margins(4.0, 2000)).metrics
    assert metrics["nll_after"] < metrics["nll_before"]
    assert metrics["brier_after"] < metrics["brier_before"]
    assert metrics["ece_after"] < metrics["ece_before"]


def test_too_few_pairs_are_not_called_calibrated() -> None:
    calibration = fit(simulated_margins(1.0, MIN_PAIRS - 1))
    assert not calibration.calibrated
    assert calibration.reason == "fitted on 99 pairs, fewer than 100"


def test_many_pairs_of_few_prompts_are_not_called_calibrated() -> None:
    margins = simulated_margins(1.0, 300)
    few, many = (fit(margins, [i % prompts for i in range(300)]) for prompts in (29, 30))
    assert not few.calibrated
    assert few.reason == "fitted on the pairs of 29 prompts, fewer than 30"
    assert many.calibrated


def test_no_pairs_leave_the_identity() -> None:
    assert (fit([]).temperature, fit([]).calibrated) == (1.0, False)


@pytest.mark.parametrize(("margins", "bound"), [([0.1] * 1000, 0), ([-5.0] * 1000, 1)])
def test_a_temperature_at_its_bound_is_not_called_calibrated(margins: list[float], bound: int) -> None:
    calibration = fit(margins)
    assert calibration.temperature == pytest.approx(TEMPERATURE_BOUNDS[bound], rel=0.01)
    assert "at the bound" in str(calibration.reason)


def test_cross_fitting_keeps_the_pairs_of_one_prompt_together() -> None:
    """Were a group split over folds, its own pairs would lower the out-of-fold error."""
    margins = simulated_margins(1.0, 200)
    one_group = fit(margins, groups=["same"] * 200)
    assert one_group.metrics["nll_after"] == pytest.approx(one_group.metrics["nll_before"])


@given(st.lists(floats, min_size=1, max_size=20), st.floats(0.05, 20))
def test_shares_are_probabilities_in_the_order_of_the_scores(scores: list[float], temperature: float) -> None:
    result = shares(scores, temperature)
    assert math.fsum(result) == pytest.approx(1)
    for i, j in zip(range(len(scores)), range(1, len(scores)), strict=False):
        assert (result[i] >= result[j]) or scores[i] < scores[j]


@given(floats)
def test_sigmoid_never_overflows_and_is_symmetric(x: float) -> None:
    assert sigmoid(x) + sigmoid(-x) == pytest.approx(1)


def test_probability_divides_by_the_temperature() -> None:
    trusted = Calibration(temperature=2.0, calibrated=True, reason=None)
    assert trusted.probability(4.0) == pytest.approx(1 / (1 + math.exp(-2)))


def test_a_temperature_that_is_not_trusted_is_not_used() -> None:
    assert Calibration(temperature=2.0, calibrated=False).probability(4.0) == pytest.approx(1 / (1 + math.exp(-4)))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Calibration(temperature=temperature)


def test_calibration_error_is_the_gap_per_equally_filled_bin() -> None:
    assert expected_calibration_error([0.75] * 4, [1, 1, 1, 0], bins=1) == pytest.approx(0)
    assert expected_calibration_error([0.9, 0.9, 0.6, 0.6], [1, 0, 1, 0], bins=2) == pytest.approx(0.25)
    assert expected_calibration_error([], [], bins=10) == 0


def test_reward_statistics_describe_the_rewards() -> None:
    statistics = reward_statistics([float(i) for i in range(101)])
    assert (statistics.mean, statistics.n) == (50, 101)
    assert statistics.std == pytest.approx(29.15, abs=0.01)
    assert statistics.deciles[4] == pytest.approx(50)


def test_soft_labels_move_the_temperature_to_what_they_say() -> None:
    """Judges that are as unsure as sigmoid(margin / 2) are met by T = 2."""
    margins = [abs(margin) for margin in simulated_margins(1.0, 2000)]
    labels = [sigmoid(margin / 2) for margin in margins]
    assert fit(margins, labels=labels).temperature == pytest.approx(2.0, rel=0.02)
    assert margin_quality([m / 2 for m in margins], labels)["ece"] < 1e-9
