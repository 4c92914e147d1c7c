"""Do the pairs that a model is 80 % sure of come out its way 8 times in 10? Numbers for the reliability diagram.

Knows verdicts, not drawings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from reward_model.calibration import sigmoid
from training.report.verdicts import Verdict
from training.statistics import clustered_interval

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs of about the same confidence.

    Attributes:
        n: how many.
        low, high: least and greatest confidence.
        confidence: their mean.
        agreement: how often the predicted winner was the preferred one; ties 0.5.
        interval: 95 %, by prompt.
    """

    n: int
    low: float
    high: float
    confidence: float
    agreement: float
    interval: tuple[float, float]


def confidence(verdict: Verdict, temperature: float) -> float:
    """Probability of the predicted winner: 0.5 or more."""
    return sigmoid(abs(verdict.margin) / temperature)


def reliability(scored: Sequence[Verdict], temperature: float) -> list[Bin]:
    """Bins of equal mass, the least confident first: those of `reward_model.calibration.expected_calibration_error`.

    The mean absolute difference of `confidence` and `agreement`, weighed by `n`, is that error.

    Args:
        scored: pairs with rewards, in any number; fewer than `BINS` make as many bins.
        temperature: what margins are divided by.
    """
    found = sorted(((confidence(one, temperature), one) for one in scored), key=lambda both: both[0])
    cuts = [b * len(found) // BINS for b in range(BINS + 1)]
    members = [found[start:end] for start, end in pairwise(cuts) if end > start]
    return [_bin([c for c, _ in those], [one for _, one in those]) for those in members]


def _bin(confidences: Sequence[float], members: Sequence[Verdict]) -> Bin:
    n, agreements = len(members), [one.agreement for one in members]
    return Bin(
        n,
        confidences[0],
        confidences[-1],
        math.fsum(confidences) / n,
        math.fsum(agreements) / n,
        clustered_interval(agreements, [one.prompt for one in members]),
    )
