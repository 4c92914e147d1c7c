"""The score of RewardBench 2's `Ties`: right answers above all wrong ones, and closer to each other than to these.

Each matter is asked for twice, once with one right answer (`ref`) and once with several (`tied`). Source: Malik et al.
2025 (arXiv 2506.01937) and `process_single_model` in github.com/allenai/reward-bench, rewardbench/utils.py. Knows
numbers only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from training.benchmarks.items import Scores
from training.statistics import Accuracy, clustered_interval

#: The least and the most that the score can be: the last term may be negative, and the weights sum to 1.01.
_LEAST, _MOST = -0.01, 1.01


@dataclass(frozen=True, slots=True)
class Margins:
    """What counts of the scores of one prompt.

    Attributes:
        gap: worst right minus best wrong answer.
        spread: best minus worst right answer.
    """

    gap: float
    spread: float

    @classmethod
    def of(cls, scores: Scores, right: int) -> "Margins":
        """Of scores, the first `right` of which are those of right answers."""
        worst = min(scores[:right])
        return cls(worst - max(scores[right:]), max(scores[:right]) - worst)

    @property
    def accurate(self) -> bool:
        """Whether every right answer scores higher than every wrong one."""
        return self.gap > 0


@dataclass(frozen=True, slots=True)
class TiesTerms:
    """The five terms; all but the accuracies over matters with both prompts.

    Attributes:
        tied_accuracy, ref_accuracy: share of accurate prompts.
        preferred: share of matters whose gap, where answers are tied, exceeds the spread of the right ones.
        preferred_hard: the same for the smaller of the gaps of both prompts.
        margin: mean of tanh(smaller gap / spread - 1).
        unpaired: prompts without their counterpart.
    """

    tied_accuracy: float
    ref_accuracy: float
    preferred: float
    preferred_hard: float
    margin: float
    unpaired: int

    @property
    def score(self) -> float:
        """The terms with their weights."""
        accuracies = 0.30 * self.tied_accuracy + 0.30 * self.ref_accuracy
        return accuracies + 0.20 * self.preferred + 0.20 * self.preferred_hard + 0.01 * self.margin


@dataclass(frozen=True, slots=True)
class TiesScore:
    """The score of the subset, within [-0.01, 1.01], with its interval by matter; and its terms."""

    score: Accuracy
    terms: TiesTerms


def ties_score(ref: Mapping[int, Margins], tied: Mapping[int, Margins]) -> TiesScore | None:
    """The score; None where no matter has both prompts.

    Args:
        ref, tied: by matter.
    """
    both = sorted(ref.keys() & tied.keys())
    if not both:
        return None
    terms = _terms(ref, tied, both)
    # Each matter's own score: where all have both prompts, the score is the mean of these.
    own = [_terms({one: ref[one]}, {one: tied[one]}, [one]).score for one in both]
    interval = (0.0, 1.0)
    if not terms.unpaired:
        width = _MOST - _LEAST
        low, high = clustered_interval([(score - _LEAST) / width for score in own], both)
        interval = (_LEAST + low * width, _LEAST + high * width)
    return TiesScore(Accuracy(len(ref) + len(tied), terms.score, interval), terms)


def _terms(ref: Mapping[int, Margins], tied: Mapping[int, Margins], both: list[int]) -> TiesTerms:
    smaller = {one: min(ref[one].gap, tied[one].gap) for one in both}
    return TiesTerms(
        tied_accuracy=fmean(one.accurate for one in tied.values()),
        ref_accuracy=fmean(one.accurate for one in ref.values()),
        preferred=fmean(tied[one].gap > tied[one].spread for one in both),
        preferred_hard=fmean(smaller[one] > tied[one].spread for one in both),
        margin=fmean(_margin(smaller[one], tied[one].spread) for one in both),
        unpaired=len(ref) + len(tied) - 2 * len(both),
    )


def _margin(gap: float, spread: float) -> float:
    """Without any spread it is the sign of the gap, the limit for ever smaller ones."""
    if spread == 0:
        return math.copysign(1.0, gap) if gap else 0.0
    return math.tanh(gap / spread - 1)
