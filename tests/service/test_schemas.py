"""The wire models: what they take, what they refuse, and the records they become."""

from typing import Any

import pytest
from pydantic import ValidationError

from reward_model.records import Conversation, Message, Text, TokenIds
from service.schemas import FORMS, CompareRequest, ScoreRequest, unknown_field

HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def record_of(one: dict[str, Any]) -> object:
    return ScoreRequest.model_validate({"inputs": [one]}).inputs[0].record()


def errors_of(one: Any) -> list[Any]:
    with pytest.raises(ValidationError) as refused:
        ScoreRequest.model_validate({"inputs": [one]})
    return refused.value.errors(include_url=False)


def test_a_string_prompt_becomes_one_user_turn() -> None:
    assert record_of({"prompt": "Hi", "response": "Hello"}) == Conversation((Message("user", "Hi"),), "Hello")


def test_a_prompt_may_be_a_list_of_messages() -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ""}]
    prompt = (Message("system", "Be brief."), Message("user", ""))
    assert record_of({"prompt": turns, "response": ""}) == Conversation(prompt, "")


def test_an_unfinished_response_stays_unfinished() -> None:
    record = record_of({"prompt": "Hi", "response": "Hel", "finished": False})
    assert record == Conversation((Message("user", "Hi"),), "Hel", finished=False)


def test_the_last_message_is_the_response() -> None:
    assert record_of({"messages": HI}) == Conversation((Message("user", "Hi"),), "Hello")


def test_text_and_token_ids_are_taken_as_they_are() -> None:
    assert record_of({"text": "a\x00b"}) == Text("a\x00b")
    assert record_of({"token_ids": [0, 5, 2]}) == TokenIds((0, 5, 2))


@pytest.mark.parametrize(
    "one",
    [
        {},
        {"finished": True},
        {"text": "a", "token_ids": [1]},
        {"messages": HI, "response": "b"},
        "text",
        None,
        3,
        [],
    ],
)
def test_an_input_that_is_not_exactly_one_form_gets_one_clear_error(one: Any) -> None:
    (error,) = errors_of(one)
    assert error["loc"] == ("inputs", 0)
    assert "exactly one of: prompt and response, messages, text, token_ids" in error["msg"]


@pytest.mark.parametrize(
    ("one", "place"),
    [
        ({"prompt": "a"}, "response"),
        ({"response": "a"}, "prompt"),
        ({"prompt": "a", "response": None}, "response"),
        ({"prompt": "a", "response": "b", "finished": 1}, "finished"),
        ({"prompt": None, "response": "b"}, "prompt"),
        ({"prompt": [], "response": "b"}, "prompt"),
        ({"text": 3}, "text"),
        ({"token_ids": []}, "token_ids"),
        ({"token_ids": "1 2"}, "token_ids"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
    ],
)
def test_a_field_of_the_wrong_type_gets_one_error_at_its_place(one: dict[str, Any], place: str) -> None:
    (error,) = errors_of(one)
    assert [part for part in error["loc"] if part not in FORMS][-1] == place


@pytest.mark.parametrize("token_id", [1.0, True, "1", None, -1, 2**31, float("inf")])
def test_a_token_id_is_a_small_non_negative_integer_and_nothing_is_coerced(token_id: Any) -> None:
    (error,) = errors_of({"token_ids": [1, token_id, "x"]})
    assert error["loc"][-2:] == ("token_ids", 1)


def test_the_last_message_must_be_the_assistants() -> None:
    (error,) = errors_of({"messages": HI[:1]})
    assert "assistant" in error["msg"]


def test_a_role_is_one_of_three() -> None:
    (error,) = errors_of({"messages": [{"role": "tool", "content": "x"}, *HI]})
    assert error["loc"][-1] == "role"


def test_finished_goes_with_a_response_only() -> None:
    assert errors_of({"text": "a", "finished": False})
    assert errors_of({"token_ids": [1], "finished": False})
    record = record_of({"messages": [*HI, {"role": "assistant", "content": "Hel"}], "finished": False})
    assert isinstance(record, Conversation)
    assert (record.response, record.finished) == ("Hel", False)


def test_a_body_of_many_unknown_keys_gets_one_error_not_thousands() -> None:
    (error,) = errors_of({"text": "a"} | {f"k{i}": 0 for i in range(10_000)})
    assert error["loc"][:2] == ("inputs", 0)


def test_a_list_of_many_wrong_items_gets_one_error_not_thousands() -> None:
    assert len(errors_of({"token_ids": ["x"] * 10_000})) == 1
    assert len(errors_of({"messages": [{}] * 10_000})) <= 2


def test_an_unknown_field_is_named_only_if_it_looks_like_a_field() -> None:
    assert unknown_field("truncat") == "unknown field truncat"
    assert unknown_field("my secret prompt") == "unknown field"
    assert unknown_field("x" * 41) == "unknown field"


def test_flags_are_booleans_and_nothing_else() -> None:
    for value in (1, "true", None):
        with pytest.raises(ValidationError):
            ScoreRequest.model_validate({"inputs": [{"text": "a"}], "truncate": value})


def test_a_comparison_has_two_or_more_responses() -> None:
    for responses in ([], ["a"], None, "ab", ["a", 2]):
        with pytest.raises(ValidationError):
            CompareRequest.model_validate({"comparisons": [{"prompt": "a", "responses": responses}]})


def test_inputs_and_responses_are_counted_before_they_are_validated() -> None:
    assert ScoreRequest.count({"inputs": [1, "x", None]}) == 3
    assert CompareRequest.count({"comparisons": [{"responses": ["a", "b"]}, {}, 7]}) == 4
    for nonsense in (None, [], 3, {"inputs": 3, "comparisons": {}}):
        assert ScoreRequest.count(nonsense) == 0
        assert CompareRequest.count(nonsense) == 0
