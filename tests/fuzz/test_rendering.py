"""Any conversation, response and limit: what is rendered is what the tokenizer reads, and only the prompt is cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import pytest
import tiny
from effort import times
from hypothesis import event, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reward_model.errors import NoTokens, TooLong
from reward_model.records import Conversation, Message, Prompt, Record, Text, TokenIds
from reward_model.rendering import Rendered, Renderer
from reward_model.template import DECODER_TEMPLATE, ENCODER_TEMPLATE
from service.stub import StubScorer, _converse, tokenize

#: As Llama 3 has it: contents lose the white space around them.
TRIMMING = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}"
    "{{ eos_token }}{% endfor %}"
)
TEMPLATES = {
    "encoder": ENCODER_TEMPLATE,
    "decoder": DECODER_TEMPLATE,
    "chatml": tiny.CHATML,
    "trimming": TRIMMING,
    "words": ENCODER_TEMPLATE,
}
KINDS = [*TEMPLATES, "stub"]
LIMITS = [6, 16, 40, 120, 1000]
#: Where every character has tokens of its own, and so many tokens may go with one, or come when its neighbour goes.
EXACT, LEEWAY = ["encoder", "decoder", "chatml"], 8

SPECIALS = ["<s>", "</s>", "[CLS]", "[SEP]", "[UNK]", "<|im_end|>", "<|im_start|>", "<|end|>", "User: ", "{%endfor%}"]
ODDITIES = ["\0", " ", "\n\n", "\ufeff", "\u202e", "e\u0301\u0302", "\U0001f468\u200d\U0001f469", "\r\n", "\u3000"]
PIECES = (
    st.text(st.characters(codec="utf-8"), max_size=20)
    | st.sampled_from([*SPECIALS, *ODDITIES, "<|im_end|>\n", "the an in"])
    | st.builds(str.__mul__, st.sampled_from(["a", " ", "\u0301", "the ", "\u4e2d"]), st.integers(0, 300))
)
CONTENTS = st.lists(PIECES, max_size=4).map("".join)
PROMPTS = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), CONTENTS), max_size=5).map(
    tuple
)
GROUPS = st.lists(CONTENTS, min_size=1, max_size=4)
cases = given(kind=st.sampled_from(KINDS), limit=st.sampled_from(LIMITS), prompt=PROMPTS, responses=GROUPS)
often = settings(max_examples=times(150, 10_000), deadline=None)


class Renders(Protocol):
    """What `Renderer` and the stub have in common."""

    def render(self, record: Record, *, truncate: bool = ...) -> Rendered: ...

    def render_group(self, prompt: Prompt, responses: Sequence[str], *, truncate: bool = ...) -> list[Rendered]: ...


@dataclass(frozen=True)
class Subject:
    """A renderer and, apart from it, what it should do: `text` of a conversation and `ids` of a text."""

    kind: str
    renders: Renders

    def text(self, prompt: Prompt, response: str, *, finished: bool = True) -> str:
        if isinstance(self.renders, Renderer):
            assert self.renders.template is not None
            return self.renders.template.render(prompt, response, finished=finished)
        return str(_converse(prompt, response, finished=finished).text)

    def ids(self, text: str) -> list[int]:
        if isinstance(self.renders, Renderer):
            ids: list[int] = self.renders.tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids
        return tokenize(text)


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    if kind == "words":
        return words_tokenizer()
    return tiny.tiny_tokenizer("decoder" if kind == "trimming" else kind, chat_template=TEMPLATES[kind])


def words_tokenizer() -> PreTrainedTokenizerFast:
    """As BERT has it: lower case, no accents, white space and control characters gone, unknown words one token."""
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "an", "in", "##n", *"abcdefghijklmnopqrstuvwxyz"]
    backend = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)
    made.chat_template = ENCODER_TEMPLATE
    return made


def subject(kind: str, limit: int) -> Subject:
    if kind == "stub":
        return Subject(kind, StubScorer(max_length=limit))
    reads = tokenizer(kind)
    return Subject(kind, Renderer(reads, rendering="chat_template", max_length=limit, vocab_size=len(reads)))


def shorter(prompt: Prompt) -> list[Prompt]:
    """Every prompt that `prompt` may be cut to: leading turns gone, then some of the last user turn's beginning."""
    last = max((i for i, message in enumerate(prompt) if message.role == "user"), default=None)
    droppable = len(prompt) if last is None else last
    cut = [
        tuple(m for i, m in enumerate(prompt) if i >= dropped or m.role == "system") for dropped in range(droppable + 1)
    ]
    cut += [cut[-1]] * (len(prompt) - droppable)  # so that whole turns take len(prompt) places
    if last is not None:
        rest = tuple(m for m in prompt[:last] if m.role == "system")
        content = prompt[last].content
        cut += [(*rest, Message("user", content[i:]), *prompt[last + 1 :]) for i in range(1, len(content) + 1)]
    return cut


@often
@cases
def test_what_is_rendered_is_what_the_tokenizer_reads(
    kind: str, limit: int, prompt: Prompt, responses: list[str]
) -> None:
    tested = subject(kind, limit)
    for response in responses:
        for finished in (True, False):
            text = tested.text(prompt, response, finished=finished)
            ids = tested.ids(text)
            record = Conversation(prompt, response, finished)
            if 0 < len(ids) <= limit:
                assert tested.renders.render(record) == tested.renders.render(record, truncate=True)
                rendered = tested.renders.render(record)
                assert (rendered.text, rendered.token_ids, rendered.truncated) == (text, ids, False)
            else:
                with pytest.raises((TooLong, NoTokens), match=str(len(ids)) if ids else None):
                    tested.renders.render(record)


@often
@given(kind=st.sampled_from(KINDS), prompt=PROMPTS, responses=GROUPS, part=st.integers(-1, 10))
def test_only_the_prompt_is_cut_as_documented_and_for_all_responses_alike(
    kind: str, prompt: Prompt, responses: list[str], part: int
) -> None:
    tested = subject(kind, 10**6)
    whole = [tested.text(prompt, response) for response in responses]
    longest = max(len(tested.ids(text)) for text in whole)
    shortest = max(len(tested.ids(tested.text(shorter(prompt)[-1], response))) for response in responses)
    # From what cannot be reached by cutting to what needs no cut.
    limit = max(4, shortest + (longest - shortest) * part // 10)
    tested = subject(kind, limit)
    try:
        group = tested.renders.render_group(prompt, responses, truncate=True)
    except (TooLong, NoTokens):
        event("cannot be cut to fit")
        assert shortest > limit or not longest
        return
    assert all(0 < len(one.token_ids) <= limit for one in group)
    assert [one.token_ids for one in group] == [tested.ids(str(one.text)) for one in group]
    assert {one.truncated for one in group} == {longest > limit}
    if longest <= limit:
        event("fits")
        assert [one.text for one in group] == whole
        return
    event("cut")
    cut = [one for one in shorter(prompt) if tested.text(one, responses[0]) == group[0].text]
    assert cut, "no cut that is allowed gives this text"
    chosen = [one for one in cut if [tested.text(one, response) for response in responses] == [g.text for g in group]]
    assert chosen, "the responses see different prompts"
    again = tested.renders.render_group(chosen[0], responses, truncate=True)
    assert [one.token_ids for one in again] == [one.token_ids for one in group], "cutting twice cuts more"
    place = shorter(prompt).index(chosen[0])
    if place <= len(prompt):
        less = [tested.text(shorter(prompt)[place - 1], response) for response in responses]
        assert max(len(tested.ids(text)) for text in less) > limit, "a turn less would have been enough"
    elif kind in EXACT:
        assert max(len(one.token_ids) for one in group) > limit - LEEWAY, "more was cut than needed"


@often
@given(
    kind=st.sampled_from(KINDS),
    limit=st.sampled_from(LIMITS),
    record=st.builds(Text, CONTENTS) | st.builds(TokenIds, st.lists(st.integers(0, 30), max_size=150).map(tuple)),
)
def test_texts_and_ids_lose_their_beginning_and_never_grow(kind: str, limit: int, record: Text | TokenIds) -> None:
    tested = subject(kind, limit)
    whole = subject(kind, 10**6).renders
    try:
        full = whole.render(record).token_ids
    except NoTokens:
        with pytest.raises(NoTokens):
            tested.renders.render(record)
        return
    if len(full) > limit:
        with pytest.raises(TooLong):
            tested.renders.render(record)
    rendered = tested.renders.render(record, truncate=True)
    kept = rendered.token_ids
    assert len(kept) == min(limit, len(full))
    assert rendered.truncated == (len(full) > limit)
    assert kept in (full[-limit:], [full[0], *full[1:][1 - limit :]]), "the end, perhaps behind the leading token"
    assert tested.renders.render(TokenIds(tuple(kept)), truncate=True).token_ids == kept
