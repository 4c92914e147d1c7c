"""The CPU time of what is tested, without that of watching it: coverage makes Python take twice as long."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import coverage


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is done inside takes less than so many seconds of this process's CPU time."""
    watching = coverage.Coverage.current()
    if watching is not None:
        watching.stop()
    try:
        began = time.process_time()
        yield
        spent = time.process_time() - began
    finally:
        if watching is not None:
            watching.start()
    assert spent < seconds
