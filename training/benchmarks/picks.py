"""What a ranking picks from n of N candidates, exactly: the mean over all N choose n subsets.

Sorted by score, the candidate at place j (from 1) is the highest of C(j - 1, n - 1) of the C(N, n) subsets; a
candidate that shares its score with others is picked as often as each of them. This is the unbiased estimator of
best-of-n over independent draws (Nakano et al. 2021, arXiv 2112.09332, Appendix I), here with ties. Knows numbers only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from training.statistics import Floats

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Picks:
    """The pick from n candidates, for n = 1, 2, ...

    Attributes:
        quality: its expected quality.
        best: how often none of the n is better.
    """

    quality: tuple[float, ...]
    best: tuple[float, ...]

    @classmethod
    def of(cls, scores: Sequence[float], quality: Sequence[float], most: int) -> "Picks":
        """The picks by `scores` of candidates that have a `quality`.

        A candidate with b others below it in score and t others beside it is picked from
        (C(b + t + 1, n) - C(b, n)) / (t + 1) subsets: those with their highest in its group, shared evenly. Counting
        among b and t only those that are no better than it leaves the subsets of which it is the best.

        Args:
            scores, quality: one for each of the N candidates.
            most: the greatest n, at most N.
        """
        by, gold = np.asarray(scores, dtype=np.float64), np.asarray(quality, dtype=np.float64)
        lower, same = by[None, :] < by[:, None], by[None, :] == by[:, None]
        no_better = gold[None, :] <= gold[:, None]
        share = _subsets(len(by))[:, 1 : most + 1]
        picked, picked_as_best = (
            _picked(lower & among, same & among, share) for among in (np.ones_like(same), no_better)
        )
        # Rounded, so that what is certain is exactly 1.
        return cls(tuple((gold @ picked).tolist()), tuple(picked_as_best.sum(axis=0).round(12).tolist()))


def _picked(lower: Flags, same: Flags, share: Floats) -> Floats:
    """How often each candidate is picked: [N, n]. `same` holds each candidate itself too."""
    below, beside = lower.sum(axis=1), same.sum(axis=1)
    picked: Floats = (share[below + beside] - share[below]) / beside[:, None]
    return picked


@lru_cache(maxsize=64)
def _subsets(size: int) -> Floats:
    """C(m, n) / C(size, n) for m and n from 0 to size: the share of subsets of n that lie within m of `size`."""
    m, n = np.arange(size + 1)[:, None], np.arange(size)[None, :]
    factors = np.clip((m - n) / (size - n), 0, None)
    return np.concatenate([np.ones((size + 1, 1)), np.cumprod(factors, axis=1)], axis=1)
