"""How fast the model has been of late, and so how long what waits will take.

Knows tokens and seconds, not what they were spent on.
"""

import math

#: Longest that a caller is told to stay away.
MAX_RETRY_AFTER = 60
#: Seconds of work after which a batch weighs a third of what it did: over so many of them their differences even out.
MEMORY_SECONDS = 5.0


class Speed:
    """Estimate of tokens a second; recent batches weigh most. Written by one thread, read by another."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0
        self._estimate: float | None = None

    def add(self, tokens: int, seconds: float) -> None:
        """Takes in one batch."""
        kept = math.exp(-seconds / MEMORY_SECONDS)
        self._tokens = kept * self._tokens + tokens
        self._seconds = kept * self._seconds + seconds
        self._estimate = self._tokens / max(self._seconds, 1e-9)

    def tokens_in(self, seconds: float) -> float:
        """How many tokens `seconds` are enough for; infinitely many where nothing is known yet."""
        return math.inf if self._estimate is None else self._estimate * max(0.0, seconds)

    def seconds_for(self, tokens: int) -> int:
        """How long `tokens` take, in whole seconds; at least one, also where nothing is known yet."""
        if self._estimate is None:
            return 1
        return max(1, min(MAX_RETRY_AFTER, math.ceil(tokens / self._estimate)))
