"""What a response gets for its length alone, taken off its reward (Huang et al. 2024, arXiv 2409.17407).

A curve of few knots, fitted offline. Pure Python: knows neither models nor how the curve was found.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from reward_model.errors import NotRenderable

#: What a response's length is counted in: Unicode code points, before any tokenizer.
Unit = Literal["characters"]


@dataclass(frozen=True, slots=True)
class LengthCalibration:
    """How much of a raw reward is owed to the length of the response.

    Linear between the knots. Beyond them flat: of lengths that hardly occurred nothing is known, and a slope carried
    on would pay a policy without bound for going there.

    Attributes:
        lengths: of the knots, one or more, ascending.
        biases: at these lengths, in units of the reward; their mean over the responses of the fit is 0, so that
            rewards keep their level.
        unit: what lengths are counted in.
    """

    lengths: tuple[float, ...]
    biases: tuple[float, ...]
    unit: Unit = "characters"

    def __post_init__(self) -> None:
        """Raises ValueError for what is no curve."""
        ascending = all(a < b for a, b in pairwise(self.lengths))
        finite = all(map(math.isfinite, (*self.lengths, *self.biases)))
        if not (0 < len(self.lengths) == len(self.biases) and ascending and finite):
            msg = f"not a curve over lengths: {self.lengths} -> {self.biases}"
            raise ValueError(msg)
        if self.unit not in get_args(Unit):
            msg = f"lengths are counted in {self.unit!r}, which is not known"
            raise ValueError(msg)

    def bias(self, length: int | None) -> float:
        """What is to be taken off the raw reward of a response of `length`.

        Raises:
            NotRenderable: the length is not known.
        """
        if length is None:
            raise NotRenderable(_NO_LENGTH)
        after = bisect_right(self.lengths, length)
        if after in {0, len(self.lengths)}:
            return self.biases[0 if after == 0 else -1]
        low, high = self.lengths[after - 1 : after + 1]
        share = (length - low) / (high - low)
        return (1 - share) * self.biases[after - 1] + share * self.biases[after]


_NO_LENGTH = (
    "rewards of this checkpoint are calibrated by the length of the response, which `text` and `token_ids` do not tell:"
    " send `prompt` and `response`, or `messages`"
)
