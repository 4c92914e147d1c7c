"""How much random testing does: a little in the suite, a lot with `pytest tests/fuzz --hypothesis-profile=full -rP`."""

from hypothesis import settings

settings.register_profile("full", max_examples=2000, deadline=None, print_blob=True)


def full() -> bool:
    """Whether this is a full run."""
    return settings.get_current_profile_name() == "full"


def times(few: int, many: int) -> int:
    """`few` in the suite, `many` in a full run."""
    return many if full() else few
