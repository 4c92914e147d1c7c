"""From a record to the token ids that are scored: the one place where text is made and cut.

`Renderer.render` is what `training`, `evaluate` and the service all call, so that they cannot differ. The chat template
alone places special tokens; nothing is truncated unless asked for. Knows the tokenizer, never the model.
"""

import re
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from reward_model.errors import BadTokenId, NoTokens, NotRenderable, TooLong
from reward_model.records import Conversation, Message, Prompt, Record, Text, TokenIds
from reward_model.template import ChatTemplate
from reward_model.truncation import cut_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: How conversations become text. `pair`: segment ids 0/1, foreign encoders only. `text`: no form for conversations.
Rendering = Literal["chat_template", "pair", "text"]


@dataclass(frozen=True, slots=True)
class Rendered:
    """What exactly will be scored.

    Attributes:
        text_source: the text, or what makes it of the token ids: most who score never ask; None where these were given.
        token_ids: at least one, at most max_length.
        segment_ids: transformers' token_type_ids, for pair encoding only.
        truncated: something of the input was left out.
        special_in_content: how often a special token's string occurs inside message contents.
        response_length: characters of the response, without an end-of-turn string of its own; None where no response
            was given apart from its prompt.
    """

    text_source: str | Callable[[], str] | None = field(compare=False, repr=False)
    token_ids: list[int]
    segment_ids: list[int] | None = None
    truncated: bool = False
    special_in_content: int = 0
    response_length: int | None = None

    @property
    def text(self) -> str | None:
        """The templated text, or the token ids' where there is no template; None where token ids were given.

        It may take half as long as tokenising it did, each time.
        """
        return self.text_source() if callable(self.text_source) else self.text_source


class Renderer:
    """Turns records into token ids for one checkpoint. Safe to use from several threads.

    Args:
        tokenizer: a fast tokenizer; truncation and padding left in its file are switched off.
        rendering: how conversations become text.
        max_length: tokens the model may read.
        vocab_size: ids the model has embeddings for.
        takes_segments: the model tells the two texts of a pair apart by segment ids.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        rendering: Rendering,
        max_length: int,
        vocab_size: int,
        takes_segments: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.rendering = rendering
        self.max_length = max_length
        self._vocab_size = vocab_size
        self._takes_segments = takes_segments
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self.template = ChatTemplate(tokenizer, _source(tokenizer)) if rendering == "chat_template" else None
        self._special = _special_strings(tokenizer)
        self._leading, self._closing = self._find_frame()

    def limited(self, max_length: int) -> "Renderer":
        """The same for fewer tokens."""
        other = copy(self)
        other.max_length = max_length
        return other

    def render(self, record: Record, *, truncate: bool = False) -> Rendered:
        """Renders one record.

        Raises:
            InputError: it cannot be scored; see `reward_model.errors` for the kinds.
        """
        if isinstance(record, Conversation):
            return self._render_all(record.prompt, [record.response], truncate=truncate, finished=record.finished)[0]
        if isinstance(record, Text):
            ids = self._ids(record.text)
            framed = self._frame(ids)
            return self._fit_ids(framed, record.text if framed == ids else self._later(framed), truncate=truncate)
        return self._fit_ids(self._checked(record), None, truncate=truncate)

    def render_group(self, prompt: Prompt, responses: Sequence[str], *, truncate: bool = False) -> list[Rendered]:
        """Renders several responses to one prompt (a comparison, a training pair), cut once for the longest.

        Raises:
            InputError: one of them cannot be scored; a TooLong names it in `response`.
        """
        return self._render_all(prompt, responses, truncate=truncate, finished=True)

    def _render_all(
        self, prompt: Prompt, responses: Sequence[str], *, truncate: bool, finished: bool
    ) -> list[Rendered]:
        rendered = [self._render_one(prompt, response, finished=finished) for response in responses]
        longest = max(range(len(rendered)), key=lambda i: len(rendered[i].token_ids))
        num_tokens = len(rendered[longest].token_ids)
        if num_tokens <= self.max_length:
            return rendered
        if not truncate:
            raise self._too_long(num_tokens, longest)
        fitting = cut_prompt(
            prompt,
            self.max_length,
            lambda shorter: len(self._render_one(shorter, responses[longest], finished=finished).token_ids),
            self._token_starts,
        )
        cut = [self._render_one(fitting, response, finished=finished, truncated=True) for response in responses]
        if (num_tokens := len(cut[longest].token_ids)) > self.max_length:
            raise self._cannot_fit(num_tokens, longest)
        return cut

    def _render_one(self, prompt: Prompt, response: str, *, finished: bool, truncated: bool = False) -> Rendered:
        text: str | Callable[[], str]
        if self.template is not None:
            text = self.template.render(prompt, response, finished=finished)
            ids, segments = self._ids(text), None
            response = self.template.strip_end_of_turn(response)
        elif self.rendering == "pair":
            ids, segments = self._encode_pair(prompt, response, finished=finished)
            text = self._later(ids)
        else:
            raise NotRenderable(_NO_TEMPLATE)
        if not ids:
            raise NoTokens(_NOTHING)
        special = sum(map(self._count_special, [*(message.content for message in prompt), response]))
        return Rendered(text, ids, segments, truncated, special, len(response))

    def _encode_pair(self, prompt: Prompt, response: str, *, finished: bool) -> tuple[list[int], list[int] | None]:
        if len(prompt) != 1 or prompt[0].role != "user" or not finished:
            raise NotRenderable(_NOT_A_PAIR)
        encoding = self._backend.encode_batch_fast([(prompt[0].content, response)], add_special_tokens=True)[0]
        return encoding.ids, encoding.type_ids if self._takes_segments else None

    def _ids(self, text: str) -> list[int]:
        # A batch of one: unlike `encode`, it lets other threads run meanwhile, and it keeps no offsets.
        ids: list[int] = self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def _token_starts(self, text: str) -> list[int]:
        encoding = self._backend.encode_batch([text], add_special_tokens=False)[0]
        return [start for start, _ in encoding.offsets]

    def _count_special(self, content: str) -> int:
        return len(self._special.findall(content)) if self._special is not None else 0

    def _frame(self, ids: list[int]) -> list[int]:
        """Exactly one leading BOS or CLS where the model was trained with it; for encoders also the closing SEP."""
        lead, start = len(self._leading), 0
        while lead and ids[start : start + lead] == self._leading:
            start += lead
        ids = ids[start:]
        closing = [] if self._closing == ids[-1:] else self._closing
        return [*self._leading, *ids, *closing]

    def _checked(self, record: TokenIds) -> list[int]:
        for position, token_id in enumerate(record.ids):
            if not 0 <= token_id < self._vocab_size:
                msg = f"token id {token_id} at position {position} is outside the vocabulary of {self._vocab_size} ids"
                raise BadTokenId(msg)
        return list(record.ids)

    def _later(self, ids: list[int]) -> Callable[[], str]:
        """The text of `ids`, for who asks."""
        return partial(_decoded, self.tokenizer, ids)

    def _fit_ids(self, ids: list[int], text: str | Callable[[], str] | None, *, truncate: bool) -> Rendered:
        if not ids:
            raise NoTokens(_NOTHING)
        if len(ids) <= self.max_length:
            return Rendered(text, ids)
        if not truncate:
            raise self._too_long(len(ids), None)
        lead = self._leading if ids[: len(self._leading)] == self._leading else []
        kept = [*lead, *ids[len(ids) - (self.max_length - len(lead)) :]]
        return Rendered(None if text is None else self._later(kept), kept, truncated=True)

    def _too_long(self, num_tokens: int, response: int | None) -> TooLong:
        msg = (
            f"{num_tokens} tokens, the limit is {self.max_length}: shorten it, or set `truncate` to leave out the"
            " oldest part of the prompt"
        )
        return TooLong(msg, num_tokens=num_tokens, limit=self.max_length, response=response)

    def _cannot_fit(self, num_tokens: int, index: int) -> TooLong:
        msg = (
            f"{num_tokens} tokens are left when all of the prompt that may go is gone, the limit is {self.max_length}:"
            " the response, the system turn and the template are never cut, so shorten the response or the system turn"
        )
        return TooLong(msg, num_tokens=num_tokens, limit=self.max_length, response=index)

    def _find_frame(self) -> tuple[list[int], list[int]]:
        """The leading BOS or CLS and the closing SEP that rendered conversations have, as id lists of 0 or 1."""
        if self.template is not None:
            ids = self._ids(self.template.render(_FRAME_PROBE, "x"))
        else:
            ids = self._backend.encode("x", add_special_tokens=True).ids
        cls_id, sep_id = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        starts = {cls_id, self.tokenizer.bos_token_id} - {None}
        leading = ids[:1] if ids[0] in starts else []
        is_encoder = bool(leading) and leading[0] == cls_id
        closing = ids[-1:] if is_encoder and ids[-1] == sep_id else []
        return leading, closing


_NOTHING = "the input has no tokens: there is nothing to score"
_NO_TEMPLATE = (
    "this checkpoint has no chat template, so a conversation has no defined text: send `text` or `token_ids`, or name"
    " a template file with RM_CHAT_TEMPLATE"
)
_NOT_A_PAIR = (
    "this encoder has no chat template and reads one user turn and one finished response as a text pair: send exactly"
    " that, or `text`"
)
_FRAME_PROBE: Prompt = (Message("user", "x"),)


def _decoded(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    return str(tokenizer.decode(ids))


def _source(tokenizer: "PreTrainedTokenizerBase") -> str:
    source = tokenizer.get_chat_template()
    return str(source)


def _special_strings(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str] | None:
    strings = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    strings |= set(tokenizer.all_special_tokens)
    if not strings:
        return None
    return re.compile("|".join(re.escape(string) for string in sorted(strings, key=len, reverse=True)))
