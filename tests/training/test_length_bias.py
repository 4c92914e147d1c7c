"""What rewards owe to length is found, whatever its shape, and nothing else is taken off."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from reward_model.rendering import Rendered
from training.examples import Comparison, Example
from training.length_bias import (
    LengthDependence,
    cross_fitted,
    doubt,
    fit_curve,
    lengths_of,
    longer_wins,
    table,
    without_length,
)

RANDOM = random.Random(3)


def example(number: int, *lengths: int) -> Example:
    """Two responses of the given lengths, of which the first won."""
    sequences = tuple(Rendered(None, [1], response_length=length) for length in lengths)
    return Example(sequences, (Comparison(0, 1),), number, f"prompt {number // 2}".encode())


EXAMPLES = [example(i, RANDOM.randint(1, 400), RANDOM.randint(1, 400)) for i in range(200)]
#: The shortest and the longest have a hundredth of the responses beyond them, where the curve is flat.
LENGTHS = sorted(length for row in lengths_of(EXAMPLES) for length in row)
LOW, HIGH = LENGTHS[6], LENGTHS[-7]
QUALITY = [[RANDOM.gauss(0.5, 1), RANDOM.gauss(-0.5, 1)] for _ in EXAMPLES]


def rewards(owed: Callable[[int], float], quality: list[list[float]]) -> list[list[float]]:
    """Quality, and what is owed to length."""
    return [
        [value + owed(one.response_length or 0) for one, value in zip(which.sequences, row, strict=True)]
        for which, row in zip(EXAMPLES, quality, strict=True)
    ]


def test_a_linear_relation_is_removed_exactly_and_the_level_stays() -> None:
    values = rewards(lambda length: 2 + 0.01 * length, [[0.0, 0.0]] * len(EXAMPLES))
    mean = sum(map(sum, values)) / (2 * len(values))
    curve = fit_curve(EXAMPLES, values)
    inside = [
        value
        for row, lengths in zip(without_length(EXAMPLES, values, curve), lengths_of(EXAMPLES), strict=True)
        for value, length in zip(row, lengths, strict=True)
        if LOW <= length <= HIGH
    ]
    assert inside == pytest.approx([mean] * len(inside), abs=0.02)
    assert max(inside) - min(inside) < 1e-9


def test_a_constant_changes_nothing_and_a_factor_stretches() -> None:
    plain = fit_curve(EXAMPLES, QUALITY)
    other = fit_curve(EXAMPLES, [[7 - 3 * value for value in row] for row in QUALITY])
    assert other.lengths == plain.lengths
    assert other.biases == pytest.approx([-3 * bias for bias in plain.biases], abs=1e-9)


def test_a_planted_bias_goes_and_the_accuracy_comes_back() -> None:
    values = rewards(lambda length: 6 * (length / 400) ** 0.5, QUALITY)
    honest, raw = LengthDependence.of(EXAMPLES, QUALITY), LengthDependence.of(EXAMPLES, values)
    calibrated = LengthDependence.of(EXAMPLES, cross_fitted(EXAMPLES, values))
    assert raw.spearman is not None
    assert raw.spearman > 0.6
    assert raw.accuracy.accuracy < honest.accuracy.accuracy - 0.04
    assert calibrated.spearman == pytest.approx(0, abs=0.06)
    assert calibrated.accuracy.accuracy == pytest.approx(honest.accuracy.accuracy, abs=0.03)
    assert calibrated.longer_preferred == pytest.approx(0.5, abs=0.06)
    shown = table(EXAMPLES, raw, calibrated)
    assert f"{raw.spearman:+.3f}" in shown
    assert f"people prefer the longer response in {longer_wins(EXAMPLES):.1%}" in shown


def test_what_people_prefer_for_its_length_is_better_left_alone() -> None:
    liked = [replace(one, sequences=tuple(sorted(one.sequences, key=_length, reverse=True))) for one in EXAMPLES]
    values = [[0.01 * _length(one) + RANDOM.gauss(0, 0.1) for one in which.sequences] for which in liked]
    raw = LengthDependence.of(liked, values)
    reason = doubt(liked, raw, LengthDependence.of(liked, cross_fitted(liked, values)))
    assert reason is not None
    assert "further from people" in reason
    assert doubt(liked, raw, raw) is None
    worse = replace(raw, accuracy=replace(raw.accuracy, accuracy=0.4))
    assert doubt(liked, raw, worse) == "calibrated rewards agree with people less often than raw ones"


def _length(one: Rendered) -> int:
    assert one.response_length is not None
    return one.response_length


def test_no_response_is_judged_by_a_curve_that_was_fitted_on_its_prompt() -> None:
    values = rewards(lambda length: 0.01 * length, QUALITY)
    spoiled = [[value + 1000 * (i < 2) for value in row] for i, row in enumerate(values)]
    own = [
        before - after
        for i in range(2)
        for before, after in zip(spoiled[i], cross_fitted(EXAMPLES, spoiled)[i], strict=True)
    ]
    usual = [
        before - after
        for i in range(2)
        for before, after in zip(values[i], cross_fitted(EXAMPLES, values)[i], strict=True)
    ]
    assert own == pytest.approx(usual, abs=1e-9)


def test_rewards_that_do_not_vary_have_no_correlation() -> None:
    flat = LengthDependence.of(EXAMPLES, [[1.0, 1.0]] * len(EXAMPLES))
    assert flat.spearman is None
    assert flat.accuracy.accuracy == flat.longer_preferred == 0.5
    assert "undefined" in table(EXAMPLES, flat, flat)
