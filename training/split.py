"""Which examples are held out: whole prompts, so that none stands on both sides.

Knows examples, not files.
"""

from collections.abc import Iterable
from hashlib import blake2b


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
    drawn = sorted(set(prompts), key=lambda prompt: blake2b(prompt, salt=seed.to_bytes(16, "little")).digest())
    wanted = max(1, round(fraction * len(drawn))) if fraction > 0 else 0
    return set(drawn[: min(wanted, len(drawn) - 1)])
