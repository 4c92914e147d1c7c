"""Prompts of the evaluation set among the training rows."""

from reward_model.records import as_prompt
from training.data import RowReport
from training.examples import prompt_digest
from training.leaks import without_leaks
from training.rankings import to_pairs

ROWS = [
    {"prompt": "p", "chosen": "a", "rejected": "b"},
    {"prompt": "q", "responses": ["x", "y", "z"], "ranks": [2, 1, 3]},
    {"prompt": "r", "chosen": "a", "rejected": "b"},
]
PAIRS = [one for line, row in enumerate(ROWS, start=1) for one in to_pairs(row, line)]
EVALUATED = {prompt_digest(as_prompt(prompt)) for prompt in ("q", "elsewhere")}


def test_a_row_with_a_prompt_of_the_evaluation_set_is_left_out_and_counted_once() -> None:
    report = RowReport()
    assert [one.line for one in without_leaks(PAIRS, EVALUATED, report, keep=False)] == [1, 3]
    assert (report.reasons["in_evaluation"].lines, report.rejected) == ([2], 1)


def test_it_is_kept_and_still_counted_where_that_is_asked_for() -> None:
    report = RowReport()
    assert list(without_leaks(PAIRS, EVALUATED, report, keep=True)) == PAIRS
    assert (report.remarks["in_evaluation"].lines, report.rejected) == ([2], 0)


def test_without_an_evaluation_set_everything_passes() -> None:
    report = RowReport()
    assert list(without_leaks(PAIRS, set(), report, keep=False)) == PAIRS
    assert not report.reasons
