"""The arithmetic of a comparison."""

import math

import pytest

from reward_model.calibration import UNCALIBRATED, Calibration
from service.comparison import compare


def test_the_ranking_lists_indices_best_first() -> None:
    assert compare([0.5, 3.0, -1.0, 2.0], UNCALIBRATED).ranking == [1, 3, 0, 2]


def test_ties_keep_their_input_order() -> None:
    result = compare([1.0, 2.0, 1.0, 2.0], UNCALIBRATED)
    assert result.ranking == [1, 3, 0, 2]
    assert result.best == 1
    assert result.margin == 0.0
    assert result.probability == 0.5


def test_the_margin_is_best_minus_runner_up_and_the_probability_its_sigmoid() -> None:
    result = compare([1.0, 4.0, 2.5], Calibration(temperature=1.5, calibrated=True, reason=None))
    assert result.margin == 1.5
    assert result.probability == pytest.approx(1 / (1 + math.exp(-1.0)))


def test_shares_are_a_softmax_in_input_order_that_sums_to_one() -> None:
    result = compare([1.0, 3.0], Calibration(temperature=2.0, calibrated=True, reason=None))
    assert result.shares[1] / result.shares[0] == pytest.approx(math.e)
    assert sum(result.shares) == pytest.approx(1.0)


def test_with_two_responses_the_share_of_the_best_is_its_probability() -> None:
    result = compare([0.3, -0.9], UNCALIBRATED)
    assert result.shares[0] == pytest.approx(result.probability)


def test_pairwise_is_one_half_on_the_diagonal_and_complementary_across_it() -> None:
    pairwise = compare([1.0, -2.0, 0.5], UNCALIBRATED, pairwise=True).pairwise
    assert pairwise is not None
    for i, row in enumerate(pairwise):
        assert row[i] == 0.5
        for j, probability in enumerate(row):
            assert probability + pairwise[j][i] == pytest.approx(1.0)
    assert pairwise[0][1] == pytest.approx(1 / (1 + math.exp(-3.0)))


def test_pairwise_is_left_out_unless_asked_for() -> None:
    assert compare([1.0, 2.0], UNCALIBRATED).pairwise is None


def test_scores_far_apart_neither_overflow_nor_lose_the_small_share() -> None:
    result = compare([0.0, 700.0], UNCALIBRATED)
    assert result.probability == pytest.approx(1.0)
    assert 0.0 < result.shares[0] < 1e-300
