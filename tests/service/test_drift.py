"""The drift index is near zero on the reference, grows with a shift, and forgets."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.drift import MIN_SCORES, WINDOW, ScoreDrift

UNIFORM = [i / 10 for i in range(1, 10)]


def uniform(n: int, low: float = 0.0, high: float = 1.0) -> list[float]:
    return [low + (high - low) * (i + 0.5) / n for i in range(n)]


def test_the_reference_itself_has_no_drift() -> None:
    drift = ScoreDrift(UNIFORM)
    drift.add(uniform(1000))
    assert drift.index() == pytest.approx(0, abs=1e-6)


def test_chance_stays_below_what_counts_as_a_shift() -> None:
    drift = ScoreDrift(UNIFORM)
    rng = random.Random(7)
    drift.add(rng.random() for _ in range(MIN_SCORES))
    assert 0 <= drift.index() < 0.1


def test_a_shift_by_half_the_range_is_a_large_one() -> None:
    drift = ScoreDrift(UNIFORM)
    drift.add(uniform(1000, 0.5, 1.5))
    assert drift.index() > 0.25


def test_the_index_is_that_of_the_textbook() -> None:
    drift = ScoreDrift([0.0], window=10_000)
    drift.add([-1.0] * 3000 + [1.0] * 7000)
    assert drift.index() == pytest.approx(-0.2 * math.log(0.6) + 0.2 * math.log(1.4), rel=1e-3)


def test_with_few_scores_it_says_nothing() -> None:
    drift = ScoreDrift(UNIFORM)
    drift.add(uniform(MIN_SCORES - 1))
    assert math.isnan(drift.index())
    drift.add([0.5])
    assert math.isfinite(drift.index())


def test_scores_beyond_the_window_are_forgotten() -> None:
    drift = ScoreDrift(UNIFORM)
    drift.add(uniform(WINDOW, 5.0, 6.0))
    shifted = drift.index()
    drift.add(uniform(WINDOW))
    assert shifted > 1
    assert drift.index() == pytest.approx(0, abs=1e-4)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=MIN_SCORES, max_size=MIN_SCORES))
def test_the_index_is_finite_and_not_negative_whatever_the_scores(scores: list[float]) -> None:
    drift = ScoreDrift(UNIFORM)
    drift.add(scores)
    assert 0 <= drift.index() + 1e-12 < math.inf
