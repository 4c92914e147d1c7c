"""One row of any supported format becomes the pair it means, or says why not."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reward_model.records import Message
from training.fingerprint import fingerprint
from training.pairs import BadRow, PreferencePair, split_transcript, to_pair

USER = Message("user", "What is it?")
CONTENT = st.text(max_size=40)
TURN = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), CONTENT)


def said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def as_json(*messages: Message) -> list[dict[str, Any]]:
    return [said(message.role, message.content) for message in messages]


def transcript(*turns: Message) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[turn.role]}: {turn.content}" for turn in turns)


def reason_of(row: Any) -> str:
    with pytest.raises(BadRow) as caught:
        to_pair(row, 1)
    assert str(caught.value)
    return caught.value.reason


def test_standard_row_with_explicit_prompt_is_one_user_turn() -> None:
    pair = to_pair({"prompt": "What is it?", "chosen": "A cat.", "rejected": "A dog."}, 7)
    assert pair == PreferencePair((USER,), "A cat.", "A dog.", None, None, None, 7)


def test_labels_and_margin_are_kept() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2, "source": "s", "category": "c", "subset": 3}
    pair = to_pair(row, 1)
    assert (pair.margin, pair.source, pair.category, pair.subset) == (2.0, "s", "c", "3")
    assert isinstance(pair.margin, float)


@pytest.mark.parametrize("margin", [float("nan"), float("inf"), "1", True, [1]])
def test_margin_that_is_no_finite_number_is_malformed(margin: Any) -> None:
    assert reason_of({"prompt": "p", "chosen": "a", "rejected": "b", "margin": margin}) == "malformed"


@pytest.mark.parametrize("column", ["margin", "label"])
def test_what_is_wrong_with_a_cell_is_said_without_its_text(column: str) -> None:
    """The message goes on record, and records are published."""
    with pytest.raises(BadRow) as refused:
        to_pair({"prompt": "p", "chosen": "a", "rejected": "b", column: "between you and me"}, 1)
    assert "not str" in str(refused.value)
    assert "between" not in str(refused.value)


def test_implicit_string_prompt_is_the_common_beginning_without_its_last_space() -> None:
    pair = to_pair({"chosen": "The sky is blue.", "rejected": "The sky is green."}, 1)
    assert pair.prompt == (Message("user", "The sky is"),)
    assert (pair.chosen, pair.rejected) == (" blue.", " green.")


def test_implicit_strings_without_a_common_beginning_have_an_empty_prompt() -> None:
    pair = to_pair({"chosen": "yes ", "rejected": "no "}, 1)
    assert (pair.prompt, pair.chosen, pair.rejected) == ((Message("user", ""),), "yes ", "no ")


def test_implicit_string_that_is_the_beginning_of_the_other_leaves_nothing_to_score() -> None:
    assert reason_of({"chosen": "It is so.", "rejected": "It is so. Really."}) == "nothing_to_score"


@pytest.mark.parametrize("prompt", [None, [said("user", "What is it?")]])
def test_conversational_prompt_may_be_implicit_or_explicit(prompt: Any) -> None:
    head = [] if prompt else [said("user", "What is it?")]
    row = {
        "prompt": prompt,
        "chosen": [*head, said("assistant", "A")],
        "rejected": [*head, said("assistant", "B")],
    }
    assert to_pair(row, 1) == PreferencePair((USER,), "A", "B", None, None, None, 1)


def test_string_prompt_goes_with_conversational_completions() -> None:
    row = {"prompt": "What is it?", "chosen": [said("assistant", "A")], "rejected": [said("assistant", "B")]}
    assert to_pair(row, 1).prompt == (USER,)


def test_prompt_repeated_at_the_beginning_of_both_conversations_is_taken_once() -> None:
    head = said("user", "What is it?")
    row = {
        "prompt": "What is it?",
        "chosen": [head, said("assistant", "A")],
        "rejected": [head, said("assistant", "B")],
    }
    assert to_pair(row, 1) == PreferencePair((USER,), "A", "B", None, None, None, 1)


def test_turns_of_the_completion_before_the_last_go_to_the_prompt_if_both_sides_have_them() -> None:
    middle = [said("assistant", "Which?"), said("user", "The big one.")]
    row = {
        "prompt": [said("user", "What is it?")],
        "chosen": [*middle, said("assistant", "A")],
        "rejected": [*middle, said("assistant", "B")],
    }
    pair = to_pair(row, 1)
    assert pair.prompt == (USER, Message("assistant", "Which?"), Message("user", "The big one."))


def test_sides_that_answer_different_prompts_are_refused_and_say_so() -> None:
    row = {
        "chosen": [said("user", "one"), said("assistant", "A")],
        "rejected": [said("user", "two"), said("assistant", "B")],
    }
    with pytest.raises(BadRow, match="do not answer the same prompt") as caught:
        to_pair(row, 1)
    assert caught.value.reason == "malformed"


def test_conversation_that_is_the_beginning_of_the_other_leaves_nothing_to_score() -> None:
    short = [said("user", "one"), said("assistant", "A")]
    long = [*short, said("user", "two"), said("assistant", "B")]
    assert reason_of({"chosen": short, "rejected": long}) == "nothing_to_score"


def test_empty_completion_leaves_nothing_to_score() -> None:
    assert reason_of({"prompt": "p", "chosen": [], "rejected": [said("assistant", "B")]}) == "nothing_to_score"


def test_empty_response_is_valid_text() -> None:
    assert to_pair({"prompt": "p", "chosen": "", "rejected": "\0"}, 1).chosen == ""


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": "a", "rejected": "a"},
        {"chosen": "a", "rejected": "a"},
        {"prompt": "p", "chosen": [said("assistant", "a")], "rejected": [said("assistant", "a")]},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: a"},
    ],
)
def test_equal_responses_are_identical(row: Any) -> None:
    assert reason_of(row) == "identical"


@pytest.mark.parametrize(
    "row",
    [
        None,
        "text",
        ["a"],
        {},
        {"prompt": "p", "chosen": "a"},
        {"prompt": "p", "chosen": None, "rejected": "b"},
        {"prompt": 3, "chosen": "a", "rejected": "b"},
        {"prompt": ["p"], "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "a", "rejected": [said("assistant", "b")]},
        {"prompt": "p", "chosen": 1, "rejected": "b"},
        {"prompt": "p", "chosen": [said("user", "a")], "rejected": [said("assistant", "b")]},
        {"prompt": [said("tool", "p")], "chosen": "a", "rejected": "b"},
        {"prompt": [said([], "p")], "chosen": "a", "rejected": "b"},  # type: ignore[arg-type]
        {"prompt": [{"role": "user", "content": None}], "chosen": "a", "rejected": "b"},
        {"prompt": [{"role": "user", "content": "p", "tool_calls": [1]}], "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "a", "rejected": "b", "tools": [{"name": "search"}]},
        {"prompt": "p", "chosen": "half \ud83d", "rejected": "b"},
        {"prompt": "p", "chosen": "a", "rejected": "b", "source": "\ud83d"},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "a"},
        {"chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: end", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    ],
)
def test_what_is_no_preference_is_malformed(row: Any) -> None:
    assert reason_of(row) == "malformed"


def test_raw_transcripts_become_turns() -> None:
    row = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant: Because.\n\nNo other reason.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:",
    }
    pair = to_pair(row, 1)
    assert pair.prompt == (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Why?"))
    assert (pair.chosen, pair.rejected) == ("Because.\n\nNo other reason.", "")


@pytest.mark.parametrize(
    ("prompt", "chosen"),
    [
        ("\n\nHuman: Why?\n\nAssistant:", " Because."),
        ("\n\nHuman: Why?\n\nAssistant: ", "Because."),
        ("\n\nHuman: Why?\n\nAssistant: Be", "cause."),
        ("\n\nHuman: Why?", "Because."),
        ("\n\nHuman: Why?", "\n\nAssistant: Because."),
    ],
)
def test_prompt_that_is_a_transcript_becomes_its_turns(prompt: str, chosen: str) -> None:
    pair = to_pair({"prompt": prompt, "chosen": chosen, "rejected": "No"}, 1)
    assert pair.prompt == (Message("user", "Why?"),)
    assert pair.chosen == "Because."


def test_prompt_that_only_mentions_a_transcript_stays_one_turn() -> None:
    prompt = "Continue:\n\nHuman: Hi\n\nAssistant:"
    assert to_pair({"prompt": prompt, "chosen": "a", "rejected": "b"}, 1).prompt == (Message("user", prompt),)


@given(st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), CONTENT), max_size=6))
def test_every_transcript_is_read_back_as_it_was_written(turns: list[Message]) -> None:
    turns = [Message("user", "start"), *turns]
    assume(not any(marker in turn.content for turn in turns for marker in ("\n\nHuman:", "\n\nAssistant:")))
    assert split_transcript(transcript(*turns)) == tuple(turns)


@given(st.lists(TURN, max_size=5), CONTENT, CONTENT, st.booleans())
def test_every_conversational_pair_survives(prompt: list[Message], chosen: str, rejected: str, explicit: bool) -> None:
    assume(chosen != rejected)
    head = [] if explicit else as_json(*prompt)
    row = {"chosen": [*head, said("assistant", chosen)], "rejected": [*head, said("assistant", rejected)]}
    if explicit:
        row["prompt"] = as_json(*prompt)
    pair = to_pair(json.loads(json.dumps(row)), 3)
    assert pair == PreferencePair(tuple(prompt), chosen, rejected, None, None, None, 3)


@given(CONTENT, CONTENT)
def test_implicit_strings_lose_not_a_character(chosen: str, rejected: str) -> None:
    assume(not chosen.startswith(rejected) and not rejected.startswith(chosen))
    assume(not chosen.startswith("\n\nHuman:") and not rejected.startswith("\n\nHuman:"))
    pair = to_pair({"chosen": chosen, "rejected": rejected}, 1)
    assert pair.prompt[0].content + pair.chosen == chosen
    assert pair.prompt[0].content + pair.rejected == rejected


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["prompt", "chosen", "rejected", "margin", "source", "role", "content"])


@given(st.dictionaries(KEYS, JSON | st.lists(st.dictionaries(KEYS, JSON, max_size=3), max_size=3), max_size=6))
def test_any_json_is_a_pair_or_a_bad_row_and_nothing_else(row: dict[str, Any]) -> None:
    try:
        pair = to_pair(row, 1)
    except BadRow:
        return
    assert pair.chosen != pair.rejected


def test_fingerprint_depends_on_what_is_learned_from_and_on_nothing_else() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    same = fingerprint([to_pair(row, 1)])
    assert same == fingerprint([to_pair(row | {"source": "s"}, 9)])
    assert same.startswith("sha256:")
    others = [row | {"chosen": "c"}, row | {"margin": 1}, row | {"prompt": [said("system", "p")]}]
    assert len({same, *(fingerprint([to_pair(other, 1)]) for other in others)}) == 4


def test_a_soft_label_is_kept_and_counts_in_the_fingerprint() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    plain, soft = to_pair(row, 1), to_pair(row | {"label": 0.75}, 1)
    assert (plain.label, soft.label, to_pair(row | {"label": 1}, 1).label) == (1.0, 0.75, 1.0)
    assert fingerprint([plain]) != fingerprint([soft])


@pytest.mark.parametrize("label", [1.5, -0.1, "better", [1], float("nan")])
def test_a_label_that_is_no_probability_is_a_bad_row(label: object) -> None:
    with pytest.raises(BadRow, match="`label` must be the probability"):
        to_pair({"prompt": "p", "chosen": "a", "rejected": "b", "label": label}, 1)


def test_a_label_below_one_half_means_the_other_response() -> None:
    pair = to_pair({"prompt": "p", "chosen": "a", "rejected": "b", "label": 0.0}, 1)
    assert (pair.chosen, pair.rejected, pair.label) == ("b", "a", 1.0)
    with pytest.raises(BadRow, match="contradict"):
        to_pair({"prompt": "p", "chosen": "a", "rejected": "b", "label": 0.2, "margin": 1.0}, 1)


def test_of_many_columns_the_first_are_named() -> None:
    with pytest.raises(BadRow, match=r"there is no `chosen` but `c0`, .*`c11`, \.\.\.; expected"):
        to_pair({f"c{i}": i for i in range(50)}, 1)
    with pytest.raises(BadRow, match="there is no `chosen` but nothing; expected"):
        to_pair({}, 1)
