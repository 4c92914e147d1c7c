"""How far the scores of late have moved away from those the checkpoint was validated on.

Counts only; knows neither metrics nor models.
"""

import math
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence

#: Scores that are looked back on.
WINDOW = 4096
#: Chance alone moves the index by about 9 / n: with fewer scores than this it says nothing.
MIN_SCORES = 256


class ScoreDrift:
    """Population stability index of the latest scores over ten reference bins. Safe to use from any thread.

    Args:
        deciles: the nine inner edges of ten bins that each hold a tenth of the reference.
        window: how many scores are looked back on.
    """

    def __init__(self, deciles: Sequence[float], window: int = WINDOW) -> None:
        self._edges = tuple(deciles)
        self._recent: deque[int] = deque(maxlen=window)
        self._counts = [0] * (len(self._edges) + 1)
        self._lock = threading.Lock()

    def add(self, scores: Iterable[float]) -> None:
        """Takes in finite scores; the oldest beyond the window are forgotten."""
        bins = [bisect_right(self._edges, score) for score in scores]
        with self._lock:
            for index in bins:
                if len(self._recent) == self._recent.maxlen:
                    self._counts[self._recent[0]] -= 1
                self._recent.append(index)
                self._counts[index] += 1

    def index(self) -> float:
        """Sum over the bins of (seen - expected) * ln(seen / expected), in shares; NaN below MIN_SCORES.

        By custom, below 0.1 is no shift and above 0.25 a large one. Half a score is added to each bin, so
        that an empty one keeps the index finite.
        """
        with self._lock:
            counts = list(self._counts)
        total = sum(counts)
        if total < MIN_SCORES:
            return math.nan
        expected = 1 / len(counts)
        seen = [(count + 0.5) / (total + 0.5 * len(counts)) for count in counts]
        return math.fsum((share - expected) * math.log(share / expected) for share in seen)
