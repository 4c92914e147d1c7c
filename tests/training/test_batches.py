"""Pairs as packed batches, and what cannot be one."""

import tiny
import torch

from reward_model.records import as_prompt
from reward_model.rendering import Renderer
from reward_model.template import DECODER_TEMPLATE
from training.batches import PairDataset, collate, render_pairs
from training.data import RowReport
from training.pairs import PreferencePair

NO_FIRST_ASSISTANT = (
    "{% if 'forbidden' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}" + DECODER_TEMPLATE
)


def pair(prompt: str, chosen: str, rejected: str, *, line: int = 1, margin: float | None = None) -> PreferencePair:
    return PreferencePair(as_prompt(prompt), chosen, rejected, margin, None, None, line)


def renderer(source: str = DECODER_TEMPLATE) -> Renderer:
    tokenizer = tiny.tiny_tokenizer("decoder", chat_template=source)
    return Renderer(tokenizer, rendering="chat_template", max_length=60, vocab_size=len(tokenizer))


def test_the_prompt_is_cut_once_for_both_responses() -> None:
    (example,) = render_pairs([pair("0123456789" * 8, "a", "b" * 20)], renderer(), RowReport())
    assert len(example.rejected.token_ids) == 60
    assert str(example.chosen.text).removesuffix("a</s>") == str(example.rejected.text).removesuffix("b" * 20 + "</s>")


def test_pairs_that_cannot_be_trained_on_are_reported_with_their_lines() -> None:
    report = RowReport()
    pairs = [
        pair("fine", "a", "b", line=1),
        pair("too long", "a", "b" * 100, line=2),
        pair("same tokens", "a", "a</s>", line=3),
        pair("forbidden", "a", "b", line=4),
    ]
    assert [one.pair.line for one in render_pairs(pairs, renderer(NO_FIRST_ASSISTANT), report)] == [1]
    assert report.counts == {"too_long": 1, "identical": 1, "not_renderable": 1}
    assert [report.reasons[reason].lines for reason in report.counts] == [[2], [3], [4]]


def test_a_batch_holds_all_chosen_then_all_rejected_sequences() -> None:
    examples = render_pairs([pair("p", "aa", "b"), pair("q", "c", "dd")], renderer(), RowReport())
    dataset = PairDataset(examples)
    batch = collate([dataset[i] for i in range(len(dataset))])
    runs = torch.split(batch["input_ids"], batch["cu_seqlens"].diff().tolist())
    rows = [runs[end].tolist() for end in batch["ends"].tolist()]
    assert rows == [one.chosen.token_ids for one in examples] + [one.rejected.token_ids for one in examples]
    assert "margin" not in batch


def test_the_prompt_of_a_pair_is_in_the_batch_once_where_that_is_asked_for() -> None:
    (example,) = render_pairs([pair("a long enough prompt", "aa", "bbb")], renderer(), RowReport())
    chosen, rejected = example.chosen.token_ids, example.rejected.token_ids
    shared = next(i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    batch = collate([example], share_prefixes=True)
    assert len(batch["input_ids"]) == len(chosen) + len(rejected) - shared


def test_a_stated_margin_travels_with_its_batch() -> None:
    examples = render_pairs([pair("p", "a", "b", margin=2.5), pair("q", "c", "d")], renderer(), RowReport())
    assert collate(examples)["margin"].tolist() == [2.5, 0.0]
