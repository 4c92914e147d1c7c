"""The native wire contract, inwards: what /score, /compare and /render take; `answers` is what they give.

Only shapes: knows neither tokens nor statuses. Nothing is coerced; what is not exactly right is refused.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator
from pydantic_core import PydanticCustomError

from reward_model.records import (
    Conversation,
    Message,
    Prompt,
    Record,
    Role,
    Text,
    TokenIds,
    as_conversation,
    as_prompt,
)

#: What X-Request-Timeout may be: a decimal number above zero, in one way only, so that no text is slow to match.
SECONDS = r"0*[1-9][0-9]*(\.[0-9]*)?|0+\.0*[1-9][0-9]*"

#: Names of the forms an input can have, as they show up in pydantic's error locations.
FORMS = ("<sample>", "<chat>", "<templated>", "<tokens>", "<string>", "<messages>")

_FORM_OF_KEY = {
    "prompt": "<sample>",
    "response": "<sample>",
    "messages": "<chat>",
    "text": "<templated>",
    "token_ids": "<tokens>",
}


class Wire(BaseModel):
    """Base of all requests."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, value: object) -> object:
        # Each unknown key would become an error of its own, a body of nothing but keys a heap of them.
        if isinstance(value, dict) and len(value) > len(cls.model_fields):
            unknown = next(key for key in value if key not in cls.model_fields)
            kind, template = "unknown_field", "{message}"
            raise PydanticCustomError(kind, template, {"message": unknown_field(str(unknown))})
        return value


class Body(Wire):
    """Base of what a whole request body can be."""

    @classmethod
    def count(cls, raw: object) -> int:
        """How many inputs the unvalidated JSON holds: too many are refused before they are looked at."""
        return _length(raw, "inputs")


def _length(raw: object, key: str) -> int:
    value = raw.get(key) if isinstance(raw, dict) else None
    return len(value) if isinstance(value, list) else 0


def unknown_field(name: str) -> str:
    """Says that `name` is unknown; names it only where it cannot be somebody's text."""
    shown = f" {name}" if name.isascii() and name.isidentifier() and len(name) <= 40 else ""
    return f"unknown field{shown}"


class WireMessage(Wire):
    """One turn."""

    role: Role
    content: str = Field(description="may be empty")


WireMessages = Annotated[list[WireMessage], Field(min_length=1, fail_fast=True)]


def _prompt_form(value: object) -> str | None:
    return "<string>" if isinstance(value, str) else "<messages>" if isinstance(value, list) else None


WirePrompt = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[WireMessages, Tag("<messages>")],
    Discriminator(
        _prompt_form,
        custom_error_type="prompt_form",
        custom_error_message="a prompt is a string (one user turn) or a list of messages",
    ),
]


class Sample(Wire):
    """A prompt and one response to it."""

    prompt: WirePrompt
    response: str = Field(description="may be empty")
    finished: bool = Field(default=True, description="false: the response was cut off by a length limit")

    def record(self) -> Record:
        """The conversation to score."""
        return Conversation(_prompt(self.prompt), self.response, self.finished)


class Chat(Wire):
    """A whole conversation; the last turn, the assistant's, is what gets scored."""

    messages: WireMessages
    finished: bool = Field(default=True, description="false: the last turn was cut off by a length limit")

    @model_validator(mode="after")
    def _ends_with_the_assistant(self) -> "Chat":
        if self.messages[-1].role != "assistant":
            kind, template = "last_role", "the last message must have the role assistant"
            raise PydanticCustomError(kind, template)
        return self

    def record(self) -> Record:
        """The conversation to score."""
        return as_conversation(_messages(self.messages), finished=self.finished)


class Templated(Wire):
    """Text that already went through the chat template."""

    text: str

    def record(self) -> Record:
        """The text to score."""
        return Text(self.text)


class Tokens(Wire):
    """Token ids, scored as they stand."""

    token_ids: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] = Field(min_length=1, fail_fast=True)

    def record(self) -> Record:
        """The ids to score."""
        return TokenIds(tuple(self.token_ids))


def _input_form(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    forms = {form for key, form in _FORM_OF_KEY.items() if key in value}
    return forms.pop() if len(forms) == 1 else None


WireInput = Annotated[
    Annotated[Sample, Tag("<sample>")]
    | Annotated[Chat, Tag("<chat>")]
    | Annotated[Templated, Tag("<templated>")]
    | Annotated[Tokens, Tag("<tokens>")],
    Discriminator(
        _input_form,
        custom_error_type="input_form",
        custom_error_message=(
            "an input is an object with exactly one of: prompt and response, messages, text, token_ids"
        ),
    ),
]

_INPUTS: list[JsonValue] = [
    {"prompt": "Name a prime number above 10.", "response": "13"},
    {
        "messages": [
            {"role": "user", "content": "Hi!"},
            {"role": "assistant", "content": "Hello, how can I help?"},
        ]
    },
]


class RenderRequest(Body):
    """What /render takes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": _INPUTS}]})

    inputs: list[WireInput] = Field(min_length=1)
    truncate: bool = Field(default=False, description="cut a conversation that is too long instead of refusing it")


class ScoreRequest(RenderRequest):
    """What /score takes."""

    normalize: bool = Field(default=False, description="give (raw - mean) / std instead of the raw reward")


class WireComparison(Wire):
    """One prompt and two or more responses to it."""

    prompt: WirePrompt
    responses: list[str] = Field(min_length=2, fail_fast=True)

    def as_prompt(self) -> Prompt:
        """The turns before the response."""
        return _prompt(self.prompt)


class CompareRequest(Body):
    """What /compare takes."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"comparisons": [{"prompt": "Is 57 prime?", "responses": ["Yes.", "No, 57 = 3 * 19."]}]}]
        }
    )

    comparisons: list[WireComparison] = Field(min_length=1)
    truncate: bool = Field(
        default=False,
        description="cut a prompt that is too long instead of refusing it, once for all responses to it",
    )
    pairwise: bool = Field(default=False, description="also give P(i beats j) for each pair of responses")

    @classmethod
    def count(cls, raw: object) -> int:
        """How many responses there are in all; a comparison counts as one even if it has none."""
        comparisons = raw.get("comparisons") if isinstance(raw, dict) else None
        if not isinstance(comparisons, list):
            return 0
        return sum(max(1, _length(comparison, "responses")) for comparison in comparisons)


def _messages(messages: list[WireMessage]) -> tuple[Message, ...]:
    return tuple(Message(message.role, message.content) for message in messages)


def _prompt(prompt: str | list[WireMessage]) -> Prompt:
    return as_prompt(prompt if isinstance(prompt, str) else _messages(prompt))
