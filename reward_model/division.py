"""Dividing a batch into parts that a CPU's lanes compute at the same time; see `lanes`.

Knows tokens and how many lanes there are, not what they do.
"""

import heapq
from collections.abc import Sequence
from itertools import accumulate, pairwise

from reward_model import lanes
from reward_model.prefixes import in_order

#: What sharing every operation leaves of the cores: two were 1.5 times one (a sequence of 260 tokens, MiniLM size).
SHARED = 0.75
#: Tokens below which a batch is not divided: each lane goes through the whole model, and Python lets one go at a time.
#: Measured at MiniLM size on two cores, divided against shared: 0.8 to 1.1 at 768 tokens, 1.0 to 1.3 at 2,048.
FEWEST_TOKENS = 1024
#: How far from equal parts a row may be cut, in shares of a part.
NEAR = 0.2


def parts(sequences: Sequence[Sequence[int]], *, shares_prefixes: bool) -> list[list[int]]:
    """Divides a batch into parts for all lanes; into one where that is faster.

    Args:
        sequences: token ids.
        shares_prefixes: whether what several of them begin with is computed once in each part.

    Returns:
        Indices of `sequences`; where prefixes are shared, in their order.
    """
    number = lanes.count()
    lengths = [len(sequence) for sequence in sequences]
    if number == 1 or len(sequences) < number or sum(lengths) < FEWEST_TOKENS:
        return [list(range(len(sequences)))]
    if not shares_prefixes:
        return divide(lengths, number)
    order, common = in_order(sequences)
    own = [lengths[i] - shared for i, shared in zip(order, common, strict=True)]
    return [sorted(order[i] for i in part) for part in cut(own, common, number)]


def divide(sizes: Sequence[int], number: int) -> list[list[int]]:
    """Divides work among so many lanes; all in one part where that would leave too many idle for too long.

    Args:
        sizes: of each piece of work, which is never divided.

    Returns:
        Indices of `sizes`, the largest pieces of each part first.
    """
    everything = list(range(len(sizes)))
    divided: list[list[int]] = [[] for _ in range(number)]
    loads = [(0, lane) for lane in range(number)]
    # The largest first, each to the part that has least (Graham 1969, doi:10.1137/0117039).
    for i in sorted(everything, key=sizes.__getitem__, reverse=True):
        load, lane = loads[0]
        divided[lane].append(i)
        heapq.heapreplace(loads, (load + sizes[i], lane))
    if max(load for load, _ in loads) * SHARED * number > sum(sizes):
        return [everything]
    return divided


def cut(own: Sequence[int], common: Sequence[int], number: int) -> list[range]:
    """Divides a row of work among so many lanes where neighbours share some of it, which a cut between them does twice.

    Args:
        own: of each piece, what it does not share with the one before it.
        common: of each piece, what it shares with the one before it.

    Returns:
        Consecutive parts of the row; all in one where cuts would cost more than they bring.
    """
    total, ends = sum(own), list(accumulate(own))
    bounds = [0]
    for lane in range(1, number):
        middle = total * lane / number
        near = [i for i in range(bounds[-1] + 1, len(own)) if abs(ends[i - 1] - middle) <= NEAR * total / number]
        if not near:
            return [range(len(own))]
        bounds.append(min(near, key=lambda i: (common[i], abs(ends[i - 1] - middle))))
    ranges = [range(a, b) for a, b in pairwise([*bounds, len(own)])]
    if max(common[one[0]] + sum(own[i] for i in one) for one in ranges) * SHARED * number > total:
        return [range(len(own))]
    return ranges
