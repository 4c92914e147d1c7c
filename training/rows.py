"""Raw rows of a data set, one at a time: JSON lines, a JSON list, Parquet, or a data set of the hub.

Knows file formats, not what a row means.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from datasets import load_dataset  # type: ignore[import-untyped]
from datasets.exceptions import DatasetsError  # type: ignore[import-untyped]
from pyarrow import ArrowException  # type: ignore[import-untyped]
from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]
from tqdm import tqdm

from training.pairs import BadRow
from training.progress import hidden

#: Where a row stands, counted from 1, and the row itself, or what is wrong with the line.
Row = tuple[int, Any]

_JSON_LINES = (".jsonl", ".jsonl.gz")
_JSON_LIST = ".json"
_PARQUET = ".parquet"
#: Of a data set of the hub.
_SPLIT = "train"
#: Progress is shown only for what takes longer than this, in seconds.
_PATIENCE = 2.0


class DataError(Exception):
    """A data set that cannot be used; the message says why."""


def read_rows(name: str) -> Iterator[Row]:
    """Streams the rows of a data set.

    Args:
        name: a .jsonl, .jsonl.gz or .parquet file, a .json file with a list (held in memory as a whole), or a hub name
            (or a directory in the hub's layout), of which the split `train` is read; `name:split` reads another.

    Yields:
        Line number (in a list: place) and row. A line that is not JSON is yielded as a `BadRow`.

    Raises:
        DataError: there is no such data set, or its format is unknown or damaged.
    """
    path = Path(name).expanduser()
    if path.name.endswith((*_JSON_LINES, _JSON_LIST, _PARQUET)):
        if not path.is_file():
            msg = f"{name}: there is no such file"
            raise DataError(msg)
        return {_PARQUET: _parquet_rows, _JSON_LIST: _listed_rows}.get(path.suffix, _json_rows)(path)
    if path.is_file():
        msg = f"{name}: of files, only {', '.join(_JSON_LINES)}, {_JSON_LIST} and {_PARQUET} are read"
        raise DataError(msg)
    return _hub_rows(name)


def identity(name: str) -> str:
    """The same for two names of one data set."""
    path = Path(name).expanduser()
    if path.is_file():
        return str(path.resolve())
    return name if ":" in name else f"{name}:{_SPLIT}"


def _json_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file, _bar(path.name, total=path.stat().st_size, unit="B") as bar:
        number = 0
        try:
            for number, line in enumerate(_lines(file, compressed=path.suffix == ".gz"), start=1):
                if line.strip():
                    yield number, _parse(line)
                bar.update(file.tell() - bar.n)
        except (OSError, EOFError, zlib.error) as error:
            msg = f"{path}: damaged after line {number} ({error})"
            raise DataError(msg) from error


def _lines(file: IO[bytes], *, compressed: bool) -> Iterator[bytes]:
    if not compressed:
        yield from file
        return
    with gzip.open(file, "rb") as stream:
        yield from stream


def _parse(line: bytes) -> Any:
    try:
        # A byte order mark is what some editors put before the first line.
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return BadRow("malformed", f"not a line of JSON in UTF-8: {error}")


def _listed_rows(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{path}: not a readable JSON file ({error})"
        raise DataError(msg) from error
    if not isinstance(rows, list):
        msg = f"{path}: a .json file must hold one list of rows, not {type(rows).__name__}; a row a line is .jsonl"
        raise DataError(msg)
    yield from enumerate(rows, start=1)


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        with ParquetFile(path) as file, _bar(path.name, total=file.metadata.num_rows) as bar:
            first = 1
            for batch in file.iter_batches(batch_size=1024):
                yield from enumerate(batch.to_pylist(), start=first)
                first += len(batch)
                bar.update(len(batch))
    except (ArrowException, OSError) as error:
        msg = f"{path}: not a readable Parquet file ({error})"
        raise DataError(msg) from error


def _hub_rows(name: str) -> Iterator[Row]:
    repository, _, split = name.partition(":")
    try:
        rows = load_dataset(repository, split=split or _SPLIT)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        msg = f"{name}: neither a file here nor a data set that the hub gives out ({reason})"
        raise DataError(msg) from error
    with _bar(name, total=len(rows)) as bar:
        for number, row in enumerate(rows, start=1):
            yield number, row
            bar.update()


def _bar(name: str, *, total: int, unit: str = "row") -> "tqdm[Any]":
    """A bar for people who wait at a terminal."""
    return tqdm(desc=name, total=total, unit=unit, unit_scale=True, delay=_PATIENCE, disable=hidden())
