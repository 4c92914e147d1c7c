"""Numbers come out of files as they went in, whether there are any or not."""

from pathlib import Path

import numpy as np
import pytest

from training.columns import ColumnWriter, Rows, RowsWriter, column

ROWS = [[3, 1], [], [4], [], [1, 5, 9]]


def test_numbers_are_read_in_the_order_they_were_written(tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path / "numbers", np.uint32)
    writer.extend([1, 2])
    writer.extend([2**32 - 1])
    writer.close()
    assert column(tmp_path / "numbers", np.uint32).tolist() == [1, 2, 2**32 - 1]


def test_nothing_written_is_nothing_read(tmp_path: Path) -> None:
    ColumnWriter(tmp_path / "numbers", np.uint32).close()
    assert column(tmp_path / "numbers", np.uint32).tolist() == []


def test_rows_may_be_of_any_length(tmp_path: Path) -> None:
    writer = RowsWriter(tmp_path / "rows", np.uint8)
    for row in ROWS:
        writer.append(row)
    writer.close()
    rows = Rows(tmp_path / "rows", np.uint8)
    assert [rows[i].tolist() for i in range(len(ROWS))] == ROWS
    assert rows.starts(np.arange(len(ROWS))).tolist() == [0, 2, 2, 3, 3]


def test_a_number_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path / "numbers", np.uint8)
    with pytest.raises(OverflowError):
        writer.extend([256])
    writer.close()
