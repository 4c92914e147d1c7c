"""The chat template: tails, doubled ends of turn, and the clock."""

from datetime import UTC, datetime

import pytest
import tiny

from reward_model.errors import CheckpointRefused, NotRenderable
from reward_model.records import Message, as_prompt
from reward_model.template import DECODER_TEMPLATE, ENCODER_TEMPLATE, ChatTemplate, pin_clock

STRICT = (
    "{% if messages[0]['role'] != 'user' %}{{ raise_exception('must start with user') }}{% endif %}" + DECODER_TEMPLATE
)


def template(kind: str, source: str) -> ChatTemplate:
    return ChatTemplate(tiny.tiny_tokenizer(kind), source)


def test_the_encoder_template_closes_every_turn_with_sep() -> None:
    text = template("encoder", ENCODER_TEMPLATE).render(as_prompt("Why?"), "Because.")
    assert text == "[CLS]Why?[SEP]Because.[SEP]"


def test_the_decoder_template_begins_with_bos_and_ends_the_response_with_eos() -> None:
    prompt = (Message("system", "Be kind."), Message("user", "Why?"))
    text = template("decoder", DECODER_TEMPLATE).render(prompt, "Because.")
    assert text == "<s>System: Be kind.\n\nUser: Why?\n\nAssistant: Because.</s>"


def test_the_decoder_template_can_also_prompt_for_generation() -> None:
    tokenizer = tiny.tiny_tokenizer("decoder")
    turns = [{"role": "user", "content": "Why?"}]
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, chat_template=DECODER_TEMPLATE, add_generation_prompt=True
    )
    assert text == "<s>User: Why?\n\nAssistant:"


@pytest.mark.parametrize(
    ("kind", "source", "tail"),
    [
        ("encoder", ENCODER_TEMPLATE, "[SEP]"),
        ("decoder", DECODER_TEMPLATE, "</s>"),
        ("chatml", tiny.CHATML, "<|im_end|>\n"),
    ],
)
def test_an_unfinished_response_lacks_exactly_the_tail(kind: str, source: str, tail: str) -> None:
    chat = template(kind, source)
    assert chat.tail == tail
    finished = chat.render(as_prompt("a"), "b")
    assert chat.render(as_prompt("a"), "b", finished=False) + tail == finished


@pytest.mark.parametrize("ending", ["<|im_end|>", "<|im_end|>\n"])
def test_one_trailing_end_of_turn_is_taken_as_the_templates_own(ending: str) -> None:
    chat = template("chatml", tiny.CHATML)
    assert chat.render(as_prompt("a"), "b" + ending) == chat.render(as_prompt("a"), "b")
    assert chat.render(as_prompt("a"), "b" + ending + ending).count("<|im_end|>") == 3


def test_a_conversation_the_template_refuses_says_why() -> None:
    with pytest.raises(NotRenderable, match="must start with user"):
        template("decoder", STRICT).render((Message("assistant", "Hello"),), "x")


def test_a_template_that_hides_the_response_is_refused() -> None:
    with pytest.raises(CheckpointRefused, match="does not show"):
        template("decoder", "{{ messages[0]['content'] }}")


def test_a_template_that_reads_the_clock_is_pinned_to_the_day_it_was_written() -> None:
    source = "{{ strftime_now('%d %b %Y') }}|" + DECODER_TEMPLATE
    pinned = pin_clock(source, lambda: datetime(2026, 7, 26, tzinfo=UTC))
    assert template("decoder", pinned).render(as_prompt("a"), "b").startswith("26 Jul 2026|<s>")


def test_llama_style_clock_code_renders_the_same_after_pinning_on_any_day() -> None:
    source = (
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        '{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}{%- endif %}{{ date_string }}: '
    ) + DECODER_TEMPLATE
    pinned = pin_clock(source, lambda: datetime(2024, 12, 3, tzinfo=UTC))
    assert template("decoder", pinned).render(as_prompt("a"), "b").startswith("03 Dec 2024: ")


def test_a_clock_read_with_a_computed_format_is_refused() -> None:
    with pytest.raises(CheckpointRefused, match="computed format"):
        pin_clock("{{ strftime_now(fmt) }}")
