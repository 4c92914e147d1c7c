"""The chat template: where it comes from, what it wraps around a response, and that it does not depend on the clock.

Knows tokenizers only as something that renders messages to text; nothing here counts tokens.
"""

import hashlib
import re
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

from reward_model.errors import CheckpointRefused, NotRenderable
from reward_model.records import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: For encoders that bring none: CLS, then every turn closed by SEP. Roles are implied by the order of turns.
ENCODER_TEMPLATE = "{{ cls_token }}{% for message in messages %}{{ message['content'] }}{{ sep_token }}{% endfor %}"

#: For decoders that bring none: BOS where there is one, named turns, EOS after the response.
DECODER_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}"
    "{% elif messages[-1]['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
)

#: A response no template changes, so that what follows it can be told from it.
_PROBE = "RewardProbeResponse"
_CLOCK_CALL = re.compile(r"""strftime_now\(\s*(['"])(?P<format>[^'"]*)\1\s*\)""")


class ChatTemplate:
    """Renders a conversation to text, exactly as `tokenizer.apply_chat_template` does.

    Attributes:
        source: the Jinja template.
        tail: what the template puts after the last response (an end-of-turn token, say); may be empty.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", source: str) -> None:
        self._tokenizer = tokenizer
        self.source = source
        self.tail = self._find_tail()

    @property
    def sha256(self) -> str:
        """Hash of the template's source."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def render(self, prompt: Prompt, response: str, *, finished: bool = True) -> str:
        """Text of the whole conversation.

        Args:
            prompt: the turns before the response.
            response: one trailing end-of-turn string in it is taken as the template's own, never doubled.
            finished: false leaves the template's tail out.

        Raises:
            NotRenderable: the template refuses these turns.
        """
        text = self._apply((*prompt, Message("assistant", self.strip_end_of_turn(response))))
        if finished or not self.tail:
            return text
        if not text.endswith(self.tail):
            msg = "the chat template ends this conversation in an unusual way, so it cannot be rendered as unfinished"
            raise NotRenderable(msg)
        return text[: -len(self.tail)]

    def strip_end_of_turn(self, response: str) -> str:
        """Removes one trailing end-of-turn string, with or without the white space the template adds to it."""
        for ending in (self.tail, self.tail.strip()):
            if ending.strip() and response.endswith(ending):
                return response[: -len(ending)]
        return response

    def _apply(self, messages: Prompt) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, chat_template=self.source)
        except TemplateError as error:
            msg = f"the checkpoint's chat template refuses this conversation: {error}"
            raise NotRenderable(msg) from error
        return str(text)

    def _find_tail(self) -> str:
        text = self._apply((Message("user", "x"), Message("assistant", _PROBE)))
        _, found, tail = text.rpartition(_PROBE)
        if not found:
            msg = "the chat template does not show the assistant's response, so nothing could be scored"
            raise CheckpointRefused(msg)
        return tail


def pin_clock(source: str, now: Callable[[], datetime] = datetime.now) -> str:
    """Replaces every `strftime_now("...")` in a template by today's date as a literal.

    Otherwise the same conversation would score differently tomorrow (Llama 3's template inserts the date).

    Raises:
        CheckpointRefused: the clock is read in a way that cannot be pinned.
    """
    pinned = _CLOCK_CALL.sub(lambda call: repr(now().strftime(call["format"])), source)
    if "strftime_now(" in pinned:
        msg = (
            "the chat template reads the clock with a computed format, so its text cannot be pinned; replace the call"
            " to strftime_now in the template by a fixed date"
        )
        raise CheckpointRefused(msg)
    return pinned
