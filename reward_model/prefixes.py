"""Which runs of tokens several sequences have in common, so that each is computed once.

A causal model's states of a token depend on nothing but the tokens up to it, so sequences that start alike share them.
Pure bookkeeping on integers: knows neither models nor tensors.
"""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

#: Tokens that are worth sharing: a shorter run costs more bookkeeping than it saves.
FEWEST = 16
_WIDTH = array("I").itemsize


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive tokens that are computed once, however many sequences go through them.

    Attributes:
        sequence: the first of the sequences, in their order, that goes through it; it holds the tokens.
        start, stop: which tokens of that sequence.
        parent: index of the run that comes before; None where a sequence begins.
    """

    sequence: int
    start: int
    stop: int
    parent: int | None


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs of some sequences, every run after its parent.

    Attributes:
        runs: equally long ones that end sequences stand side by side.
        ends: for each sequence the index of the run that holds its last token, at the run's end.
    """

    runs: tuple[Run, ...]
    ends: tuple[int, ...]

    def reused(self, lengths: Sequence[int]) -> list[int]:
        """For each sequence how many of its tokens were computed for one before it."""
        own = [0] * len(lengths)
        for run in self.runs:
            own[run.sequence] += run.stop - run.start
        return [length - computed for length, computed in zip(lengths, own, strict=True)]


def separate_runs(sequences: Sequence[Sequence[int]]) -> Runs:
    """Every sequence a run of its own."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    ends = [0] * len(sequences)
    for position, i in enumerate(order):
        ends[i] = position
    return Runs(tuple(Run(i, 0, len(sequences[i]), None) for i in order), tuple(ends))


def shared_runs(sequences: Sequence[Sequence[int]]) -> Runs:
    """Runs in which common prefixes of `FEWEST` or more tokens appear once: a tree, depth first.

    Args:
        sequences: token ids, each one or more.
    """
    return _Tree(sequences).grow()


def in_order(sequences: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Sequences sorted so that those that start alike are neighbours.

    Returns:
        Their indices; and for each, in that order, how many leading tokens it has in common with the one before it, 0
        where they are too few to be shared.
    """
    keys = [_key(sequence) for sequence in sequences]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    common = [0, *(_common(keys[a], keys[b]) for a, b in pairwise(order))]
    return order, [one if one >= FEWEST else 0 for one in common]


#: Neighbours [low, high) in sorted order that agree up to a depth, which run `parent` reaches.
_Group = tuple[int, int, int, int | None]


class _Tree:
    """Grows from sequences in sorted order, where those that start alike are neighbours."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self._lengths = [len(sequence) for sequence in sequences]
        keys = [_key(sequence) for sequence in sequences]
        self._order = sorted(range(len(keys)), key=keys.__getitem__)
        #: Common with the one before, in sorted order.
        self._common = [0, *(_common(keys[a], keys[b]) for a, b in pairwise(self._order))]
        self._runs: list[Run] = []
        self._ends = [0] * len(sequences)

    def grow(self) -> Runs:
        """All runs."""
        # Groups of sorted neighbours that agree up to a depth; a stack, for prefixes can be nested deeply.
        waiting: list[_Group] = [(0, len(self._order), 0, None)]
        while waiting:
            waiting += reversed(self._branches(*waiting.pop()))
        return Runs(tuple(self._runs), tuple(self._ends))

    def _branches(self, low: int, high: int, depth: int, parent: int | None) -> list[_Group]:
        """Adds what the group has in common and what ends here, returns the groups that go on."""
        members = self._order[low:high]
        common = min(self._common[low + 1 : high], default=0)
        if common - depth >= FEWEST:
            parent = self._add(min(members), depth, common, parent)
            depth = common
        bounds = [low, *(i for i in range(low + 1, high) if self._common[i] - depth < FEWEST), high]
        children = list(pairwise(bounds))
        single = [self._order[a] for a, b in children if b == a + 1]
        for i in sorted(single, key=self._lengths.__getitem__):
            if parent is not None and self._lengths[i] == depth:
                self._ends[i] = parent
            else:
                self._ends[i] = self._add(i, depth, self._lengths[i], parent)
        return [(a, b, depth, parent) for a, b in children if b > a + 1]

    def _add(self, sequence: int, start: int, stop: int, parent: int | None) -> int:
        self._runs.append(Run(sequence, start, stop, parent))
        return len(self._runs) - 1


class PrefixMeter:
    """What each further sequence adds to those before it, by the rules of `shared_runs`.

    An estimate: a sequence that shares with two others at different depths may be cut differently in the end.
    """

    def __init__(self) -> None:
        self._keys: list[bytes] = []

    def add(self, sequence: Sequence[int], limit: int = sys.maxsize) -> int:
        """Tokens of `sequence` that are not shared with one before it; 0 if it is identical to one.

        Where they are more than `limit`, the sequence is not added.
        """
        key = _key(sequence)
        place = bisect_left(self._keys, key)
        # In sorted order the one that has most in common stands on either side.
        neighbours = self._keys[max(0, place - 1) : place + 1]
        if key in neighbours:
            return 0
        common = max((_common(key, other) for other in neighbours if _alike(key, other)), default=0)
        added = len(sequence) - common
        if added <= limit:
            self._keys.insert(place, key)
        return added


def _key(sequence: Sequence[int]) -> bytes:
    """Bytes that sort equal prefixes side by side, and compare far faster than lists."""
    return array("I", sequence).tobytes()


def _alike(a: bytes, b: bytes) -> bool:
    """Whether two keys have enough tokens in common to be worth sharing."""
    size = FEWEST * _WIDTH
    return len(a) >= size and a[:size] == b[:size]


def _common(a: bytes, b: bytes) -> int:
    """How many leading tokens two keys have in common."""
    low, high = 0, min(len(a), len(b)) // _WIDTH
    while low < high:
        middle = (low + high + 1) // 2
        if a[low * _WIDTH : middle * _WIDTH] == b[low * _WIDTH : middle * _WIDTH]:
            low = middle
        else:
            high = middle - 1
    return low
