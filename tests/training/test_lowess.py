"""Locally weighted regression is what its definition says, point by point, and keeps what it must keep."""

import math
import statistics

import numpy as np
import pytest
from numpy.typing import NDArray

from training import lowess as module
from training.lowess import lowess

Floats = NDArray[np.float64]
RANDOM = np.random.default_rng(7)
X = np.floor(RANDOM.lognormal(4, 1, 120))
Y = np.log1p(X) + RANDOM.normal(0, 0.4, 120)
PLACES = np.unique(np.quantile(X, np.linspace(0, 1, 12)))


def by_definition(x: list[float], y: list[float], places: list[float], fraction: float, iterations: int) -> list[float]:
    """One weighted line after the other, as Cleveland writes it down."""
    trust = [1.0] * len(x)
    for left in range(iterations, -1, -1):
        curve = [_line_at(place, x, y, trust, round(fraction * len(x))) for place in places]
        if not left:
            return curve
        off = [abs(b - float(np.interp(a, places, curve))) for a, b in zip(x, y, strict=True)]
        scale = 6 * statistics.median(off)
        trust = [(1 - (r / scale) ** 2) ** 2 if r < scale else 0.0 for r in off]
    raise AssertionError


def _line_at(place: float, x: list[float], y: list[float], trust: list[float], nearest: int) -> float:
    reach = sorted(abs(a - place) for a in x)[nearest - 1]
    near = [min(abs(a - place) / reach, 1.0) for a in x]
    weights = [(1 - d**3) ** 3 * t for d, t in zip(near, trust, strict=True)]
    total = math.fsum(weights)
    mean_x = math.fsum(w * a for w, a in zip(weights, x, strict=True)) / total
    mean_y = math.fsum(w * b for w, b in zip(weights, y, strict=True)) / total
    variance = math.fsum(w * (a - mean_x) ** 2 for w, a in zip(weights, x, strict=True))
    together = math.fsum(w * (a - mean_x) * (b - mean_y) for w, a, b in zip(weights, x, y, strict=True))
    return mean_y + together / variance * (place - mean_x)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_it_is_what_the_definition_gives(fraction: float, iterations: int) -> None:
    expected = by_definition(X.tolist(), Y.tolist(), PLACES.tolist(), fraction, iterations)
    assert lowess(X, Y, PLACES, fraction=fraction, iterations=iterations) == pytest.approx(expected, abs=1e-9)


def test_places_that_do_not_fit_into_one_block_are_computed_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = lowess(X, Y, PLACES, fraction=0.5, iterations=2)
    monkeypatch.setattr(module, "_BLOCK", 3 * len(X))
    assert lowess(X, Y, PLACES, fraction=0.5, iterations=2) == pytest.approx(at_once, abs=1e-12)


def test_a_line_is_found_exactly() -> None:
    assert lowess(X, 3 - 0.02 * X, PLACES, fraction=0.3, iterations=3) == pytest.approx(3 - 0.02 * PLACES, abs=1e-9)


def test_it_moves_with_a_constant_and_stretches_with_a_factor() -> None:
    plain = lowess(X, Y, PLACES, fraction=0.5, iterations=3)
    assert lowess(X, 5 - 2 * Y, PLACES, fraction=0.5, iterations=3) == pytest.approx(5 - 2 * plain, abs=1e-9)


def test_the_order_of_points_does_not_matter() -> None:
    order = RANDOM.permutation(len(X))
    plain, shuffled = (lowess(x, y, PLACES, fraction=0.5, iterations=3) for x, y in ((X, Y), (X[order], Y[order])))
    assert shuffled == pytest.approx(plain, abs=1e-9)


def test_a_few_wild_points_hardly_move_it() -> None:
    wild = Y.copy()
    wild[::20] += 50
    plain, robust, naive = (lowess(X, y, PLACES, fraction=0.5, iterations=i) for y, i in ((Y, 3), (wild, 3), (wild, 0)))
    assert float(np.abs(robust - plain).max()) < 0.5
    assert float(np.abs(naive - plain).max()) > 2


def test_points_that_all_lie_at_one_place_give_their_level() -> None:
    x, y = np.full(9, 5.0), np.arange(9.0)
    assert lowess(x, y, np.array([5.0]), fraction=0.5, iterations=0) == pytest.approx([4.0])


def test_most_points_at_one_place_still_give_the_others_their_course() -> None:
    x = np.array([5.0] * 20 + [1.0, 9.0])
    curve = lowess(x, x, np.array([1.0, 5.0, 9.0]), fraction=0.5, iterations=2)
    assert curve == pytest.approx([1.0, 5.0, 9.0], abs=1e-6)


@pytest.mark.parametrize("lengths", [[10.0] * 500 + [20.0] * 500, [10.0] * 600 + [float(i) for i in range(1, 401)]])
def test_many_points_at_one_place_leave_no_place_without_a_value(lengths: list[float]) -> None:
    x = np.array(lengths)
    y = np.where(x <= 10, -1.0, 1.0)
    places = np.array([9.99, 10.0, 15.0, 20.0])
    assert np.isfinite(lowess(x, y, places, fraction=0.5, iterations=3)).all()
