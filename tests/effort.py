"""How much random testing does: a little in the suite, a lot with `pytest tests/fuzz --hypothesis-profile=full -rP`."""

from hypothesis import settings

FACTOR = 150

settings.register_profile("full", max_examples=100 * FACTOR, deadline=None, print_blob=True)


def full() -> bool:
    """Whether this is a full run."""
    return settings.get_current_profile_name() == "full"


def times(few: int) -> int:
    """`few` in the suite, FACTOR times as many in a full run."""
    return few * FACTOR if full() else few
