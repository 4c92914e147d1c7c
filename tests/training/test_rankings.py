"""Rows that rank several responses, and what is wrong with some."""

from typing import Any

import pytest

from training.pairs import BadRow
from training.rankings import to_pairs


def row(**columns: Any) -> dict[str, Any]:
    return {"prompt": "p", "responses": ["a", "b", "c"], **columns}


def won(pairs: Any) -> set[tuple[str, str, float]]:
    return {(pair.chosen, pair.rejected, pair.label) for pair in pairs}


def test_a_preference_is_one_pair() -> None:
    (pair,) = to_pairs({"prompt": "p", "chosen": "a", "rejected": "b"}, 5)
    assert (pair.chosen, pair.rejected, pair.line) == ("a", "b", 5)


def test_ranks_count_from_the_best_and_scores_to_it() -> None:
    expected = {("b", "a", 1.0), ("a", "c", 1.0), ("b", "c", 1.0)}
    assert won(to_pairs(row(ranks=[2, 1, 3]), 1)) == expected
    assert won(to_pairs(row(scores=[0.5, 9, -1]), 1)) == expected


def test_equal_ranks_are_ties() -> None:
    assert won(to_pairs(row(ranks=[1, 1, 2]), 1)) == {("a", "b", 0.5), ("a", "c", 1.0), ("b", "c", 1.0)}


def test_all_pairs_carry_what_their_row_says() -> None:
    responses = ["a", {"role": "assistant", "content": "b"}, [{"role": "assistant", "content": "c"}]]
    pairs = to_pairs(row(responses=responses, ranks=[1, 2, 3], source="s", category="k", subset=7), 9)
    assert {(pair.source, pair.category, pair.subset, pair.line) for pair in pairs} == {("s", "k", "7", 9)}
    assert won(pairs) == {("a", "b", 1.0), ("a", "c", 1.0), ("b", "c", 1.0)}


@pytest.mark.parametrize(
    ("columns", "reason", "message"),
    [
        ({}, "malformed", "needs `ranks` or `scores`, one of them; it has neither"),
        ({"ranks": [1, 2, 3], "scores": [1, 2, 3]}, "malformed", "it has ranks and scores"),
        ({"ranks": [1, 2]}, "malformed", "`ranks` must be 3 finite numbers"),
        ({"ranks": [1, 2, None]}, "malformed", "3 finite numbers"),
        ({"scores": [1, 2, float("nan")]}, "malformed", "3 finite numbers"),
        ({"ranks": [True, 2, 3]}, "malformed", "3 finite numbers"),
        ({"ranks": "123"}, "malformed", "3 finite numbers"),
        ({"responses": ["a"], "ranks": [1]}, "malformed", "a list of two or more"),
        ({"responses": "ab", "ranks": [1, 2]}, "malformed", "a list of two or more"),
        ({"ranks": [1, 2, 3], "margin": 0.0}, "malformed", "`margin` has no meaning beside `responses`"),
        ({"ranks": [1, 2, 3], "label": 1}, "malformed", "`label` has no meaning beside `responses`"),
        ({"ranks": [1, 2, 3], "tools": [{"name": "f"}]}, "malformed", "the column `tools` cannot be rendered"),
        ({"responses": ["a", "b", "a"], "ranks": [1, 2, 3]}, "identical", "responses 0 and 2 are the same"),
        ({"responses": ["a", 5, "c"], "ranks": [1, 2, 3]}, "malformed", r"responses\[1\]"),
        ({"responses": ["a", {"role": "user", "content": "b"}], "ranks": [1, 2]}, "malformed", "of the assistant"),
    ],
)
def test_a_ranking_that_cannot_be_used_says_why(columns: dict[str, Any], reason: str, message: str) -> None:
    with pytest.raises(BadRow, match=message) as refused:
        to_pairs(row(**columns), 1)
    assert refused.value.reason == reason
