"""Rows that say again what a row before said, and pairs that say the opposite.

Repeats would count double, so they are left out; contradictions are what the noise of the
labels looks like, so they are kept and counted. A digest of 16 bytes for each pair is kept in memory, nothing else.
Knows pairs, not files.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from training.data import RowReport
from training.examples import prompt_digest
from training.pairs import DUPLICATE, BadRow, PreferencePair
from training.ratings import RatedResponse
from training.rowwise import by_row

#: Enough that among billions no two different ones have the same.
_DIGEST = 16
_REPEATED = "a row before says the same"
_CONTRADICTED = "a row before prefers the other one of these two responses"
_TIE = 0.5


class Repeats:
    """What has been seen of one data set.

    Args:
        report: where repeats and contradictions are counted.
        keep: count repeats only.
    """

    def __init__(self, report: RowReport, *, keep: bool) -> None:
        self._report = report
        self._keep = keep
        self._rows: set[bytes] = set()
        #: What cannot be told from `_rows`: who won in rankings, and in pairs with a margin or a soft label.
        self._preferences: set[bytes] = set()

    def of_pairs(self, pairs: Iterable[PreferencePair]) -> Iterator[PreferencePair]:
        """Passes on what is no repeat; a ranking is one as a whole or not at all."""
        for line, members in by_row(pairs):
            prompt = prompt_digest(members[0].prompt)
            said = sorted(_whole(prompt, pair) for pair in members)
            whole = said[0] if len(said) == 1 else _digest(prompt, *said)
            contradicts = self._contradicts(prompt, members)
            if self._passes(line, whole):
                if contradicts:
                    self._report.remark(line, "contradiction", _CONTRADICTED)
                self._preferences.update(_digest(prompt, p.chosen, p.rejected) for p in members if p.label != _TIE)
                self._preferences.discard(whole)
                yield from members

    def of_rated(self, rated: Iterable[RatedResponse]) -> Iterator[RatedResponse]:
        """Passes on what is no repeat: the same response to the same prompt with the same ratings."""
        for one in rated:
            if self._passes(one.line, _digest(prompt_digest(one.prompt), one.response, one.ratings)):
                yield one

    def _passes(self, line: int, said: bytes) -> bool:
        if said not in self._rows:
            self._rows.add(said)
            return True
        if self._keep:
            self._report.remark(line, DUPLICATE, _REPEATED)
        else:
            self._report.add(line, BadRow(DUPLICATE, _REPEATED))
        return self._keep

    def _contradicts(self, prompt: bytes, members: list[PreferencePair]) -> bool:
        opposite = [_digest(prompt, pair.rejected, pair.chosen) for pair in members if pair.label != _TIE]
        return any(one in self._rows or one in self._preferences for one in opposite)


def _whole(prompt: bytes, pair: PreferencePair) -> bytes:
    """All that a pair says; which response of a tie stands first says nothing."""
    sides = [pair.chosen, pair.rejected]
    if pair.label == _TIE and pair.margin is None:
        sides.sort()
    stated = () if pair.label == 1 and pair.margin is None else (pair.label, pair.margin)
    return _digest(prompt, *sides, *stated)


def _digest(prompt: bytes, *fields: Any) -> bytes:
    return blake2b(repr((prompt, *fields)).encode(), digest_size=_DIGEST).digest()
