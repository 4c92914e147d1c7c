"""How good rewards are as probabilities: calibration error beside what chance alone would show, and likelihood.

Plain numbers in, plain numbers out: knows neither models nor files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from reward_model.calibration import agreement, margin_quality

#: Simulations of `ece_by_chance`, and how many numbers of them are held at a time.
_SIMULATIONS = 2000
_HELD = 2**22
_BINS = 10


@dataclass(frozen=True, slots=True)
class ProbabilityQuality:
    """How good sigmoid(margin / T) is as the probability that the chosen response is preferred.

    Attributes:
        ece: expected calibration error of the predicted winner, ten equal-mass bins.
        ece_by_chance: what it stays below 95 times in 100 where the probabilities are right (see the function).
        nll: mean negative log-likelihood, in nats.
        nll_uncalibrated: the same with T = 1.
        nll_constant: the same were the predicted winner always given the probability of the accuracy itself.
        brier: mean squared error of the probability.
    """

    ece: float
    ece_by_chance: float
    nll: float
    nll_uncalibrated: float
    nll_constant: float
    brier: float


def probability_quality(
    margins: Sequence[float], temperature: float, labels: Sequence[float] | None = None
) -> ProbabilityQuality:
    """Judges sigmoid(margin / temperature) over one or more `margins` (chosen minus rejected, finite)."""
    scaled = [margin / temperature for margin in margins]
    soft = [1.0] * len(margins) if labels is None else labels
    return ProbabilityQuality(
        **margin_quality(scaled, labels),
        ece_by_chance=ece_by_chance(scaled),
        nll_uncalibrated=margin_quality(margins, labels)["nll"],
        nll_constant=_entropy(fmean(agreement(*pair) for pair in zip(margins, soft, strict=True))),
    )


def ece_by_chance(margins: Sequence[float]) -> float:
    """95 % quantile of the calibration error of predictions that are right: outcomes drawn with their very confidences.

    A finite number of pairs never has an error of 0 (Vaicenavicius et al. 2019, arXiv 1902.06977, section 4). Outcomes
    are drawn independently, so where a prompt has several pairs chance would show more. From a fixed seed.

    Args:
        margins: one or more, in units of the temperature.
    """
    confidences = np.sort(1 / (1 + np.exp(-np.abs(np.asarray(margins, dtype=np.float64)))))
    n = len(confidences)
    bounds = [b * n // _BINS for b in range(_BINS)]
    # Bins are empty where there are fewer pairs than bins.
    starts = sorted(set(bounds))
    random = np.random.default_rng(0)
    at_once = max(1, _HELD // n)
    errors: list[float] = []
    while len(errors) < _SIMULATIONS:
        gaps = confidences - (random.random((min(at_once, _SIMULATIONS - len(errors)), n)) < confidences)
        errors += (np.abs(np.add.reduceat(gaps, starts, axis=1)).sum(axis=1) / n).tolist()
    return float(np.quantile(errors, 0.95))


def _entropy(p: float) -> float:
    return -math.fsum(q * math.log(q) for q in (p, 1 - p) if q > 0)
