"""Which part of a prompt goes: a pure rule, checked on a toy measure of one token a character."""

from hypothesis import given
from hypothesis import strategies as st

from reward_model.records import Message, Prompt
from reward_model.truncation import cut_prompt

RESPONSE = 3


def measure(prompt: Prompt) -> int:
    return sum(1 + len(message.content) for message in prompt) + RESPONSE


def starts(content: str) -> range:
    return range(len(content))


prompts = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text("abc", max_size=8)),
    max_size=8,
).map(tuple)


def turns(*contents: str) -> Prompt:
    return tuple(Message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents))


def test_a_prompt_that_fits_is_returned_as_it_is() -> None:
    assert cut_prompt(turns("abc"), 7, measure, starts) == turns("abc")


def test_only_as_many_whole_leading_turns_go_as_needed() -> None:
    assert cut_prompt(turns("aaaa", "bb", "cc"), 9, measure, starts) == (
        Message("assistant", "bb"),
        Message("user", "cc"),
    )


def test_the_last_user_turn_loses_its_left_only_when_all_turns_before_it_are_gone() -> None:
    assert cut_prompt(turns("aaaa", "bb", "cdef"), 6, measure, starts) == (Message("user", "ef"),)


def test_the_shortest_prompt_comes_back_when_even_that_does_not_fit() -> None:
    assert cut_prompt(turns("old", "b", "abc"), 3, measure, starts) == (Message("user", ""),)


@given(prompts, st.integers(0, 60))
def test_the_result_fits_keeps_system_turns_and_the_order_and_cuts_one_turn_at_most(prompt: Prompt, limit: int) -> None:
    result = cut_prompt(prompt, limit, measure, starts)
    if measure(prompt) <= limit:
        assert result == prompt
    if measure(result) > limit:
        users = [message for message in result if message.role == "user"]
        assert not users or (len(users) == 1 and not users[0].content), "nothing that may go is left"
    system = [message for message in prompt if message.role == "system"]
    assert [message for message in result if message.role == "system"] == system
    kept = list(result)
    for message in reversed(prompt):
        if kept and message.role == kept[-1].role and message.content.endswith(kept[-1].content):
            kept.pop()
    assert kept == [], "every turn of the result is the end of a turn of the prompt, in order"
    assert sum(message not in prompt for message in result) <= 1
