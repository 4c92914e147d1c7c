"""Pairs and rankings as tokens, and what cannot be one."""

import tiny

from reward_model.records import Conversation, as_prompt
from reward_model.rendering import Renderer
from reward_model.template import DECODER_TEMPLATE
from training.data import RowReport
from training.examples import Comparison, SequencesOf, prompt_digest, render_examples
from training.pairs import PreferencePair

NO_FIRST_ASSISTANT = (
    "{% if 'forbidden' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}" + DECODER_TEMPLATE
)


def pair(
    prompt: str, chosen: str, rejected: str, *, line: int = 1, margin: float | None = None, label: float = 1.0
) -> PreferencePair:
    return PreferencePair(as_prompt(prompt), chosen, rejected, margin, None, None, line, label=label)


def renderer(source: str = DECODER_TEMPLATE) -> Renderer:
    tokenizer = tiny.tiny_tokenizer("decoder", chat_template=source)
    return Renderer(tokenizer, rendering="chat_template", max_length=60, vocab_size=len(tokenizer))


def test_the_prompt_is_cut_once_for_both_responses() -> None:
    (example,) = render_examples([pair("0123456789" * 8, "a", "b" * 20)], renderer(), RowReport())
    chosen, rejected = example.sequences
    assert len(rejected.token_ids) == 60
    assert str(chosen.text).removesuffix("a</s>") == str(rejected.text).removesuffix("b" * 20 + "</s>")


def test_what_cannot_be_trained_on_is_reported_with_its_lines() -> None:
    report = RowReport()
    pairs = [
        pair("fine", "a", "b", line=1),
        pair("too long", "a", "b" * 100, line=2),
        pair("same tokens", "a", "a</s>", line=3),
        pair("forbidden", "a", "b", line=4),
    ]
    assert [one.line for one in render_examples(pairs, renderer(NO_FIRST_ASSISTANT), report)] == [1]
    assert report.counts == {"too_long": 1, "identical": 1, "not_renderable": 1}
    assert [report.reasons[reason].lines for reason in report.counts] == [[2], [3], [4]]


def test_the_pairs_of_one_line_are_one_example_with_each_response_once() -> None:
    ranking = [pair("p", "y", "x", line=3), pair("p", "x", "z", line=3, label=0.5), pair("p", "y", "z", line=3)]
    (example, other) = render_examples([*ranking, pair("p", "a", "b", line=4, margin=2.0)], renderer(), RowReport())
    assert [str(one.text)[-5:] for one in example.sequences] == ["y</s>", "x</s>", "z</s>"]
    assert example.comparisons == (Comparison(0, 1), Comparison(1, 2, label=0.5), Comparison(0, 2))
    assert other.comparisons == (Comparison(0, 1, margin=2.0),)
    assert example.prompt == other.prompt == prompt_digest(as_prompt("p")) != prompt_digest(as_prompt("q"))


def test_tokens_of_the_prompt_are_told_apart_from_what_responses_begin_with_alike() -> None:
    start = len(renderer().render(Conversation(as_prompt("Why?"), "")).token_ids) - 1
    pairs = [
        pair("Why?", "ab", "cd", line=1),
        pair("Why?", "so far", "so near", line=2),
        pair("Why?", "a", "ab", line=3),
    ]
    examples = list(render_examples(pairs, renderer(), RowReport()))
    assert [one.prompt_tokens for one in examples] == [start] * 3


def test_the_sequences_of_examples_can_be_looked_up_like_a_list() -> None:
    examples = list(render_examples([pair("p", "a", "b"), pair("q", "c", "d", line=2)], renderer(), RowReport()))
    groups = SequencesOf(examples)
    assert list(groups) == [one.sequences for one in examples]
    assert list(groups[1:]) == [examples[1].sequences]
    assert len(groups) == 2
