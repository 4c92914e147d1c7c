"""How much structure there is in JSON text, before it is parsed.

A parser makes an object of every value and holds up all other threads meanwhile: 32 MiB of `[[[[],` take it seconds and
gigabytes. Counting bytes takes milliseconds. Knows JSON's punctuation, not what it is about.
"""

import re
from itertools import islice

from service.errors import TooLarge

#: Tokens of one request.
MAX_REQUEST_TOKENS = 2_000_000
#: Objects, lists and members for each input that a request may have: a conversation of thirty turns.
MARKS_PER_INPUT = 96
#: Bytes that are counted in one go, while all other threads wait.
PIECE = 1 << 20

#: A string (without its end, the rest of the text), and what stands before the next. Nothing is looked at twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?([^"]*+)', re.DOTALL)
#: Strings that are looked at in one go.
_STRINGS = 4096


def check(body: bytes, max_inputs: int) -> None:
    """Refuses JSON text with more values than any request needs.

    Raises:
        TooLarge: it has them, even though what stands inside strings does not count.
    """
    limit = max_inputs * MARKS_PER_INPUT
    marks, commas = _Count(b"{[:", limit), _Count(b",", MAX_REQUEST_TOKENS + limit)
    for count in (marks, commas):
        # Most bodies have less even with what stands in their texts, and most of those are shorter than that.
        if len(body) > count.limit and count.upper(body) > count.limit and count.exact(body) > count.limit:
            msg = "more lists, objects and numbers in one request than its inputs can have: send several"
            raise TooLarge(msg)


class _Count:
    def __init__(self, punctuation: bytes, limit: int) -> None:
        self._punctuation = [bytes([one]) for one in punctuation]
        self.limit = limit

    def upper(self, body: bytes) -> int:
        """What there is in all of `body`, strings included."""
        return sum(self._within(body, start, start + PIECE) for start in range(0, len(body), PIECE))

    def exact(self, body: bytes) -> int:
        """What there is outside of strings; counts no further than beyond the limit."""
        first = body.find(b'"')
        found, strings = self._within(body, 0, len(body) if first < 0 else first), 0
        matches = _STRING.finditer(body)
        while some := [match[1] for match in islice(matches, _STRINGS)]:
            between = b"".join(some)
            found += self._within(between, 0, len(between))
            strings += len(some)
            # Between strings there is punctuation, or it is no JSON.
            if (most := max(found, strings - MAX_REQUEST_TOKENS)) > self.limit:
                return most
        return found

    def _within(self, body: bytes, start: int, end: int) -> int:
        return sum(body.count(one, start, end) for one in self._punctuation)
