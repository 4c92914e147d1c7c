"""One raw row of a preference data set as a pair: what was asked, which response won, which one lost.

Reads TRL's preference formats (strings or message lists, with the prompt in a column of its own or as the common
beginning of both sides) and HH-RLHF's raw transcripts (Bai et al. 2022, arXiv 2204.05862). Pure functions of one row:
knows neither files nor tokens.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from reward_model.records import Message, Prompt, Role, as_prompt

#: Why a row is not used. The first three are found here; the next two need a tokenizer and are found when rendering;
#: the last two need other rows (`training.repeats`, `training.leaks`).
Reason = Literal[
    "malformed", "identical", "nothing_to_score", "too_long", "not_renderable", "duplicate", "in_evaluation"
]
MALFORMED: Final = "malformed"
IDENTICAL: Final = "identical"
NOTHING: Final = "nothing_to_score"
TOO_LONG: Final = "too_long"
NOT_RENDERABLE: Final = "not_renderable"
DUPLICATE: Final = "duplicate"
IN_EVALUATION: Final = "in_evaluation"

#: Columns that change what the prompt means and that no reward model here can read.
_UNSUPPORTED = ("tools", "images", "chat_template_kwargs")
_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")
_SPEAKER_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
_ROLES: tuple[Role, ...] = get_args(Role)
_FORMS = (
    "expected are `chosen` and `rejected`, with or without `prompt`, or `prompt`, `responses` and `ranks` or `scores`"
)
#: How many of a row's columns an error names.
_COLUMNS_SHOWN = 12


class BadRow(ValueError):
    """A row that cannot be used; its text says what is wrong with it.

    Attributes:
        reason: a stable word to count by.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to one prompt, of which somebody preferred the first.

    Attributes:
        prompt: the turns before the response.
        chosen, rejected: the two responses; they differ.
        margin: by how much the chosen one is better, in units of reward; None where nobody said.
        source, category, subset: labels to report results by.
        line: where it stands in its file, counted from 1.
        label: probability that the chosen response is the better one, at least 0.5; 0.5 for a tie.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float | None
    source: str | None
    category: str | None
    line: int
    subset: str | None = None
    label: float = 1.0


def to_pair(row: Any, line: int) -> PreferencePair:
    """Turns one row, as JSON or Arrow give it, into a pair.

    Raises:
        BadRow: it is no preference between two different responses to one prompt.
    """
    if not isinstance(row, Mapping):
        msg = f"a row must be an object with `chosen` and `rejected`, not {type(row).__name__}"
        raise BadRow(MALFORMED, msg)
    check_renderable(row)
    prompt, chosen, rejected = _split(row)
    if chosen == rejected:
        msg = "both responses are the same"
        raise BadRow(IDENTICAL, msg)
    source, category, subset = (label_of(row, column) for column in ("source", "category", "subset"))
    margin, label = _margin(row), _soft_label(row)
    if label < 0.5:
        if margin is not None:
            msg = "`label` says that `rejected` is better, `margin` by how much `chosen` is: they contradict each other"
            raise BadRow(MALFORMED, msg)
        chosen, rejected, label = rejected, chosen, 1 - label
    return PreferencePair(prompt, chosen, rejected, margin, source, category, line, subset, label)


def check_renderable(row: Mapping[str, Any]) -> None:
    """Looks for columns that change what the prompt means, in a row of any form.

    Raises:
        BadRow: it has one that no reward model here can read.
    """
    for column in _UNSUPPORTED:
        if row.get(column):
            msg = f"the column `{column}` cannot be rendered, and without it the prompt would be another one"
            raise BadRow(MALFORMED, msg)


def split_transcript(text: str) -> Prompt:
    r"""The turns of a transcript `\n\nHuman: ...\n\nAssistant: ...`; empty where `text` is not one."""
    if not text.startswith(_HUMAN):
        return ()
    _, *pieces = _SPEAKER.split(text)
    return tuple(Message(_SPEAKER_ROLES[who], said) for who, said in zip(pieces[::2], pieces[1::2], strict=True))


def _split(row: Mapping[str, Any]) -> tuple[Prompt, str, str]:
    prompt = row.get("prompt")
    chosen, rejected = _side(row, "chosen"), _side(row, "rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _split_implicit(chosen, rejected) if prompt is None else _split_strings(prompt, chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        msg = "`chosen` and `rejected` must both be strings or both be lists of messages"
        raise BadRow(MALFORMED, msg)
    return _split_turns(() if prompt is None else turns_of(prompt, "prompt"), chosen, rejected)


def _split_turns(lead: Prompt, chosen: Prompt, rejected: Prompt) -> tuple[Prompt, str, str]:
    """The last turns are the responses; what precedes them on both sides alike belongs to the prompt."""
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if not turns:
            msg = f"`{name}` has no turns"
            raise BadRow(NOTHING, msg)
        if turns[-1].role != "assistant":
            msg = f"the last turn of `{name}` is not the assistant's"
            raise BadRow(MALFORMED, msg)
    n = len(lead)
    # Some sets repeat the prompt column at the beginning of both conversations.
    if n < min(len(chosen), len(rejected)) and chosen[:n] == rejected[:n] == lead:
        chosen, rejected = chosen[n:], rejected[n:]
    if chosen[:-1] != rejected[:-1]:
        raise _different_prompts(chosen, rejected)
    return (*lead, *chosen[:-1]), chosen[-1].content, rejected[-1].content


def _different_prompts(chosen: Prompt, rejected: Prompt) -> BadRow:
    shared = min(len(chosen), len(rejected))
    if chosen[:shared] == rejected[:shared]:
        msg = "one conversation is only the beginning of the other: no response is left"
        return BadRow(NOTHING, msg)
    msg = "the turns before the last one differ, so the two responses do not answer the same prompt"
    return BadRow(MALFORMED, msg)


def _split_strings(prompt: Any, chosen: str, rejected: str) -> tuple[Prompt, str, str]:
    turns = turns_of(prompt, "prompt")
    if not isinstance(prompt, str) or not split_transcript(prompt):
        return turns, chosen, rejected
    if turns[-1].role == "assistant":
        return turns[:-1], _continued(turns[-1].content, chosen), _continued(turns[-1].content, rejected)
    return turns, _without_speaker(chosen), _without_speaker(rejected)


def _continued(begun: str, completion: str) -> str:
    """The whole last turn of a transcript prompt that ends in `Assistant:`, perhaps with words of its own."""
    return begun + completion if begun else completion.removeprefix(" ")


def _without_speaker(completion: str) -> str:
    return completion.removeprefix(_ASSISTANT).removeprefix(" ") if completion.startswith(_ASSISTANT) else completion


def _split_implicit(chosen: str, rejected: str) -> tuple[Prompt, str, str]:
    """Two transcripts are split into turns; of other strings, the common beginning is the prompt.

    As in TRL's `extract_prompt`, a space before the first difference belongs to the responses.
    """
    if chosen == rejected:
        msg = "both sides are the same"
        raise BadRow(IDENTICAL, msg)
    transcripts = split_transcript(chosen), split_transcript(rejected)
    if all(transcripts):
        return _split_turns((), *transcripts)
    if any(transcripts):
        msg = "only one of the two sides is a transcript"
        raise BadRow(MALFORMED, msg)
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    if shared is None:
        msg = "one side is only the beginning of the other: no response is left"
        raise BadRow(NOTHING, msg)
    start = shared - chosen[:shared].endswith(" ")
    return as_prompt(chosen[:start]), chosen[start:], rejected[start:]


def _side(row: Mapping[str, Any], column: str) -> str | Prompt:
    value = row.get(column)
    if value is None:
        msg = f"there is no `{column}` but {columns_of(row)}; {_FORMS}"
        raise BadRow(MALFORMED, msg)
    return _text(value, column) if isinstance(value, str) else turns_of(value, column)


def turns_of(value: Any, column: str) -> Prompt:
    """The turns of a prompt: messages, a transcript, or a string, which is one user turn.

    Raises:
        BadRow: it is none of these.
    """
    if isinstance(value, str):
        text = _text(value, column)
        return split_transcript(text) or as_prompt(text)
    if not isinstance(value, list):
        msg = f"`{column}` must be a string or a list of messages, not {type(value).__name__}"
        raise BadRow(MALFORMED, msg)
    return tuple(_message(turn, column) for turn in value)


def _message(turn: Any, column: str) -> Message:
    if not isinstance(turn, Mapping):
        msg = f"a message in `{column}` must be an object with `role` and `content`, not {type(turn).__name__}"
        raise BadRow(MALFORMED, msg)
    role = next((known for known in _ROLES if known == turn.get("role")), None)
    if role is None or turn.get("tool_calls"):
        msg = f"a message in `{column}` must come from one of {', '.join(_ROLES)} and call no tools"
        raise BadRow(MALFORMED, msg)
    return Message(role, _text(turn.get("content"), column))


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        msg = f"a content in `{column}` must be a string, not {type(value).__name__}"
        raise BadRow(MALFORMED, msg)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        msg = f"a content in `{column}` holds half a surrogate pair, which is no text"
        raise BadRow(MALFORMED, msg) from error
    return value


def _margin(row: Mapping[str, Any]) -> float | None:
    value = row.get("margin")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        msg = f"`margin` must be a finite number, not {without_text(value)}"
        raise BadRow(MALFORMED, msg)
    return float(value)


def response_of(value: Any, column: str) -> str:
    """The text of a response: a string, or one message of the assistant, perhaps in a list.

    Raises:
        BadRow: it is neither.
    """
    if isinstance(value, str):
        return _text(value, column)
    turns = turns_of(value if isinstance(value, list) else [value], column)
    if len(turns) != 1 or turns[0].role != "assistant":
        msg = f"`{column}` must be a string or one message of the assistant"
        raise BadRow(MALFORMED, msg)
    return turns[0].content


def without_text(value: Any) -> str:
    """A cell for an error to name: a number as it is, of anything else the type, for errors go on record."""
    return repr(value) if isinstance(value, int | float) else type(value).__name__


def columns_of(row: Mapping[str, Any]) -> str:
    """The columns of a row that hold something, for an error to name."""
    found = [f"`{name}`" for name, value in row.items() if value is not None]
    return ", ".join(found[:_COLUMNS_SHOWN]) + (", ..." if len(found) > _COLUMNS_SHOWN else "") or "nothing"


def label_of(row: Mapping[str, Any], column: str) -> str | None:
    """What `column` says to report by, as text; None where it says nothing."""
    value = row.get(column)
    return None if value is None else _text(str(value), column)


def _soft_label(row: Mapping[str, Any]) -> float:
    value = row.get("label")
    if value is None:
        return 1.0
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        msg = f"`label` must be the probability, within [0, 1], that `chosen` is better, not {without_text(value)}"
        raise BadRow(MALFORMED, msg)
    return float(value)
