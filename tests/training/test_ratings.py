"""Rated responses: read, put together by prompt, and ordered by what they are worth in all."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny

from reward_model.records import as_prompt
from reward_model.rendering import Renderer
from reward_model.scores import Scalarisation
from reward_model.template import DECODER_TEMPLATE
from training.data import NoPairs, RowReport
from training.examples import Comparison
from training.fingerprint import Fingerprint
from training.pairs import BadRow
from training.ratings import RatedResponse, fingerprinted, read_ratings, render_rated, to_rated

NAMES = ("help", "brevity")
SCALARISATION = Scalarisation(NAMES, (1.0, 0.5))


def rated(prompt: str, response: str, *ratings: float, line: int = 1) -> RatedResponse:
    return RatedResponse(as_prompt(prompt), response, ratings, line)


def renderer() -> Renderer:
    tokenizer = tiny.tiny_tokenizer("decoder", chat_template=DECODER_TEMPLATE)
    return Renderer(tokenizer, rendering="chat_template", max_length=60, vocab_size=len(tokenizer))


def test_a_row_gives_its_attributes_in_the_order_asked_for() -> None:
    one = to_rated({"prompt": "p", "response": "r", "brevity": 1, "help": 3.5, "other": 9}, NAMES, 4)
    assert (one.response, one.ratings, one.line) == ("r", (3.5, 1.0), 4)
    assert math.isnan(to_rated({"prompt": "p", "response": "r", "help": 3}, NAMES, 4).ratings[1])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "a row must be an object"),
        ({"prompt": "p", "response": "r"}, "none of the attributes help, brevity"),
        ({"prompt": "p", "response": "r", "help": "3"}, "`help` must be a finite number, not str"),
        ({"prompt": "p", "response": "r", "help": True}, "`help` must be a finite number"),
        ({"prompt": "p", "response": "r", "help": math.inf}, "`help` must be a finite number"),
        ({"prompt": "p", "response": None, "help": 1}, "there is no `response` but `prompt`, `help`; expected are"),
        ({"response": "r", "help": 1}, "there is no `prompt` but `response`, `help`; expected are"),
        ({"prompt": "p", "response": "r", "help": 1, "images": ["i"]}, "the column `images` cannot be rendered"),
        ({"prompt": "p", "response": "r", "quality": 1}, "none of the attributes help, brevity but `prompt`, `resp"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: Any, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        to_rated(row, NAMES, 1)


def test_a_file_is_read_with_its_bad_rows_counted(tmp_path: Path) -> None:
    path = tmp_path / "ratings.jsonl"
    rows = [{"prompt": "p", "response": f"r{i}", "help": i} for i in range(4)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "nonsense\n{}\n")
    report = RowReport()
    assert [one.line for one in read_ratings(str(path), NAMES, report)] == [1, 2, 3, 4]
    assert (report.rows, report.counts) == (6, {"malformed": 2})
    assert [one.line for one in read_ratings(str(path), NAMES, RowReport(), limit=2)] == [1, 2]


def test_a_file_without_ratings_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(NoPairs, match=r"(?s)no row can be used.*none of the attributes"):
        list(read_ratings(str(tmp_path / "a.jsonl"), NAMES, RowReport()))


def test_neighbours_with_one_prompt_are_one_example_in_the_order_of_their_rewards() -> None:
    rows = [
        rated("p", "a", 1.0, 4.0, line=1),
        rated("p", "b", 4.0, 0.0, line=2),
        rated("p", "c", 2.0, 2.0, line=3),
        rated("p", "d", 9.0, math.nan, line=4),
        rated("q", "e", 1.0, 1.0, line=5),
    ]
    first, second = render_rated(rows, renderer(), SCALARISATION, RowReport())
    # In all they are worth 3, 4, 3 and nobody knows.
    assert first.comparisons == (Comparison(1, 0), Comparison(1, 2))
    assert [ratings[0] for ratings in first.ratings] == [1.0, 4.0, 2.0, 9.0]
    assert (second.comparisons, second.line) == ((), 5)


def test_an_attribute_that_counts_for_nothing_need_not_be_rated() -> None:
    rows = [rated("p", "a", 1.0, math.nan), rated("p", "b", 2.0, math.nan)]
    (example,) = render_rated(rows, renderer(), Scalarisation(NAMES, (1.0, 0.0)), RowReport())
    assert example.comparisons == (Comparison(1, 0),)


def test_what_cannot_be_rendered_is_reported() -> None:
    report = RowReport()
    rows = [rated("p", "long " * 40, 1.0, 1.0, line=1), rated("q", "b", 1.0, 1.0, line=2)]
    assert [one.line for one in render_rated(rows, renderer(), SCALARISATION, report)] == [2]
    assert report.counts == {"too_long": 1}


def test_one_response_that_is_too_long_does_not_take_its_neighbours_with_it() -> None:
    report = RowReport()
    long = rated("p", "long " * 40, 1.0, 1.0, line=2)
    rows = [rated("p", "a", 1.0, 1.0, line=1), long, rated("p", "b", 2.0, 1.0, line=3)]
    (example,) = render_rated(rows, renderer(), SCALARISATION, report)
    (alone,) = render_rated(rows[::2], renderer(), SCALARISATION, RowReport())
    assert example == alone
    assert example.comparisons == (Comparison(1, 0),)
    assert (report.counts, report.reasons["too_long"].lines) == ({"too_long": 1}, [2])


def test_the_fingerprint_tells_ratings_apart() -> None:
    def of(*rows: RatedResponse) -> str:
        identity = Fingerprint()
        assert list(fingerprinted(identity, rows)) == list(rows)
        return str(identity)

    one = rated("p", "a", 1.0, math.nan)
    assert of(one) == of(rated("p", "a", 1.0, math.nan)) != of(rated("p", "a", 1.0, 0.0))
