"""Numbers in files: appended while they come, read as if they were in memory, however many there are.

Knows arrays and files, not what the numbers mean.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bytes that wait in memory before they are written.
_BUFFER = 1 << 20


class ColumnWriter:
    """Appends numbers to a file.

    Args:
        path: a new file.
        dtype: what each number (or record) is.
    """

    def __init__(self, path: Path, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._file = path.open("xb", buffering=_BUFFER)

    def extend(self, values: Iterable[Any]) -> None:
        """Adds them at the end; raises OSError as `close` does."""
        data = np.array(list(values), dtype=self._dtype).tobytes()
        with self._naming_the_file():
            self._file.write(data)

    def close(self) -> None:
        """Writes what waits.

        Raises:
            OSError: the disk is full.
        """
        with self._naming_the_file():
            self._file.close()

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from error


class RowsWriter:
    """Appends rows, each of any number of numbers; see `ColumnWriter`."""

    def __init__(self, path: Path, dtype: Any) -> None:
        self._values = ColumnWriter(path, dtype)
        self._ends = ColumnWriter(_ends(path), np.uint64)
        self._written = 0

    def append(self, row: list[Any]) -> None:
        """Adds a row at the end."""
        self._values.extend(row)
        self._written += len(row)
        self._ends.extend([self._written])

    def close(self) -> None:
        """Writes what waits; raises OSError if the disk is full."""
        try:
            self._values.close()
        finally:
            self._ends.close()


class Rows:
    """Rows as they were written.

    Attributes:
        values: [total], one row after the other.
        ends: [rows] uint64, where each row ends in `values`.
    """

    def __init__(self, path: Path, dtype: Any) -> None:
        self.values = column(path, dtype)
        self.ends = column(_ends(path), np.uint64)

    def span(self, row: int) -> range:
        """Where its numbers are in `values`."""
        return range(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))

    def __getitem__(self, row: int) -> NDArray[Any]:
        """Its numbers."""
        where = self.span(row)
        return self.values[where.start : where.stop]

    def starts(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Where each of `rows` begins in `values`."""
        return np.where(rows > 0, self.ends[rows - 1], np.uint64(0))


def column(path: Path, dtype: Any) -> NDArray[Any]:
    """The numbers of a file, which the operating system reads when they are looked at."""
    if not path.stat().st_size:
        return np.empty(0, dtype)  # nothing cannot be mapped
    # As a plain array: looking up one number of a memmap takes several times as long.
    return np.asarray(np.memmap(path, dtype, "r"))


def _ends(path: Path) -> Path:
    return path.with_name(f"{path.name}.ends")
