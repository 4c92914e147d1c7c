"""Examples on disk, so that a data set may be larger than memory.

What training needs is a few arrays of numbers; the texts are not kept. Knows examples and arrays, not where examples
come from.
"""

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from reward_model.rendering import Rendered
from training.columns import ColumnWriter, Rows, RowsWriter, column
from training.examples import Comparison, Example
from training.lock import locked

_HEAD = np.dtype([("line", "<u8"), ("prompt", "V16"), ("prompt_tokens", "<u4")])
_COMPARISON = np.dtype([("chosen", "<u4"), ("rejected", "<u4"), ("margin", "<f8"), ("label", "<f8")])

#: Files of which a row belongs to an example, and those of which it belongs to a sequence; an empty row of `segments`
#: or `ratings` stands for none.
_BY_EXAMPLE = {"comparisons": _COMPARISON, "truncated": np.dtype("?"), "labels": np.dtype("u1")}
_BY_SEQUENCE = {"tokens": np.dtype("<u4"), "segments": np.dtype("u1"), "ratings": np.dtype("<f8")}
_HEADS = "heads"


class ExampleStore(Sequence[Example]):
    """Examples as they were written, without texts and what `Rendered` says of them. Can be pickled.

    Args:
        directory: what `write` filled; it must stay where it is.
        places: which of the examples; default: all.
    """

    def __init__(self, directory: Path, places: NDArray[np.int64] | None = None) -> None:
        self._directory = directory
        self._heads = column(directory / _HEADS, _HEAD)
        self._comparisons, self._truncated, self._labels = (
            Rows(directory / name, kind) for name, kind in _BY_EXAMPLE.items()
        )
        self._tokens, self._segments, self._ratings = (
            Rows(directory / name, kind) for name, kind in _BY_SEQUENCE.items()
        )
        self._places = np.arange(len(self._heads)) if places is None else places

    def __len__(self) -> int:
        """How many examples."""
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "ExampleStore": ...
    def __getitem__(self, index: int | slice) -> "Example | ExampleStore":
        """One example, or those of a slice."""
        if isinstance(index, slice):
            return ExampleStore(self._directory, self._places[index])
        place = int(self._places[index])
        head = self._heads[place]
        span = self._truncated.span(place)
        ratings = tuple(tuple(self._ratings[i].tolist()) for i in span)
        return Example(
            tuple(self._sequence(i) for i in span),
            tuple(
                Comparison(chosen, rejected, None if math.isnan(margin) else margin, label)
                for chosen, rejected, margin, label in self._comparisons[place].tolist()
            ),
            int(head["line"]),
            head["prompt"].tobytes(),
            ratings if any(ratings) else (),
            int(head["prompt_tokens"]),
            *json.loads(self._labels[place].tobytes()),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """By name: a worker opens the files itself."""
        return ExampleStore, (self._directory, self._places)

    def those(self, mask: NDArray[np.bool_]) -> "ExampleStore":
        """The examples for which `mask` [n] is true; nothing is copied."""
        return ExampleStore(self._directory, self._places[mask])

    def prompts(self) -> Iterator[bytes]:
        """What each example's prompt can be told by."""
        return (one.tobytes() for one in self._heads["prompt"][self._places])

    def count_comparisons(self) -> int:
        """Of all examples together."""
        return int((self._comparisons.ends[self._places] - self._comparisons.starts(self._places)).sum())

    def count_truncated(self) -> int:
        """How many examples had their prompt cut, which they have for all sequences or for none."""
        first = self._truncated.starts(self._places)
        return int(self._truncated.values[first].sum())

    def _sequence(self, i: int) -> Rendered:
        segments = self._segments[i].tolist() or None
        return Rendered(None, self._tokens[i].tolist(), segments, bool(self._truncated.values[i]))


def write(examples: Iterable[Example], directory: Path) -> ExampleStore:
    """Writes examples as they come and opens what was written.

    Args:
        examples: of any number; those with ratings have them for all sequences.
        directory: a new one.

    Raises:
        OSError: the disk is full.
    """
    directory.mkdir(parents=True)
    with ExitStack() as stack:
        heads = stack.enter_context(closing(ColumnWriter(directory / _HEADS, _HEAD)))
        rows = {
            name: stack.enter_context(closing(RowsWriter(directory / name, kind)))
            for name, kind in (_BY_EXAMPLE | _BY_SEQUENCE).items()
        }
        for one in examples:
            heads.extend([(one.line, one.prompt, one.prompt_tokens)])
            rows["comparisons"].append(
                [(c.chosen, c.rejected, math.nan if c.margin is None else c.margin, c.label) for c in one.comparisons]
            )
            rows["labels"].append(list(json.dumps([one.source, one.category]).encode()))
            rows["truncated"].append([sequence.truncated for sequence in one.sequences])
            for sequence in one.sequences:
                rows["tokens"].append(sequence.token_ids)
                rows["segments"].append(sequence.segment_ids or [])
            for ratings in one.ratings or [()] * len(one.sequences):
                rows["ratings"].append(list(ratings))
    return ExampleStore(directory)


@contextmanager
def kept_while_used(directory: Path) -> Iterator[Path]:
    """A directory that is removed at the end, however that comes; what an end by force left there is removed before.

    Raises:
        BlockingIOError: it is in use.
        OSError: nothing can be written beside it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(directory.with_name(f"{directory.name}.lock")))
        except BlockingIOError as error:
            msg = f"{directory} is in use by a run that has not ended: wait for it, or name another --output_dir"
            raise BlockingIOError(msg) from error
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)
        yield directory
