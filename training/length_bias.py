"""How much of a set of rewards is owed to the length of responses, and what taking that off changes.

The method is that of Huang et al. 2024 (arXiv 2409.17407): rewards over lengths are smoothed by locally weighted
regression, and what that gives for a response's length is taken off its reward. Which response is preferred is not
looked at. Knows examples and their rewards, neither models nor files.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from reward_model.calibration import FOLDS, agreement
from reward_model.length_calibration import LengthCalibration
from training.examples import Example
from training.lowess import Floats, lowess
from training.outcomes import Outcomes
from training.statistics import Accuracy, accuracy, correlation

#: As in the authors' code (github.com/ZeroYuHuang/Reward-Calibration).
_FRACTION, _ITERATIONS = 0.5, 3
_KNOTS = 33
#: The curve ends where a hundredth of the responses is left on either side: of so few, each would draw it to itself.
_ENDS = (0.01, 0.99)

#: For each example something of each of its sequences.
Values = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class LengthDependence:
    """How rewards go with the length of responses.

    Attributes:
        accuracy: how often they agree with the labels.
        longer_preferred: share of the comparisons in which the longer response has the higher reward, ties 0.5.
        spearman: rank correlation of reward and length over all responses; None where one does not vary.
    """

    accuracy: Accuracy
    longer_preferred: float
    spearman: float | None

    @classmethod
    def of(cls, examples: Sequence[Example], values: Values) -> "LengthDependence":
        """Of the rewards `values`."""
        outcomes, lengths = Outcomes.of(examples, values), Outcomes.of(examples, lengths_of(examples))
        agreed = [agreement(margin, label) for margin, label in zip(outcomes.margins, outcomes.labels, strict=True)]
        longer = [agreement(margin * more) for margin, more in zip(outcomes.margins, lengths.margins, strict=True)]
        prompts = [example.prompt for example in examples for _ in example.comparisons]
        together = correlation(outcomes.rewards, lengths.rewards)
        return cls(accuracy(agreed, prompts), fmean(longer), together.spearman)


def lengths_of(examples: Iterable[Example]) -> list[list[float]]:
    """The lengths of the responses of each example, in characters."""
    return [[_known(one.response_length) for one in example.sequences] for example in examples]


def longer_wins(examples: Sequence[Example]) -> float:
    """Share of the comparisons in which people prefer the longer response, ties 0.5."""
    lengths = Outcomes.of(examples, lengths_of(examples))
    return fmean(agreement(more, label) for more, label in zip(lengths.margins, lengths.labels, strict=True))


def fit_curve(examples: Sequence[Example], values: Values) -> LengthCalibration:
    """What the rewards `values` of one or more examples owe to length."""
    return _fit(_flat(lengths_of(examples)), _flat(values))


def without_length(examples: Iterable[Example], values: Values, curve: LengthCalibration) -> list[list[float]]:
    """Rewards without what `curve` says they owe to length."""
    return [
        [value - curve.bias(one.response_length) for one, value in zip(example.sequences, row, strict=True)]
        for example, row in zip(examples, values, strict=True)
    ]


def cross_fitted(examples: Sequence[Example], values: Values) -> list[list[float]]:
    """The same, each reward by a curve of other prompts: what can be expected of responses that were not fitted on."""
    folds = {prompt: i % FOLDS for i, prompt in enumerate(dict.fromkeys(example.prompt for example in examples))}
    result: list[list[float]] = [[]] * len(examples)
    for fold in set(folds.values()):
        inside = [i for i, example in enumerate(examples) if folds[example.prompt] == fold]
        outside = [i for i, example in enumerate(examples) if folds[example.prompt] != fold]
        curve = fit_curve([examples[i] for i in outside], [values[i] for i in outside])
        corrected = without_length([examples[i] for i in inside], [values[i] for i in inside], curve)
        for i, row in zip(inside, corrected, strict=True):
            result[i] = row
    return result


def table(examples: Sequence[Example], raw: LengthDependence, calibrated: LengthDependence) -> str:
    """Both side by side, as plain text."""
    rows = [("raw", raw), ("calibrated by length", calibrated)]
    head = f"{'rewards':<22}accuracy [95 % interval]   longer preferred   correlation with length"
    lines = [
        f"{name:<22}{one.accuracy.accuracy:6.1%} [{one.accuracy.accuracy_interval[0]:.1%},"
        f" {one.accuracy.accuracy_interval[1]:.1%}]{one.longer_preferred:>18.1%}"
        f"{'undefined' if one.spearman is None else format(one.spearman, '+.3f'):>26}"
        for name, one in rows
    ]
    people = f"people prefer the longer response in {longer_wins(examples):.1%} of the pairs"
    return "\n".join(
        [head, *lines, f"Each response by a curve fitted on other prompts; Spearman's correlation; {people}."]
    )


def doubt(examples: Sequence[Example], raw: LengthDependence, calibrated: LengthDependence) -> str | None:
    """Why the calibrated rewards may be worse than the raw ones; None where nothing speaks for that.

    Lengths often go with the kind of prompt. What is taken off then is more than what length does within a pair.
    """
    people = longer_wins(examples)
    if abs(calibrated.longer_preferred - people) > abs(raw.longer_preferred - people):
        return "calibrated rewards are further from people in how often the longer response is preferred than raw ones"
    if calibrated.accuracy.accuracy < raw.accuracy.accuracy:
        return "calibrated rewards agree with people less often than raw ones"
    return None


def _fit(lengths: Floats, rewards: Floats) -> LengthCalibration:
    knots = np.unique(np.quantile(lengths, np.linspace(*_ENDS, _KNOTS)))
    curve = lowess(lengths, rewards, knots, fraction=_FRACTION, iterations=_ITERATIONS)
    level = np.interp(lengths, knots, curve).mean()
    return LengthCalibration(tuple(knots.tolist()), tuple((curve - level).tolist()))


def _flat(values: Values) -> Floats:
    return np.asarray([value for row in values for value in row], dtype=np.float64)


def _known(length: int | None) -> int:
    assert length is not None, "an example that was read from disk does not have it"
    return length
