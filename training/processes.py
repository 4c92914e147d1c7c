"""What the processes of one run tell each other, so that they go on or fail together.

Knows neither models nor data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from accelerate import PartialState  # type: ignore[import-untyped]
from accelerate.utils import gather_object  # type: ignore[import-untyped]

T = TypeVar("T")


class FailedElsewhere(RuntimeError):
    """Another process of the run failed, and says why."""


def gathered(mine: T) -> list[T]:
    """What each process has, in their order, the same for all; all must ask."""
    everyone: list[T] = gather_object([mine])
    return everyone


@contextmanager
def together() -> Iterator[None]:
    """What fails in one process fails in all, so that none waits for another that has gone.

    Raises:
        FailedElsewhere: the block failed, and an earlier process is the one that says why.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it is raised below, once the others know
        failure = error
    failed = [i for i, one in enumerate(gathered(failure is not None)) if one]
    if failure is not None and failed[0] == PartialState().process_index:
        raise failure
    if failed:
        msg = f"process {failed[0]} failed"
        raise FailedElsewhere(msg)
