"""What a row gave rise to, put together again: a ranking is many pairs, and is used as a whole or not at all.

Knows line numbers, nothing else.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Protocol, TypeVar

from reward_model.records import Prompt


class FromRow(Protocol):
    """A pair or a rated response."""

    @property
    def line(self) -> int:
        """Where its row stands in its file, counted from 1."""

    @property
    def prompt(self) -> Prompt:
        """The turns before the response."""


R = TypeVar("R", bound=FromRow)


def by_row(members: Iterable[R]) -> Iterator[tuple[int, list[R]]]:
    """Line by line."""
    for line, run in groupby(members, key=lambda one: one.line):
        yield line, list(run)
