"""What one gains by taking the best of N responses by the model's rewards, where people have ranked them.

A response is worth the share of the others that people put below it (ties half), so that one drawn at random is worth
0.5. Knows verdicts, not drawings.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median_high

from training.report.verdicts import Verdict
from training.statistics import clustered_interval

#: In shorter ones there is nothing to draw from.
_LEAST = 3
#: What one response is worth is no estimate.
_AT_RANDOM = (0.5, 0.5)


@dataclass(frozen=True, slots=True)
class BestOf:
    """What is gained with each N up to the size that half of the rankings have.

    Attributes:
        rankings: how many have that many responses; all figures are over these.
        worth: of the model's best of 1, 2, ... N, as drawn at random from each ranking.
        intervals: 95 % of each, by prompt.
        ceiling: of the best of N by people's own ranking.
    """

    rankings: int
    worth: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    ceiling: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Ranking:
    prompt: Hashable
    rewards: tuple[float, ...]
    worth: tuple[float, ...]


def best_of(pairs: Sequence[Verdict]) -> BestOf | None:
    """From the pairs of rankings of three or more responses, all compared and scored; None where there are none."""
    groups = (tuple(members) for _, members in groupby(sorted(pairs, key=lambda one: one.line), lambda one: one.line))
    rankings = [found for members in groups if (found := _ranking(members))]
    if not rankings:
        return None
    most = median_high(len(one.rewards) for one in rankings)
    kept = [one for one in rankings if len(one.rewards) >= most]
    prompts = [one.prompt for one in kept]
    worth = [[_expected(one.rewards, one.worth, n) for one in kept] for n in range(1, most + 1)]
    ceiling = [[_expected(one.worth, one.worth, n) for one in kept] for n in range(1, most + 1)]
    return BestOf(
        len(kept),
        tuple(math.fsum(values) / len(kept) for values in worth),
        (_AT_RANDOM, *(clustered_interval(values, prompts) for values in worth[1:])),
        tuple(math.fsum(values) / len(kept) for values in ceiling),
    )


def _ranking(members: Sequence[Verdict]) -> _Ranking | None:
    responses = sorted({place for one in members for place in one.places})
    k = len(responses)
    if k < _LEAST or len(members) != k * (k - 1) // 2 or not all(one.rewards for one in members):
        return None
    rewards, worth = dict.fromkeys(responses, 0.0), dict.fromkeys(responses, 0.0)
    for one in members:
        assert one.rewards is not None
        rewards |= dict(zip(one.places, one.rewards, strict=True))
        for place, share in zip(one.places, (one.label, 1 - one.label), strict=True):
            worth[place] += share / (k - 1)
    return _Ranking(members[0].prompt, tuple(rewards.values()), tuple(worth.values()))


def _expected(by: Sequence[float], worth: Sequence[float], n: int) -> float:
    """Mean worth of the one that is greatest in `by` of `n` drawn without replacement; equal ones share it."""
    order = sorted(range(len(by)), key=lambda i: -by[i])
    draws = math.comb(len(by), n)
    total, above = 0.0, 0
    for _, tied in groupby(order, key=lambda i: by[i]):
        members = list(tied)
        below = len(by) - above - len(members)
        # Draws that hold one of these and none above.
        ways = math.comb(below + len(members), n) - math.comb(below, n)
        total += ways / draws * math.fsum(worth[i] for i in members) / len(members)
        above += len(members)
    return min(1.0, total)
