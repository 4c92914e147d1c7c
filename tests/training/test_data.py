"""A data set is its good pairs and an account of all other rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from training.data import NoPairs, RowReport, read_preferences
from training.pairs import BadRow

GOOD = [
    {"prompt": f"question {i // 2}", "chosen": f"good {i}", "rejected": f"bad {i}", "margin": None, "source": "made"}
    for i in range(40)
]
IDENTICAL = {"prompt": "p", "chosen": "a", "rejected": "a"}
NOTHING = {"chosen": "It is", "rejected": "It is so"}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    return write(tmp_path / "mixed.jsonl", [GOOD[0], IDENTICAL, "{broken", "", GOOD[1], IDENTICAL, NOTHING])


def test_every_row_is_a_pair_or_in_the_report(mixed: str) -> None:
    preferences = read_preferences(mixed)
    assert [(pair.line, pair.chosen) for pair in preferences.pairs] == [(1, "good 0"), (5, "good 1")]
    report = preferences.rejected_rows
    assert report.counts == {"identical": 2, "malformed": 1, "nothing_to_score": 1}
    assert report.reasons["identical"].lines == [2, 6]
    assert report.rows == len(preferences.pairs) + report.rejected == 6


def test_report_is_a_table_for_people(mixed: str) -> None:
    table = read_preferences(mixed).rejected_rows.table().splitlines()
    assert table[0] == "rows: 6, not used: 4"
    assert table[1].split() == ["identical", "2", "at", "2,", "6:", "both", "responses", "are", "the", "same"]
    assert len(table) == 4


def test_report_is_a_document_for_machines(mixed: str, tmp_path: Path) -> None:
    report = read_preferences(mixed).rejected_rows
    report.write(tmp_path / "report.json")
    document = json.loads((tmp_path / "report.json").read_text())
    assert document == report.to_json()
    assert document["reasons"]["nothing_to_score"]["first_lines"] == [7]


def test_rows_that_are_used_and_worth_a_look_are_told_apart_from_those_not_used() -> None:
    report = RowReport(rows=9)
    report.add(2, BadRow("identical", "both are the same"))
    report.remark(3, "near_identical", "one place differs")
    report.remark(5, "near_identical", "another place differs")
    assert report.rejected == 1
    assert report.to_json()["remarks"] == {
        "near_identical": {"count": 2, "first_lines": [3, 5], "example": "one place differs"}
    }
    heads = [line.split()[0] for line in report.table().splitlines()]
    assert heads == ["rows:", "identical", "used,", "near_identical"]


def test_columns_of_another_kind_are_named_with_what_is_expected(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer_a": "a", "answer_b": None}])
    with pytest.raises(NoPairs) as refused:
        read_preferences(path)
    assert str(refused.value).splitlines()[0] == (
        f"{path}: no row can be used: there is no `chosen` but `question`, `answer_a`; expected are `chosen` and"
        " `rejected`, with or without `prompt`, or `prompt`, `responses` and `ranks` or `scores`"
    )


def test_report_names_the_first_lines_only() -> None:
    report = RowReport(rows=1000)
    for line in range(1, 1001):
        report.add(line, BadRow("too_long", f"line {line}"))
    assert report.counts == {"too_long": 1000}
    assert report.reasons["too_long"].lines == list(range(1, 11))
    assert "10, ...: line 1" in report.table()


def test_set_without_a_good_row_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(NoPairs, match=r"(?s)no row can be used.*identical.*both responses are the same"):
        read_preferences(write(tmp_path / "bad.jsonl", [IDENTICAL, IDENTICAL]))


def test_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoPairs, match="there are no rows"):
        read_preferences(write(tmp_path / "empty.jsonl", []))


def test_limit_stops_after_so_many_good_pairs(mixed: str) -> None:
    preferences = read_preferences(mixed, limit=1)
    assert [pair.line for pair in preferences.pairs] == [1]
    assert preferences.rejected_rows.rows == 1


def test_fingerprint_is_the_same_in_every_file_format(tmp_path: Path) -> None:
    plain = read_preferences(write(tmp_path / "a.jsonl", GOOD))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    pq.write_table(pa.Table.from_pylist(GOOD), tmp_path / "c.parquet")
    others = [read_preferences(str(tmp_path / name)) for name in ("b.jsonl.gz", "c.parquet")]
    assert [other.pairs for other in others] == [plain.pairs, plain.pairs]
    assert {other.fingerprint for other in others} == {plain.fingerprint}
    assert read_preferences(write(tmp_path / "d.jsonl", GOOD[1:])).fingerprint != plain.fingerprint


def test_parquet_columns_that_only_some_rows_have_are_read_as_absent(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": "a", "tool_calls": None}
    rows = [
        {
            "prompt": None,
            "chosen": [{"role": "user", "content": "q"}, message],
            "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b", "name": "x"}],
            "margin": None,
        },
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (pair,) = read_preferences(str(tmp_path / "rows.parquet")).pairs
    assert (pair.prompt[0].content, pair.chosen, pair.rejected) == ("q", "a", "b")


def test_rankings_stand_among_pairs(tmp_path: Path) -> None:
    rows = [GOOD[0], {"prompt": "p", "responses": ["x", "y", "z"], "ranks": [2, 1, 3]}, GOOD[1]]
    pairs = read_preferences(write(tmp_path / "a.jsonl", rows)).pairs
    assert [pair.line for pair in pairs] == [1, 2, 2, 2, 3]
    assert {(pair.chosen, pair.rejected) for pair in pairs[1:4]} == {("y", "x"), ("x", "z"), ("y", "z")}


def test_a_ranking_is_never_divided_by_a_limit(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "responses": ["x", "y", "z"], "ranks": [2, 1, 3]}, GOOD[1]]
    assert [pair.line for pair in read_preferences(write(tmp_path / "a.jsonl", rows), limit=2).pairs] == [1, 1, 1]
