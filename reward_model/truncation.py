"""Which part of a prompt goes when a conversation is too long.

Whole leading turns first, then the last user turn's own tokens from the left. The system turn, the response and the
template's tail are never touched. Knows neither templates nor tokenizers: it is told how long a prompt renders to.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from reward_model.errors import NotRenderable
from reward_model.records import Message, Prompt

Measure = Callable[[Prompt], int]
#: Start offsets, in characters, of a content's tokens.
TokenStarts = Callable[[str], Sequence[int]]


def cut_prompt(prompt: Prompt, limit: int, measure: Measure, token_starts: TokenStarts) -> Prompt:
    """Shortens `prompt` as little as needed.

    Args:
        prompt: turns before the response.
        limit: tokens allowed for the rendered conversation.
        measure: tokens of the rendered conversation with a given prompt (with the longest of its responses).
        token_starts: where the tokens of a content begin.

    Returns:
        The prompt that fits; where none does (the rest alone is too long), the shortest there is.
    """
    measure = cache(measure)  # tokenising a megabyte takes a second
    shortened = _drop_leading_turns(prompt, limit, measure)
    if measure(shortened) <= limit:
        return shortened
    return _cut_last_user_turn(shortened, limit, measure, token_starts)


def _drop_leading_turns(prompt: Prompt, limit: int, measure: Measure) -> Prompt:
    """Drops whole non-system turns before the last user turn until the rest fits, or none is left to drop."""
    last_user = _last_user(prompt)
    droppable = len(prompt) if last_user is None else last_user

    def without(turns: int) -> Prompt:
        return tuple(m for i, m in enumerate(prompt) if i >= turns or m.role == "system")

    starts = [0] + [i + 1 for i in range(droppable) if prompt[i].role != "system"]
    if not all(_accepted(without(start), measure) for start in starts[1:2]):
        # The template wants the conversation to begin with the user, so an answer goes with its question.
        starts = [start for start in starts if start == len(prompt) or prompt[start].role == "user"]
    index = bisect_left(starts, True, key=lambda start: measure(without(start)) <= limit)
    return without(starts[min(index, len(starts) - 1)])


def _accepted(prompt: Prompt, measure: Measure) -> bool:
    try:
        measure(prompt)
    except NotRenderable:
        return False
    return True


def _last_user(prompt: Prompt) -> int | None:
    return max((i for i, message in enumerate(prompt) if message.role == "user"), default=None)


def _cut_last_user_turn(prompt: Prompt, limit: int, measure: Measure, token_starts: TokenStarts) -> Prompt:
    last_user = _last_user(prompt)
    if last_user is None:
        return prompt
    content = prompt[last_user].content
    starts = [*token_starts(content), len(content)]
    # A content longer than the whole limit cannot keep more than the limit: no need to render it once more.
    drop = max(0, len(starts) - 1 - limit)
    while True:
        candidate = _with_content(prompt, last_user, content[starts[drop] :])
        excess = measure(candidate) - limit
        if excess <= 0 or drop == len(starts) - 1:
            return candidate
        # Tokens at the cut may merge differently, so the count is taken again after each step.
        drop = min(drop + excess, len(starts) - 1)


def _with_content(prompt: Prompt, index: int, content: str) -> Prompt:
    changed: Message = replace(prompt[index], content=content)
    return (*prompt[:index], changed, *prompt[index + 1 :])
