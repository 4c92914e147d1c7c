"""Who attends to whom in a packed row: for every run of queries, the ranges of keys they may see.

Made once for a batch, on the host, and handed through the model to its attention. Knows neither kernels nor models.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice, pairwise
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from reward_model.packing import PackedBatch, to_device
from reward_model.sizes import round_up

Made = TypeVar("Made")
#: Rows [start, stop).
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Span:
    """Queries that see the same keys, but for causality and windows.

    Attributes:
        start, stop: the queries' rows.
        keys: the keys' rows, in the order of their positions, which count from 0.
        position: of the first query, among the keys.
    """

    start: int
    stop: int
    keys: tuple[Range, ...]
    position: int

    @property
    def queries(self) -> int:
        """How many."""
        return self.stop - self.start

    @property
    def num_keys(self) -> int:
        """How many."""
        return sum(stop - start for start, stop in self.keys)

    @property
    def alone(self) -> bool:
        """The queries see themselves and nothing else, as where a sequence is one run."""
        return self.keys == ((self.start, self.stop),)

    @property
    def itself(self) -> "Span":
        """The same queries, as if nothing came before them."""
        return Span(self.start, self.stop, ((self.start, self.stop),), 0)

    def part(self, first: int, last: int, window: int | None, *, causal: bool) -> "Span":
        """Queries [first, last), with no keys but those that one of them sees."""
        position = self.position + first
        low = 0 if window is None else max(0, position - window + 1)
        high = self.position + last if causal else self.num_keys
        if window is not None:
            high = min(high, self.position + last - 1 + window)
        keys = tuple(_between(self.keys, low, high))
        return Span(self.start + first, self.start + last, keys, position - low)

    def keys_within(self, whole: "Span") -> Iterator[tuple[Range, Range]]:
        """The keys' rows, each with the rows of `whole`, of which this is a part, that they are among."""
        for start, stop in self.keys:
            yield (start, stop), next(run for run in whole.keys if run[0] <= start and stop <= run[1])

    def moved(self, rows: int) -> "Span":
        """The same further down, for a span that is alone."""
        start, stop = self.start + rows, self.stop + rows
        return Span(start, stop, ((start, stop),), self.position)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """All spans of a row of queries.

    Attributes:
        spans: every query is in one of them, in the order of rows, but for some at the end that nobody asks for.
        tokens: how many queries there are.
        states: keys and values, each [1, heads, T, head_size], where they are not those of the queries' own row.
        read: the layout of only those queries whose last hidden state somebody reads, and on a CPU of a few more (see
            `sizes`); None where all are needed.
        rows: [n] int64, the rows that `read` is about, or that the queries stand for; all different.
    """

    spans: tuple[Span, ...]
    tokens: int = 0
    states: tuple[Tensor, Tensor] | None = None
    read: "Layout | None" = None
    rows: Tensor | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: PackedBatch, rows: Sequence[int] | None = None, *, causal: bool = False) -> Self:
        """The layout of a packed batch.

        Args:
            batch: its bounds, parents and ends are read on the host.
            rows: for each sequence the row that is read; None: all are.
            causal: nobody sees later rows, so that those behind one that is read can be left out.
        """
        spans = tuple(_spans(batch))
        tokens = len(batch.input_ids)
        if rows is None:
            return cls(spans, tokens)
        ends = [spans[run] for run in batch.ends.tolist()]
        # Each row once: were one written back twice, each copy would get the gradients of both.
        wanted = dict(zip(rows, ends, strict=True))
        if batch.input_ids.device.type == "cpu":
            others = ((row, span) for span in spans for row in range(span.start, span.stop) if row not in wanted)
            wanted |= dict(islice(others, round_up(len(wanted)) - len(wanted)))
        read = tuple(_reading(i, row, end) for i, (row, end) in enumerate(wanted.items()))
        if causal:
            read = tuple(span.part(0, 1, None, causal=True) for span in read)
        return cls(
            spans, tokens, read=cls(read, len(read)), rows=to_device(torch.tensor(list(wanted)), batch.input_ids.device)
        )

    @property
    def aligned(self) -> bool:
        """Every query stands for one of the last of its keys."""
        return all(span.position + span.queries == span.num_keys for span in self.spans)

    def with_states(self, key: Tensor, value: Tensor, rows: Tensor) -> "Layout":
        """The same queries, which stand for `rows` of those that `key` and `value` are the states of."""
        return replace(self, states=(key, value), rows=rows)

    def groups(self) -> tuple[tuple[Span, int], ...]:
        """The spans in their order; neighbours that are alone and equally long as one, with how many they are."""
        return self.made(("groups", self.states is None), lambda: tuple(self._groups()))

    def _groups(self) -> Iterator[tuple[Span, int]]:
        if self.states is not None:
            yield from ((span, 1) for span in self.spans)
            return
        for _, run in groupby(self.spans, key=lambda span: span.queries if span.alone else span):
            members = list(run)
            yield members[0], len(members)

    def mask(self, span: Span, window: int | None, like: Tensor, *, causal: bool) -> Tensor | None:
        """[queries, num_keys], minus infinity where a query may not look, else 0; None where it may look everywhere.

        It has device and dtype of `like`. Adding it to the logits is several times faster than filling them in.
        """
        n, keys, position = span.queries, span.num_keys, span.position
        furthest = max(position + n - 1, 0 if causal else keys - 1 - position)
        if not (causal and position < keys - 1) and (window is None or furthest < window):
            return None
        name = (n, keys, position, window, causal)
        return self.made(name, lambda: _mask(n, keys, position, window, like, causal=causal))

    def made(self, name: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` returns; made once for all layers."""
        if name not in self._made:
            self._made[name] = make()
        made: Made = self._made[name]
        return made


def _spans(batch: PackedBatch) -> Iterator[Span]:
    bounds = list(pairwise(batch.cu_seqlens.tolist()))
    parents = [-1] * len(bounds) if batch.parents is None else batch.parents.tolist()
    seen: list[tuple[Range, ...]] = []
    for own, parent in zip(bounds, parents, strict=True):
        before: tuple[Range, ...] = () if parent < 0 else seen[parent]
        # The first run after its parent stands right behind it in the row: one range.
        adjoins = bool(before) and before[-1][1] == own[0]
        seen.append((*before[:-1], (before[-1][0], own[1])) if adjoins else (*before, own))
        yield Span(*own, seen[-1], position=sum(stop - start for start, stop in before))


def _between(ranges: Sequence[Range], low: int, high: int) -> Iterator[Range]:
    """What is left of `ranges` if only their rows [low, high), counted through, stay."""
    passed = 0
    for start, stop in ranges:
        first, last = start + max(0, low - passed), min(stop, start + high - passed)
        passed += stop - start
        if first < last:
            yield first, last


def _reading(index: int, row: int, end: Span) -> Span:
    """The span of one query, `index`, that stands for `row`: one of the rows that `end` sees."""
    position = 0
    for start, stop in end.keys:
        if start <= row < stop:
            return Span(index, index + 1, end.keys, position + row - start)
        position += stop - start
    msg = f"row {row} is not among the rows of its sequence"
    raise AssertionError(msg)


def _mask(queries: int, keys: int, position: int, window: int | None, like: Tensor, *, causal: bool) -> Tensor:
    seen = torch.ones(queries, keys, dtype=torch.bool, device=like.device)
    if causal or window is not None:
        seen.tril_(position if causal or window is None else position + window - 1)
    if window is not None:
        seen.triu_(position - window + 1)
    return like.new_zeros(queries, keys).masked_fill_(seen.logical_not_(), -torch.inf)
