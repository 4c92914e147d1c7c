"""Rows that say the same again, or the opposite."""

from reward_model.records import as_prompt
from training.data import RowReport
from training.pairs import PreferencePair
from training.rankings import to_pairs
from training.ratings import RatedResponse
from training.repeats import Repeats


def pair(
    line: int, chosen: str, rejected: str, *, prompt: str = "p", label: float = 1.0, margin: float | None = None
) -> PreferencePair:
    return PreferencePair(as_prompt(prompt), chosen, rejected, margin, None, None, line, label=label)


def passed(pairs: list[PreferencePair], *, keep: bool = False) -> tuple[list[int], RowReport]:
    report = RowReport()
    return [one.line for one in Repeats(report, keep=keep).of_pairs(pairs)], report


def test_an_exact_repeat_is_left_out_and_counted() -> None:
    lines, report = passed([pair(1, "a", "b"), pair(2, "a", "b"), pair(3, "a", "b", prompt="q"), pair(9, "a", "b")])
    assert lines == [1, 3]
    assert report.reasons["duplicate"].lines == [2, 9]
    assert not report.remarks


def test_another_margin_or_label_is_no_repeat() -> None:
    said = [
        pair(1, "a", "b"),
        pair(2, "a", "b", margin=1.0),
        pair(3, "a", "b", label=0.8),
        pair(4, "a", "b", margin=1.0),
        pair(5, "a", "b", label=0.8),
    ]
    assert passed(said)[0] == [1, 2, 3]
    assert passed(said[::-1])[0] == [5, 4, 1]


def test_repeats_are_kept_and_still_counted_where_that_is_asked_for() -> None:
    lines, report = passed([pair(1, "a", "b"), pair(2, "a", "b")], keep=True)
    assert lines == [1, 2]
    assert (report.counts, report.remarks["duplicate"].lines) == ({}, [2])


def test_contradictions_are_kept_and_counted() -> None:
    said = [
        pair(1, "a", "b"),
        pair(2, "b", "a"),
        pair(3, "b", "a", prompt="q"),
        pair(4, "a", "b", prompt="q", margin=2.0),
        pair(5, "b", "a", prompt="q", label=0.7),
    ]
    lines, report = passed(said)
    assert lines == [1, 2, 3, 4, 5]
    assert report.remarks["contradiction"].lines == [2, 4, 5]
    assert report.rejected == 0


def test_a_tie_is_the_same_either_way_round_and_contradicts_nothing() -> None:
    lines, report = passed([pair(1, "a", "b"), pair(2, "b", "a", label=0.5), pair(3, "a", "b", label=0.5)])
    assert lines == [1, 2]
    assert not report.remarks


def test_a_ranking_is_a_repeat_as_a_whole_or_not_at_all() -> None:
    rows = [
        {"prompt": "p", "responses": ["x", "y", "z"], "ranks": [2, 1, 3]},
        {"prompt": "p", "chosen": "y", "rejected": "x"},
        {"prompt": "p", "responses": ["z", "y", "x"], "ranks": [3, 1, 2]},
        {"prompt": "p", "responses": ["x", "y", "z"], "ranks": [1, 2, 3]},
    ]
    pairs = [one for line, row in enumerate(rows, start=1) for one in to_pairs(row, line)]
    lines, report = passed(pairs)
    assert lines == [1, 1, 1, 2, 4, 4, 4]
    assert report.reasons["duplicate"].lines == [3]
    assert report.remarks["contradiction"].lines == [4]


def test_the_same_rating_again_is_a_repeat() -> None:
    rated = [RatedResponse(as_prompt("p"), "a", (1.0, float("nan")), 1)] * 2
    rated += [RatedResponse(as_prompt("p"), "a", (1.0, 2.0), 3)]
    report = RowReport()
    assert [one.line for one in Repeats(report, keep=False).of_rated(rated)] == [1, 3]
    assert report.counts == {"duplicate": 1}
