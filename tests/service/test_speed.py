"""How fast the model is: evened out over batches, and soon right again after it has changed."""

import math
import random

import pytest

from service.speed import MAX_RETRY_AFTER, Speed


def test_nothing_is_known_before_the_first_batch() -> None:
    speed = Speed()
    assert speed.tokens_in(1.0) == math.inf
    assert speed.seconds_for(10**9) == 1


def test_differences_between_batches_even_out() -> None:
    speed, rng = Speed(), random.Random(0)
    for _ in range(200):
        speed.add(rng.randint(1, 60), 0.1)
    assert speed.tokens_in(1.0) == pytest.approx(305, rel=0.15)


def test_a_model_that_has_become_slower_is_known_as_that_within_seconds() -> None:
    speed = Speed()
    for _ in range(1000):
        speed.add(1000, 0.1)
    for _ in range(150):
        speed.add(100, 0.1)
    assert speed.tokens_in(1.0) == pytest.approx(1000, rel=0.5)
    assert speed.tokens_in(-1.0) == 0


def test_one_long_batch_says_more_than_many_short_ones_before() -> None:
    speed = Speed()
    for _ in range(100):
        speed.add(1000, 0.01)
    speed.add(1000, 30.0)
    assert speed.tokens_in(1.0) < 50
    assert speed.seconds_for(10**9) == MAX_RETRY_AFTER
