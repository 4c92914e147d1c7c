"""The vocabulary everything else speaks: what can be scored, before it is text or tokens.

Knows nothing of templates, tokenizers or JSON; whoever reads a wire format or a file turns it into these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. An empty `content` is valid."""

    role: Role
    content: str


Prompt = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt and the assistant's response to it, which is what gets judged.

    `finished=False` marks a response that was cut off: it is rendered without the template's tail.
    """

    prompt: Prompt
    response: str
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Text:
    """A conversation that somebody has already put through the chat template."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A tokenised conversation, scored exactly as it stands."""

    ids: tuple[int, ...]


Record = Conversation | Text | TokenIds


def as_prompt(prompt: str | Sequence[Message]) -> Prompt:
    """A string prompt is one user turn, over HTTP and in training data alike."""
    return (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)


def as_conversation(messages: Sequence[Message], *, finished: bool = True) -> Conversation:
    """Splits off the last turn as the response.

    Raises:
        ValueError: there is no turn, or the last one is not the assistant's.
    """
    if not messages or messages[-1].role != "assistant":
        msg = "the last message must be the assistant's: it is the response that gets scored"
        raise ValueError(msg)
    return Conversation(tuple(messages[:-1]), messages[-1].content, finished)
