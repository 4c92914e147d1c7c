"""How many tokens an input adds to a batch that holds others: what a batch costs while it is being filled.

Cheap, since it is asked for every input that waits. Knows inputs, neither models nor queues.
"""

import sys
from typing import Protocol

from reward_model.prefixes import PrefixMeter
from reward_model.rendering import Rendered

#: What tells one input from another: its token ids and its segment ids.
Identity = tuple[tuple[int, ...], tuple[int, ...]]


def identity(one: Rendered) -> Identity:
    """The same for inputs that are computed as one."""
    return tuple(one.token_ids), tuple(one.segment_ids or ())


class Meter(Protocol):
    """The inputs of one batch, and what each adds to those before it."""

    def add(self, one: Rendered, limit: int = sys.maxsize) -> int:
        """Tokens that have to be computed for `one` on top of the batch.

        Where they are more than `limit`, the input is not added and the meter stays as it was.

        Returns:
            0 to the input's length; an estimate where prefixes are shared, see `PrefixMeter`.
        """
        ...


class RepeatMeter:
    """For a model that computes identical inputs once, and shares nothing else."""

    def __init__(self) -> None:
        self._seen: set[Identity] = set()

    def add(self, one: Rendered, limit: int = sys.maxsize) -> int:
        """See `Meter`."""
        key = identity(one)
        if key in self._seen:
            return 0
        if len(one.token_ids) <= limit:
            self._seen.add(key)
        return len(one.token_ids)


class SharingMeter:
    """For a causal model, which computes prefixes that inputs have in common once."""

    def __init__(self) -> None:
        self._prefixes = PrefixMeter()

    def add(self, one: Rendered, limit: int = sys.maxsize) -> int:
        """See `Meter`."""
        return self._prefixes.add(one.token_ids, limit)
