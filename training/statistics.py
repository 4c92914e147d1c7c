"""What a set of scored pairs says: accuracy with an interval, correlation with length.

Pairs of one prompt are not independent, so intervals are computed by prompt. Plain numbers in, plain numbers out:
knows neither models nor files.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: 97.5 % point of the normal distribution: all intervals are 95 % intervals.
_Z = 1.959963984540054

Floats = NDArray[np.float64]
#: The number of each value's group, counted from 0.
Members = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often the chosen response scored higher.

    Attributes:
        n: pairs.
        accuracy: ties count 0.5.
        accuracy_interval: (low, high), 95 %, by prompt.
    """

    n: int
    accuracy: float
    accuracy_interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Correlation:
    """How two quantities go together; None where one of them does not vary."""

    pearson: float | None
    spearman: float | None


def accuracy(outcomes: Sequence[float], groups: Sequence[Hashable]) -> Accuracy:
    """Mean of `outcomes` (one or more, each in [0, 1]) with its interval; `groups` holds each pair's prompt."""
    return Accuracy(len(outcomes), math.fsum(outcomes) / len(outcomes), clustered_interval(outcomes, groups))


def balanced_accuracy(
    outcomes: Sequence[float], strata: Sequence[float], groups: Sequence[Hashable]
) -> Accuracy | None:
    """Accuracy in which the pairs of stratum 0 and those of stratum 1 weigh the same, whatever their numbers.

    What wins by preferring one stratum's answer loses as much in the other. The interval is Student's t on the
    cluster-robust variance (Liang & Zeger 1986, Biometrika 73), cut to [0, 1]; one prompt alone says nothing.

    Args:
        outcomes: each in [0, 1].
        strata: of each pair; those that are neither 0 nor 1 are left out.
        groups: each pair's prompt.

    Returns:
        None where a stratum has no pair.
    """
    which = np.asarray(strata, dtype=np.float64)
    chosen = (which == 0) | (which == 1)
    if len(set(which[chosen])) < 2:
        return None
    values, which = np.asarray(outcomes, dtype=np.float64)[chosen], which[chosen]
    members = memberships([group for group, kept in zip(groups, chosen, strict=True) if kept])
    weights = np.where(which == 1, 0.5 / (which == 1).sum(), 0.5 / (which == 0).sum())
    means = np.where(which == 1, values[which == 1].mean(), values[which == 0].mean())
    mean, clusters = float(weights @ values), int(members.max()) + 1
    if clusters == 1:
        return Accuracy(len(values), mean, (0.0, 1.0))
    sums = np.bincount(members, weights=weights * (values - means))
    half = t_quantile(clusters - 1) * math.sqrt(clusters / (clusters - 1) * float((sums**2).sum()))
    return Accuracy(len(values), mean, (max(0.0, mean - half), min(1.0, mean + half)))


def clustered_interval(outcomes: Sequence[float], groups: Sequence[Hashable]) -> tuple[float, float]:
    """95 % interval for the mean of `outcomes` that come in groups: Wilson's, on the effective number of pairs.

    The number of pairs is divided by the design effect (see `_design_effect`; never multiplied), and Student's t with
    groups - 1 degrees of freedom accounts for its being estimated (Korn & Graubard 1998, Survey Methodology 24; with
    Wilson's interval: Dean & Pagano 2015, Journal of Survey Statistics and Methodology 3). One group alone says
    nothing about others: (0, 1).

    Args:
        outcomes: one or more, each in [0, 1].
        groups: which pairs belong together; one key per pair.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    members = memberships(groups)
    n, clusters, mean = len(values), int(members.max()) + 1, float(values.mean())
    if clusters == 1:
        return 0.0, 1.0
    # With outcomes that are all the same nothing was estimated, so there is no estimate for t to make up for.
    quantile = _Z if mean in {0.0, 1.0} else t_quantile(clusters - 1)
    return _wilson(mean, n / _design_effect(values, members), quantile)


def _design_effect(values: Floats, members: Members) -> float:
    """How many times the variance of the mean exceeds that of independent pairs, at least 1.

    The cluster-robust estimate is far too small where the rarer outcome occurs in few groups, and undefined where it
    occurs in none. It is therefore averaged with the value for groups whose pairs are copies of each other, which
    weighs as much as one group with the rarer outcome. Without this, intervals near 0 and 1 cover too little.
    """
    n, mean = len(values), float(values.mean())
    sizes = np.bincount(members)
    copies = float((sizes.astype(np.float64) ** 2).sum()) / n
    if mean in {0.0, 1.0}:
        return copies
    residuals = np.bincount(members, weights=values - mean)
    variance = len(sizes) / (len(sizes) - 1) * float((residuals**2).sum()) / n**2
    estimate = max(1.0, variance / (mean * (1 - mean) / n))
    holders = min(np.count_nonzero(np.bincount(members, weights=weights)) for weights in (values, 1 - values))
    return (holders * estimate + copies) / (holders + 1)


def t_quantile(degrees: int) -> float:
    """97.5 % point of Student's t: exact for 1 and 2 degrees of freedom, else within 0.2 %.

    Above 2, the expansion around the normal distribution of Abramowitz & Stegun (1964), 26.7.5.
    """
    if degrees == 1:
        return math.tan(0.475 * math.pi)
    if degrees == 2:
        return 0.95 / math.sqrt(2 * 0.975 * 0.025)
    z, v = _Z, float(degrees)
    terms = (
        z,
        (z**3 + z) / (4 * v),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4),
    )
    return math.fsum(terms)


def correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Pearson's correlation of two equally long sequences, and Spearman's: that of their ranks."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return Correlation(_pearson(a, b), _pearson(ranks(a), ranks(b)))


def ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts, dtype=np.float64)
    mean_rank: Floats = last - (counts - 1) / 2
    return mean_rank[inverse]


def _pearson(a: Floats, b: Floats) -> float | None:
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return None
    a, b = a - a.mean(), b - b.mean()
    # Scaled first, so that squares neither overflow nor vanish.
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    return float((a @ b) / math.sqrt((a @ a) * (b @ b)))


def memberships(groups: Sequence[Hashable]) -> Members:
    """The groups' numbers in order of appearance: [n]."""
    numbers: dict[Hashable, int] = {}
    return np.asarray([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def _wilson(mean: float, n: float, quantile: float) -> tuple[float, float]:
    """Score interval of Wilson (1927), for a number of trials that need not be whole."""
    q = quantile**2 / n
    centre = (mean + q / 2) / (1 + q)
    half = math.sqrt(q * mean * (1 - mean) + q**2 / 4) / (1 + q)
    return max(0.0, centre - half), min(1.0, centre + half)
