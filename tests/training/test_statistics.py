"""Figures agree with their definitions, and intervals cover what they claim to cover."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_model.calibration import agreement, sigmoid
from training.probabilities import ece_by_chance, probability_quality
from training.statistics import (
    accuracy,
    balanced_accuracy,
    clustered_interval,
    correlation,
    ranks,
    t_quantile,
)

WHOLE = st.integers(-5, 5).map(float)


def test_ties_count_half() -> None:
    outcomes = [agreement(margin) for margin in (2.0, -1.0, 0.0, -0.0)]
    assert outcomes == [1.0, 0.0, 0.5, 0.5]
    assert accuracy(outcomes, range(4)).accuracy == 0.5


def test_independent_pairs_get_the_usual_interval() -> None:
    outcomes = [1.0] * 700 + [0.0] * 300
    low, high = clustered_interval(outcomes, range(1000))
    half = 1.96 * math.sqrt(0.7 * 0.3 / 1000)
    assert low == pytest.approx(0.7 - half, abs=2e-3)
    assert high == pytest.approx(0.7 + half, abs=2e-3)


def test_copies_of_a_pair_do_not_narrow_the_interval() -> None:
    generator = np.random.default_rng(0)
    single = generator.integers(0, 2, 200).astype(float).tolist()
    once = clustered_interval(single, range(200))
    ten_times = clustered_interval(single * 10, list(range(200)) * 10)
    assert ten_times == pytest.approx(once, abs=1e-3)
    naive = clustered_interval(single * 10, range(2000))
    assert naive[1] - naive[0] < 0.4 * (once[1] - once[0])


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("copies", [1, 20])
def test_perfect_accuracy_has_an_interval_of_its_prompts_number(value: float, copies: int) -> None:
    low, high = clustered_interval([value] * 50 * copies, list(range(50)) * copies)
    # Wilson's interval for 50 of 50: 1 / (1 + z^2 / 50).
    bound = 1 / (1 + 1.959964**2 / 50)
    assert (low, high) == pytest.approx((bound, 1.0) if value else (0.0, 1 - bound), abs=1e-6)


@pytest.mark.parametrize("outcomes", [[1.0], [0.0], [0.5], [1.0] * 9, [1.0, 0.0]])
def test_one_prompt_says_nothing_about_others(outcomes: list[float]) -> None:
    assert clustered_interval(outcomes, ["same"] * len(outcomes)) == (0.0, 1.0)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 6)), min_size=1, max_size=40))
def test_interval_holds_the_estimate_and_stays_within_bounds(pairs: list[tuple[float, int]]) -> None:
    outcomes, groups = [value for value, _ in pairs], [group for _, group in pairs]
    result = accuracy(outcomes, groups)
    low, high = result.accuracy_interval
    assert 0.0 <= low <= result.accuracy + 1e-12
    assert result.accuracy - 1e-12 <= high <= 1.0
    # Which response stands first in the file must not matter.
    mirrored = clustered_interval([1 - value for value in outcomes], groups)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


def coverage(mean: float, correlated: float, prompts: int, trials: int = 1000) -> float:
    """Share of simulated data sets whose interval holds the true accuracy; prompts of 1 to 20 pairs, beta-binomial."""
    generator = np.random.default_rng(7)
    strength = 1 / correlated - 1
    covered = 0
    for _ in range(trials):
        sizes = generator.integers(1, 21, prompts)
        chances = generator.beta(mean * strength, (1 - mean) * strength, prompts)
        outcomes = (generator.random(int(sizes.sum())) < np.repeat(chances, sizes)).astype(float)
        low, high = clustered_interval(outcomes.tolist(), np.repeat(np.arange(prompts), sizes).tolist())
        covered += low <= mean <= high
    return covered / trials


@pytest.mark.parametrize(
    ("mean", "correlated", "prompts"),
    [(0.7, 0.3, 60), (0.5, 0.5, 20), (0.9, 0.2, 40), (0.97, 0.2, 40), (0.6, 0.02, 150), (0.1, 0.5, 10), (0.8, 0.3, 6)],
)
def test_interval_covers_the_truth_as_often_as_it_says(mean: float, correlated: float, prompts: int) -> None:
    assert coverage(mean, correlated, prompts) >= 0.94


def test_interval_is_no_wider_than_needed_where_there_are_prompts_enough() -> None:
    assert 0.94 <= coverage(0.65, 0.3, 300) <= 0.965


# Tabulated values.
@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (10, 2.2281), (100, 1.9840)]
)
def test_quantiles_of_student_are_those_of_the_tables(degrees: int, expected: float) -> None:
    assert t_quantile(degrees) == pytest.approx(expected, rel=2e-3)


def test_probabilities_are_judged_as_defined() -> None:
    margins, temperature = [2.0, -0.5, 0.0, 7.0, 0.1], 1.7
    wins = [sigmoid(margin / temperature) for margin in margins]
    quality = probability_quality(margins, temperature)
    assert quality.nll == pytest.approx(-sum(map(math.log, wins)) / 5)
    assert quality.brier == pytest.approx(sum((1 - p) ** 2 for p in wins) / 5)
    # Fewer pairs than bins: each is a bin of its own.
    gaps = [abs(max(p, 1 - p) - agreement(margin)) for p, margin in zip(wins, margins, strict=True)]
    assert quality.ece == pytest.approx(sum(gaps) / 5)


def test_large_margins_have_finite_losses() -> None:
    quality = probability_quality([1e6, -1e6], 0.05)
    assert quality.nll == pytest.approx(1e6 / 0.05 / 2)
    assert quality.brier == 0.5


def test_probabilities_that_come_true_are_calibrated() -> None:
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 2, 20_000)
    right = generator.random(20_000) < 1 / (1 + np.exp(-np.abs(logits)))
    margins = np.where(right, np.abs(logits), -np.abs(logits)).tolist()
    assert probability_quality(margins, 1.0).ece < 0.015
    assert probability_quality(margins, 0.25).ece > 0.08


@given(st.lists(WHOLE, min_size=1, max_size=20))
def test_ranks_are_those_of_counting(values: list[float]) -> None:
    expected = [sum(other < v for other in values) + (sum(other == v for other in values) + 1) / 2 for v in values]
    assert ranks(np.asarray(values)).tolist() == expected


@given(st.lists(st.tuples(WHOLE, WHOLE), min_size=2, max_size=20))
def test_correlation_is_that_of_the_definition(points: list[tuple[float, float]]) -> None:
    x, y = [a for a, _ in points], [b for _, b in points]
    result = correlation(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert (result.pearson, result.spearman) == (None, None)
        return
    # Over all pairs of points: sum of products of differences.
    pairs = list(itertools.combinations(points, 2))
    product = sum((a[0] - b[0]) * (a[1] - b[1]) for a, b in pairs)
    norm = math.sqrt(sum((a[0] - b[0]) ** 2 for a, b in pairs) * sum((a[1] - b[1]) ** 2 for a, b in pairs))
    assert result.pearson == pytest.approx(product / norm, abs=1e-9)
    by_rank = correlation(ranks(np.asarray(x)).tolist(), ranks(np.asarray(y)).tolist())
    assert result.spearman == pytest.approx(by_rank.pearson, abs=1e-12)


def test_correlation_knows_neither_scale_nor_shift() -> None:
    x, y = [1.0, 2.0, 4.0, 3.0], [1e-200, 3e-200, 2e-200, 9e-200]
    scaled = correlation([1e200 * v for v in x], y)
    expected = correlation(x, [1.0, 3.0, 2.0, 9.0])
    assert scaled.pearson == pytest.approx(expected.pearson)
    assert scaled.spearman == expected.spearman


def test_correlation_of_too_few_points_is_undefined() -> None:
    assert correlation([1.0], [2.0]).pearson is None


def test_preferring_the_longer_one_is_worth_nothing_where_lengths_are_balanced() -> None:
    longer_is_better = [1.0] * 70 + [0.0] * 30 + [0.5] * 5
    balanced = balanced_accuracy(longer_is_better, longer_is_better, range(105))
    assert balanced is not None
    assert (balanced.n, balanced.accuracy) == (100, pytest.approx(0.5))


def test_strata_weigh_the_same() -> None:
    outcomes, strata = [1.0] * 60 + [0.0] * 20 + [1.0] * 5 + [0.0] * 15, [1.0] * 80 + [0.0] * 20
    balanced = balanced_accuracy(outcomes, strata, range(100))
    assert balanced is not None
    assert balanced.accuracy == pytest.approx((0.75 + 0.25) / 2)
    half = 1.96 * math.sqrt(0.25 * (0.75 * 0.25 / 80 + 0.25 * 0.75 / 20))
    assert balanced.accuracy_interval == pytest.approx((0.5 - half, 0.5 + half), abs=0.005)
    copied = balanced_accuracy(outcomes * 4, strata * 4, [*range(100)] * 4)
    assert copied is not None
    assert copied.accuracy_interval == pytest.approx(balanced.accuracy_interval)


def test_balance_needs_pairs_on_both_sides() -> None:
    assert balanced_accuracy([1.0, 0.0], [1.0, 0.5], "ab") is None
    alone = balanced_accuracy([1.0, 0.0], [1.0, 0.0], "aa")
    assert alone is not None
    assert alone.accuracy_interval == (0, 1)


def test_the_calibration_error_of_right_probabilities_is_below_its_quantile_95_times_in_100() -> None:
    generator = np.random.default_rng(3)
    below = 0
    for _ in range(200):
        margins = generator.normal(0, 0.8, 300)
        signs = np.where(generator.random(300) < 1 / (1 + np.exp(-np.abs(margins))), 1, -1)
        drawn = (np.abs(margins) * signs).tolist()
        below += probability_quality(drawn, 1.0).ece <= ece_by_chance(drawn)
    assert 180 <= below <= 198


def test_a_few_pairs_have_a_large_calibration_error_by_chance() -> None:
    assert ece_by_chance([0.0]) == pytest.approx(0.5)
    assert ece_by_chance([1.0, -2.0, 0.5]) > ece_by_chance([1.0, -2.0, 0.5] * 100) > 0
    assert ece_by_chance([800.0, -800.0]) == 0


def test_likelihood_stands_beside_that_of_no_temperature_and_of_a_constant() -> None:
    margins = [2.0, 2.0, 2.0, -2.0]
    quality = probability_quality(margins, 4.0)
    assert quality.nll_uncalibrated == pytest.approx(probability_quality(margins, 1.0).nll)
    assert quality.nll_constant == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert probability_quality([1.0, 1.0], 1.0).nll_constant == 0
