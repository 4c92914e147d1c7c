"""Two models on the same pairs: by how much one is right more often, and whether that can be chance.

Pairs of one prompt are not independent, so interval and test take prompts, not pairs, as what was drawn. Plain numbers
in, plain numbers out: knows neither models nor files.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.statistics import memberships, t_quantile

#: Random sign patterns of the test: its p-values are multiples of about this number's inverse.
_DRAWS = 20_000
#: Sign patterns held at a time.
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """What a model's outcomes say beside a baseline's on the same pairs.

    Attributes:
        difference: accuracy minus the baseline's.
        difference_interval: (low, high), 95 %, by prompt; (-1, 1) where there is one prompt only.
        p_value: two-sided, of the difference if both were equally good (see `paired_difference`).
        better, worse: pairs on which the model's outcome is above, or below, the baseline's.
    """

    difference: float
    difference_interval: tuple[float, float]
    p_value: float
    better: int
    worse: int


def paired_difference(
    outcomes: Sequence[float], baseline: Sequence[float], groups: Sequence[Hashable]
) -> PairedDifference:
    """Compares the outcomes (each in [0, 1]) of two models on the same one or more pairs.

    The interval is Student's t on the cluster-robust variance of the mean difference (Liang & Zeger 1986, Biometrika
    73). The p-value is that of a sign-flip test by prompt (Fisher 1935): were both models equally good, each prompt's
    sum of differences could as well have the other sign. It is McNemar's test where every prompt has one pair and no
    outcome is a tie. Signs come from a fixed seed, so the same outcomes always give the same p-value.

    Args:
        outcomes: of the model.
        baseline: of the other one, in the same order.
        groups: each pair's prompt.
    """
    differences = np.asarray(outcomes, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    members = memberships(groups)
    mean = float(differences.mean())
    return PairedDifference(
        mean,
        _interval(differences - mean, members, mean),
        _sign_flip(np.bincount(members, weights=differences).astype(np.float64)),
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
    )


def _interval(residuals: NDArray[np.float64], members: NDArray[np.int64], mean: float) -> tuple[float, float]:
    clusters = int(members.max()) + 1
    if clusters == 1:
        return -1.0, 1.0
    sums = np.bincount(members, weights=residuals)
    variance = clusters / (clusters - 1) * float((sums**2).sum()) / len(residuals) ** 2
    half = t_quantile(clusters - 1) * variance**0.5
    if not variance:
        # A prompt that differs was never seen, which happens 95 times in 100 to what has a probability of 3 / clusters
        # (Hanley & Lippman-Hand 1983, JAMA 249), and by 1 + |mean| at most.
        half = 3 / clusters * (1 + abs(mean))
    return max(-1.0, mean - half), min(1.0, mean + half)


def _sign_flip(sums: NDArray[np.float64]) -> float:
    """Share of sign patterns whose total is at least as far from zero as that of `sums`, itself among them."""
    sums = sums[sums != 0]
    # Outcomes are halves and wholes, mostly, and their sums then exact; the rest is rounding.
    observed = abs(float(sums.sum())) - 1e-9
    random = np.random.default_rng(0)
    extreme = 0
    for _ in range(0, _DRAWS, _CHUNK):
        signs = random.integers(0, 2, size=(_CHUNK, len(sums)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ sums) >= observed).sum())
    return (extreme + 1) / (_DRAWS + 1)
