"""How much of two runs of tokens is the same. Knows numbers, not where they come from."""

from collections.abc import Sequence

#: Two responses are near-identical if the beginning and the end that they have in common cover this much of the longer
#: one, and it is at least so many tokens long: of shorter ones a single word is a large part.
NEARLY = 0.95
FEWEST = 20


def common_beginning(a: Sequence[object], b: Sequence[object]) -> int:
    """With how many of the same things both begin."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)


def near_identical(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether two responses, as tokens, differ in one short place only."""
    shorter, longer = sorted((len(a), len(b)))
    if longer < FEWEST:
        return False
    beginning = common_beginning(a, b)
    ending = common_beginning(a[::-1], b[::-1])
    return min(beginning + ending, shorter) >= NEARLY * longer
