"""What would take a parser seconds and gigabytes is refused by counting; what stands inside a text never counts."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import body, structure
from service.errors import MalformedJson, TooLarge
from service.schemas import CompareRequest, ScoreRequest
from service.structure import MARKS_PER_INPUT, _Count

TEXT = st.text(st.sampled_from('a,:[]{}"\\\n é😀'))
VALUES = st.recursive(
    TEXT | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=30,
)


def repeated(unit: bytes, number: int, head: bytes = b'{"inputs":[', tail: bytes = b"]}") -> bytes:
    return head + b",".join([unit] * number) + tail


def marks(value: object) -> int:
    """Lists, objects and members of `value`."""
    if isinstance(value, list):
        return 1 + sum(map(marks, value))
    return 1 + len(value) + sum(map(marks, value.values())) if isinstance(value, dict) else 0


def commas(value: object) -> int:
    if isinstance(value, list | dict):
        within = value if isinstance(value, list) else value.values()
        return max(0, len(value) - 1) + sum(map(commas, within))
    return 0


@settings(deadline=None)
@given(value=VALUES, escape=st.booleans())
def test_what_is_counted_is_what_stands_outside_of_strings(value: object, escape: bool) -> None:
    text = json.dumps(value, ensure_ascii=escape).encode()
    for punctuation, right in ((b"{[:", marks(value)), (b",", commas(value))):
        count = _Count(punctuation, 10_000)
        assert count.exact(text) == right
        assert count.upper(text) == sum(map(text.count, (bytes([one]) for one in punctuation))) >= right


@pytest.mark.parametrize(
    "sent",
    [
        repeated(b"{}", 1000),
        repeated(b"[[[[[[[[]]]]]]]]", 120),
        repeated(b'{"role":"user","content":""}', 320, b'{"inputs":[{"messages":[', b"]}]}"),
        repeated(b'"k":1', 1000, b"{", b"}"),
        repeated(b"1", 2000, b'{"inputs":[{"token_ids":[', b"]}]}"),
        b'{"inputs":[' + b'"a,"' * 4000,
    ],
    ids=["objects", "nested lists", "turns", "members", "numbers", "strings without punctuation"],
)
def test_more_values_than_a_request_can_have_are_refused_before_they_are_parsed(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "MAX_REQUEST_TOKENS", 1000)
    monkeypatch.delattr(body, "from_json")
    with pytest.raises(TooLarge):
        body.parse(ScoreRequest, sent, 10)


def test_as_many_values_as_a_request_may_have_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "MAX_REQUEST_TOKENS", 1000)
    turns = [{"role": "user", "content": ""}] * 29 + [{"role": "assistant", "content": ""}]
    chats = json.dumps({"inputs": [{"messages": turns}] * 10}).encode()
    assert len(body.parse(ScoreRequest, chats, 10).inputs) == 10
    ids = json.dumps({"inputs": [{"token_ids": [1] * 100}] * 10}).encode()
    assert len(body.parse(ScoreRequest, ids, 10).inputs) == 10


def test_texts_full_of_punctuation_are_nobodys_structure() -> None:
    code = '{"a":[1,2,{"b":"\\\\"}]},' * 1000
    sent = json.dumps({"comparisons": [{"prompt": code, "responses": [code, "\\", '"']}]}).encode()
    assert len(sent) > 3 * MARKS_PER_INPUT
    assert body.parse(CompareRequest, sent, 3).comparisons[0].responses[0] == code


@pytest.mark.parametrize(
    "rest", [rb"\"" * 500_000, b"\\" * 1_000_001, b"," * 1_000_000], ids=["quotes", "slashes", "commas"]
)
def test_a_string_without_an_end_is_looked_at_once(rest: bytes) -> None:
    started = time.process_time()
    with pytest.raises(MalformedJson):
        body.parse(ScoreRequest, b'{"inputs":["' + rest, 1)
    structure.check(b'{"inputs":["' + rest, 1)
    assert time.process_time() - started < 5
