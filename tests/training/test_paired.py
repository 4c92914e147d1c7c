"""Whether one model is better than another is judged pair by pair, and prompts are what was drawn."""

import math
import random
from collections.abc import Sequence
from itertools import product

import pytest

from training.paired import paired_difference


def mcnemar(better: int, worse: int) -> float:
    """The exact two-sided p-value of McNemar's test."""
    n, k = better + worse, max(better, worse)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n)


def every_pattern(sums: Sequence[float]) -> float:
    """The sign-flip test over all patterns."""
    totals = [abs(sum(s * x for s, x in zip(signs, sums, strict=True))) for signs in product((-1, 1), repeat=len(sums))]
    return sum(total >= abs(sum(sums)) - 1e-9 for total in totals) / len(totals)


def test_equal_outcomes_differ_in_nothing() -> None:
    same = paired_difference([1, 0, 0.5], [1, 0, 0.5], "abc")
    assert (same.difference, same.difference_interval, same.p_value) == (0, (-1, 1), 1)
    many = paired_difference([1, 0, 0.5] * 100, [1, 0, 0.5] * 100, range(300))
    assert many.difference_interval == pytest.approx((-0.01, 0.01)), "the rule of three"
    assert (same.better, same.worse) == (0, 0)


@pytest.mark.parametrize(("better", "worse"), [(9, 3), (14, 14), (20, 5), (30, 6)])
def test_the_p_value_is_mcnemars_where_prompts_have_one_pair(better: int, worse: int) -> None:
    first = [1] * better + [0] * worse + [1] * 40
    second = [0] * better + [1] * worse + [1] * 40
    result = paired_difference(first, second, range(len(first)))
    assert result.difference == pytest.approx((better - worse) / len(first))
    assert (result.better, result.worse) == (better, worse)
    assert result.p_value == pytest.approx(mcnemar(better, worse), abs=0.01)


def test_the_p_value_is_that_of_all_sign_patterns_over_prompts() -> None:
    outcomes = [1, 1, 1, 0, 1, 0.5, 1, 1, 0, 1, 1, 1]
    baseline = [0, 0, 1, 1, 0, 0.5, 0, 1, 0.5, 0, 1, 0]
    groups = "aabbccddeeff"
    sums = [2, -1, 1, 1, 0.5, 1]
    assert paired_difference(outcomes, baseline, groups).p_value == pytest.approx(every_pattern(sums), abs=0.01)


def test_swapping_the_models_mirrors_the_difference() -> None:
    rng = random.Random(1)
    a, b = ([rng.choice([0, 0.5, 1]) for _ in range(60)] for _ in range(2))
    groups = [i // 3 for i in range(60)]
    there, back = paired_difference(a, b, groups), paired_difference(b, a, groups)
    low, high = there.difference_interval
    assert back.difference == pytest.approx(-there.difference)
    assert back.difference_interval == pytest.approx((-high, -low))
    assert back.p_value == there.p_value
    assert (back.better, back.worse) == (there.worse, there.better)


def test_copies_of_a_pair_add_no_certainty() -> None:
    first, second = [1, 1, 1, 0, 1, 0, 1, 1], [0, 0, 1, 1, 1, 0, 0, 1]
    once = paired_difference(first, second, range(8))
    copied = paired_difference(first * 5, second * 5, list(range(8)) * 5)
    assert copied.difference == pytest.approx(once.difference)
    assert copied.difference_interval == pytest.approx(once.difference_interval)
    assert copied.p_value == once.p_value


def test_a_few_prompts_that_agree_are_no_certainty() -> None:
    low, high = paired_difference([1] * 5, [0] * 5, range(5)).difference_interval
    assert low < 0
    assert high == 1


def test_one_prompt_says_nothing_of_others() -> None:
    result = paired_difference([1, 1], [0, 0], "aa")
    assert result.difference_interval == (-1, 1)
    assert result.p_value == 1


def test_the_interval_covers_the_true_difference() -> None:
    """Prompts of 1 to 4 pairs whose outcomes go together; the true difference is 0.1."""
    rng = random.Random(7)
    covered = 0
    for _ in range(300):
        outcomes, baseline, groups = [], [], []
        for prompt in range(120):
            shift = rng.choice([-0.2, 0.2])
            for _ in range(rng.randint(1, 4)):
                outcomes.append(float(rng.random() < 0.6 + shift))
                baseline.append(float(rng.random() < 0.5 - shift))
                groups.append(prompt)
        low, high = paired_difference(outcomes, baseline, groups).difference_interval
        covered += low <= 0.1 <= high
    assert 0.92 <= covered / 300 <= 0.98
