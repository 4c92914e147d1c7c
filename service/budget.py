"""How many tokens a batch may have: as many as intended, and fewer for a while after memory ran out.

Memory runs out for reasons that pass (another process on the device, fragments, an unlucky mix of lengths). Trying
the full size again with every batch would compute everything twice. Knows tokens and time, not batches.
"""

import logging
import time

from service.metrics import Metrics

#: Seconds without shortage after which a batch may have twice as much again.
RECOVERY_SECONDS = 30.0
#: Part of the full size below which smaller batches free next to no memory, and only take longer.
LEAST = 1 / 16

log = logging.getLogger(__name__)


class BatchBudget:
    """Halved when memory runs out, doubled step by step when it does not. Written by one thread, read by any.

    Args:
        full: tokens of a batch when nothing is wrong.
        metrics: is told of every change.
    """

    def __init__(self, full: int, metrics: Metrics) -> None:
        self._full = full
        self._tokens = full
        self._metrics = metrics
        self._grows_at = 0.0
        metrics.observe_batch_budget(full)

    @property
    def tokens(self) -> int:
        """Tokens that inputs may add to one batch."""
        return self._tokens

    def recover(self) -> None:
        """Grows where it is time to; called before a batch is made."""
        while self._tokens < self._full and time.monotonic() >= self._grows_at:
            self._grows_at += RECOVERY_SECONDS
            self._set(min(self._full, 2 * self._tokens))

    def ran_out(self, tokens: int) -> None:
        """A batch of `tokens` was too much, while its parts were not.

        Batches that were launched before the first of them failed fail as well, and all together they halve once.
        """
        self._grows_at = time.monotonic() + RECOVERY_SECONDS
        halved = max(1, int(LEAST * self._full), tokens // 2)
        if halved < self._tokens:
            self._set(halved)
            log.warning("out of memory: batches have up to %d tokens for now", halved)

    def _set(self, tokens: int) -> None:
        self._tokens = tokens
        self._metrics.observe_batch_budget(tokens)
