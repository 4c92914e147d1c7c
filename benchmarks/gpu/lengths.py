"""How long sequences are, and token ids for them: what matters for speed is lengths and what begins alike.

Knows numbers, not models.
"""

import math
import random
from collections.abc import Sequence

#: Median and spread of the logarithm of HH-RLHF's lengths (157 tokens on average), cut off at a model's 512.
_MEDIAN, _SPREAD, _MOST = 130.0, 0.65, 512


def like_hh(count: int, *, seed: int = 0) -> list[int]:
    """Mixed lengths as in HH-RLHF: log-normal, 157 tokens on average."""
    chance = random.Random(seed)
    return [min(_MOST, max(8, round(chance.lognormvariate(math.log(_MEDIAN), _SPREAD)))) for _ in range(count)]


def sequences(lengths: Sequence[int], *, vocabulary: int, seed: int = 0) -> list[list[int]]:
    """Random ids; 0, which is padding, is not among them."""
    chance = random.Random(seed)
    return [[chance.randrange(1, vocabulary) for _ in range(length)] for length in lengths]


def responses(prompt: int, response: int, count: int, *, vocabulary: int, seed: int = 0) -> list[list[int]]:
    """`count` sequences that begin with the same `prompt` tokens."""
    (shared,) = sequences([prompt], vocabulary=vocabulary, seed=seed)
    return [shared + own for own in sequences([response] * count, vocabulary=vocabulary, seed=seed + 1)]
