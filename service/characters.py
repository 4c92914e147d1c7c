"""How much text one input may have: checked before a tokenizer sees it, which needs 200 bytes of memory a character.

Nobody can say from its length how many tokens a text has, since some tokenizers drop whitespace, but far more
characters than the model could read are a mistake or an attack. Knows records, not tokens.
"""

from collections.abc import Callable, Iterable

from reward_model.records import Conversation, Prompt, Record, Text
from service.errors import TooLarge
from service.places import LocatedError, Place

#: Always allowed; and for each token that the model reads: a prompt may be cut to a small part of it.
FEWEST, PER_TOKEN = 2**20, 64
#: Longest inputs that the responses of one request may come to, each with its prompt, which stands in the body once.
REPEATED = 8


def of_record(record: Record) -> int:
    """Characters of all turns of a conversation, or of a text; ids have none."""
    if isinstance(record, Conversation):
        return of_prompt(record.prompt) + len(record.response)
    return len(record.text) if isinstance(record, Text) else 0


def of_prompt(prompt: Prompt) -> int:
    """Characters of all turns."""
    return sum(len(message.content) for message in prompt)


def check(characters: Iterable[int], max_length: int, locate: Callable[[int], Place]) -> None:
    """Refuses an input that is longer than any that makes sense.

    Args:
        characters: of each input.
        max_length: tokens that the model reads.
        locate: where an input stands in the request.

    Raises:
        LocatedError: of a TooLarge, for the first such input.
    """
    limit = _limit(max_length)
    for index, count in enumerate(characters):
        if count > limit:
            msg = f"{count} characters in one input, the limit is {limit}: shorten it before you send it"
            raise LocatedError(TooLarge(msg, limit=limit), locate(index))


def check_sum(characters: int, max_length: int) -> None:
    """Refuses responses to prompts that come to far more text than the body that they were sent in.

    Args:
        characters: of all responses, each with its prompt.
        max_length: tokens that the model reads.

    Raises:
        TooLarge: there are more than so many.
    """
    limit = REPEATED * _limit(max_length)
    if characters > limit:
        msg = f"{characters} characters, prompts counted once for each response, the limit is {limit}: send several"
        raise TooLarge(msg, limit=limit)


def _limit(max_length: int) -> int:
    return max(FEWEST, PER_TOKEN * max_length)
