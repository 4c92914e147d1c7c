"""The items of a benchmark: prompts with candidate responses, read from a data set as a whole or not at all.

Knows rows and files, neither what a benchmark makes of scores nor models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, Protocol, TypeVar

from reward_model.records import Prompt
from training.data import RowReport
from training.fingerprint import Fingerprint
from training.pairs import MALFORMED, BadRow, check_renderable, columns_of, response_of
from training.rows import DataError, read_rows

#: One number for each candidate of an item.
Scores = Sequence[float]


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and its candidates; what a benchmark knows of them is in its own subclass.

    Attributes:
        prompt: the turns before the response.
        responses: the candidates, one or more. Two may be the same text: the public sets have such items.
        line: where it stands in its file, counted from 1.
    """

    prompt: Prompt
    responses: tuple[str, ...]
    line: int


ItemT = TypeVar("ItemT", bound=Item)


class Result(Protocol):
    """What a benchmark makes of scores."""

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON document."""

    def table(self) -> str:
        """The result as plain text."""


@dataclass(frozen=True, slots=True)
class Benchmark(Generic[ItemT]):
    """A benchmark's rules.

    Attributes:
        name: what the command calls it.
        to_item: an item from a row and its line; raises BadRow.
        result: what the items' scores come to.
        check: raises BadRow for items that are good each for itself but not together.
    """

    name: str
    to_item: Callable[[Mapping[str, Any], int], ItemT]
    result: Callable[[Sequence[ItemT], Sequence[Scores]], Result]
    check: Callable[[Sequence[ItemT]], None] = lambda _: None


def read_items(benchmark: Benchmark[ItemT], name: str, *, limit: int | None = None) -> tuple[ItemT, ...]:
    """Reads a data set.

    Args:
        benchmark: whose rows they are.
        name: see `training.rows.read_rows`.
        limit: read only the first so many rows.

    Raises:
        DataError: it cannot be read, is empty, or a row of it is not the benchmark's: without that row, it would be
            another benchmark.
    """
    report, items = RowReport(), []
    for line, row in read_rows(name):
        if report.rows == limit:
            break
        report.rows += 1
        try:
            items.append(benchmark.to_item(_object(row), line))
        except BadRow as error:
            report.add(line, error)
    if report.rejected:
        msg = f"{name}: a benchmark is used as a whole, and these rows are not {benchmark.name}'s:\n{report.table()}"
        raise DataError(msg)
    if not items:
        msg = f"{name}: there are no rows"
        raise DataError(msg)
    try:
        benchmark.check(items)
    except BadRow as error:
        msg = f"{name}: {error}"
        raise DataError(msg) from error
    return tuple(items)


def _object(row: Any) -> Mapping[str, Any]:
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, Mapping):
        msg = f"a row must be an object, not {type(row).__name__}"
        raise BadRow(MALFORMED, msg)
    check_renderable(row)
    return row


def fingerprint(items: Sequence[Item]) -> str:
    """`sha256:` over all that the items say, in order, whatever format they were stored in."""
    identity = Fingerprint()
    for item in items:
        identity.add(item.prompt, *(getattr(item, one.name) for one in fields(item) if one.name not in _NOT_CONTENT))
    return str(identity)


_NOT_CONTENT = ("prompt", "line")


def required(row: Mapping[str, Any], column: str) -> Any:
    """What is in a column.

    Raises:
        BadRow: nothing is.
    """
    if (value := row.get(column)) is None:
        msg = f"there is no `{column}` but {columns_of(row)}"
        raise BadRow(MALFORMED, msg)
    return value


def label(row: Mapping[str, Any], column: str) -> str:
    """The name in a column.

    Raises:
        BadRow: there is none.
    """
    value = required(row, column)
    if not isinstance(value, str):
        msg = f"`{column}` must be a string, not {type(value).__name__}"
        raise BadRow(MALFORMED, msg)
    return value


def responses(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """The texts of a column with a list of responses.

    Raises:
        BadRow: it is no list of one or more.
    """
    value = required(row, column)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        msg = f"`{column}` must be a list of one or more responses"
        raise BadRow(MALFORMED, msg)
    return tuple(response_of(one, f"{column}[{i}]") for i, one in enumerate(value))
