"""Which examples are held out: whole prompts, so that none stands on both sides.

Knows examples, not files.
"""

from collections.abc import Iterable
from hashlib import blake2b
from heapq import nsmallest


def held_out_prompts(prompts: Iterable[bytes], fraction: float, *, seed: int = 0) -> set[bytes]:
    """Draws a share of the prompts.

    Which are drawn depends on them and on `seed` alone, not on their order. A fraction above zero draws at least one
    and leaves at least one.

    Args:
        prompts: digests, each any number of times.
        fraction: share of the different ones to draw, within [0, 1).
        seed: another one draws others.

    Returns:
        Those drawn; none where `fraction` is 0 or there is one prompt only.
    """
    different = set(prompts)
    wanted = max(1, round(fraction * len(different))) if fraction > 0 else 0
    # Not sorted as a whole: there may be millions.
    salt = seed.to_bytes(16, "little")
    return set(nsmallest(min(wanted, len(different) - 1), different, lambda one: blake2b(one, salt=salt).digest()))
