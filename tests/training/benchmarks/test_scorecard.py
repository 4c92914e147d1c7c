"""A weighted score has an interval made of its parts' intervals."""

import math

import pytest

from training.benchmarks.scorecard import weighted
from training.statistics import Accuracy


def test_the_interval_of_one_part_is_its_own() -> None:
    part = Accuracy(10, 0.7, (0.4, 0.9))
    found = weighted([part], [3])
    assert found is not None
    assert (found.n, found.accuracy) == (10, 0.7)
    assert found.accuracy_interval == pytest.approx((0.4, 0.9))


def test_parts_count_by_their_weights_and_their_errors_add_in_squares() -> None:
    found = weighted([Accuracy(10, 0.5, (0.3, 0.6)), Accuracy(5, 0.8, (0.6, 1.0))], [3, 1])
    assert found is not None
    assert (found.n, found.accuracy) == (15, pytest.approx(0.575))
    below = math.sqrt((0.75 * 0.2) ** 2 + (0.25 * 0.2) ** 2)
    above = math.sqrt((0.75 * 0.1) ** 2 + (0.25 * 0.2) ** 2)
    assert found.accuracy_interval == pytest.approx((0.575 - below, 0.575 + above))


def test_a_part_that_is_missing_leaves_nothing() -> None:
    assert weighted([Accuracy(10, 0.7, (0.4, 0.9)), None], [1, 1]) is None
