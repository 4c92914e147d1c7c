"""Rows come out of every file format as they went in, with line numbers; damage is an error, not a shorter file."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from training.pairs import BadRow
from training.rows import DataError, read_rows

ROWS: list[dict[str, Any]] = [
    {"prompt": f"question {i}", "chosen": [{"role": "assistant", "content": "é\0"}], "margin": i / 2} for i in range(5)
]


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_json_lines_are_numbered_from_one(jsonl: Path) -> None:
    assert list(read_rows(str(jsonl))) == list(enumerate(ROWS, start=1))


def test_compressed_json_lines_are_the_same_rows(jsonl: Path) -> None:
    packed = jsonl.with_name("rows.jsonl.gz")
    packed.write_bytes(gzip.compress(jsonl.read_bytes()))
    assert list(read_rows(str(packed))) == list(read_rows(str(jsonl)))


def test_a_json_list_is_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8-sig")
    assert list(read_rows(str(path))) == list(enumerate(ROWS, start=1))


def test_a_json_file_that_holds_no_list_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"train": []}')
    with pytest.raises(DataError, match="must hold one list of rows, not dict"):
        list(read_rows(str(path)))


def test_parquet_is_the_same_rows_over_several_batches(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = ROWS * 500
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert list(read_rows(str(path))) == list(enumerate(rows, start=1))


def test_hub_layout_is_read_by_split(tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    layout = tmp_path / "layout"
    layout.mkdir()
    jsonl.rename(layout / "train.jsonl")
    (layout / "test.jsonl").write_text(json.dumps(ROWS[3]) + "\n")
    assert list(read_rows(str(layout))) == list(enumerate(ROWS, start=1))
    assert list(read_rows(f"{layout}:test")) == [(1, ROWS[3])]
    with pytest.raises(DataError, match="neither a file here nor a data set"):
        list(read_rows(f"{layout}:nonsense"))


def test_blank_lines_are_counted_but_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert list(read_rows(str(path))) == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize("line", [b"{", b"\xff\xfe", b"[" * 100_000, b"{'a': 1}"])
def test_line_that_is_not_json_is_a_bad_row_and_the_next_is_read(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line + b"\n{}\n")
    (_, bad), good = read_rows(str(path))
    assert isinstance(bad, BadRow)
    assert bad.reason == "malformed"
    assert good == (2, {})


def test_truncated_gzip_says_how_far_it_could_be_read(tmp_path: Path, jsonl: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(jsonl.read_bytes() * 100)[:-20])
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz: damaged after line \d+"):
        list(read_rows(str(path)))


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json", "rows.parquet"])
def test_file_of_another_format_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is text\n")
    with pytest.raises(DataError, match=name):
        list(read_rows(str(tmp_path / name)))


def test_file_that_does_not_exist_is_no_hub_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_rows(str(tmp_path / "absent.jsonl")))


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,chosen,rejected\n")
    with pytest.raises(DataError, match=r"only \.jsonl"):
        list(read_rows(str(path)))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_file_is_closed_when_the_reader_stops_early(tmp_path: Path, jsonl: Path, name: str) -> None:
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / name)
    rows = read_rows(str(tmp_path / name))
    assert next(rows) == (1, ROWS[0])
    del rows
