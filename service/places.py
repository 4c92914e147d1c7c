"""Where in a request something stands, as a problem names it: `comparisons[1].responses[0]`.

Knows how places are written, not what is at them.
"""

from collections.abc import Mapping, Sequence

#: A place, and the fields that say the same to a program.
Place = tuple[str, Mapping[str, int]]


class LocatedError(Exception):
    """An error of one input, and where in the request that input stands.

    Args:
        error: what is wrong with it.
        place: where it is.
    """

    def __init__(self, error: Exception, place: Place) -> None:
        self.error = error
        self.location, self.fields = place
        super().__init__(f"{self.location}: {error}")


def as_input(index: int) -> Place:
    """Input `index` of a plain list."""
    return f"inputs[{index}]", {"index": index}


def as_response(comparison: int, response: int | None) -> Place:
    """A response of a comparison; None: it cannot be said which."""
    if response is None:
        return f"comparisons[{comparison}]", {"index": comparison}
    return f"comparisons[{comparison}].responses[{response}]", {"index": comparison, "response": response}


def path(parts: Sequence[str | int]) -> str:
    """Keys and indices as people write them: `inputs[3].messages[0].role`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
