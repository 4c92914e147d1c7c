"""A data set is its good pairs and an account of all other rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from training.data import NoPairs, RowReport, read_preferences, split_by_prompt
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


def test_no_prompt_stands_on_both_sides_of_a_split(tmp_path: Path) -> None:
    whole = read_preferences(write(tmp_path / "a.jsonl", GOOD))
    rest, held_out = split_by_prompt(whole, 0.25, seed=1)
    assert len(rest.pairs) == 30
    assert len(held_out.pairs) == 10
    assert not {pair.prompt for pair in rest.pairs} & {pair.prompt for pair in held_out.pairs}
    assert sorted([*rest.pairs, *held_out.pairs], key=lambda pair: pair.line) == list(whole.pairs)
    assert rest.rejected_rows is whole.rejected_rows


def test_split_depends_on_prompts_and_seed_but_not_on_order(tmp_path: Path) -> None:
    def held_out(rows: list[Any], seed: int) -> set[str]:
        preferences = read_preferences(write(tmp_path / "a.jsonl", rows))
        return {pair.chosen for pair in split_by_prompt(preferences, 0.25, seed=seed)[1].pairs}

    assert held_out(GOOD, 1) == held_out(GOOD[::-1], 1)
    assert held_out(GOOD, 1) != held_out(GOOD, 2)


@pytest.mark.parametrize(("rows", "fraction", "expected"), [(40, 0.0, 0), (40, 1e-6, 2), (40, 0.999, 38), (2, 0.5, 0)])
def test_split_holds_out_a_prompt_if_asked_and_leaves_one(
    tmp_path: Path, rows: int, fraction: float, expected: int
) -> None:
    preferences = read_preferences(write(tmp_path / "a.jsonl", GOOD[:rows]))
    rest, held_out = split_by_prompt(preferences, fraction)
    assert len(held_out.pairs) == expected
    assert len(rest.pairs) == rows - expected
