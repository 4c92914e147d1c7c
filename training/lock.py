"""A file that one process holds at a time. Knows nothing of what it stands for."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock `path`, which is removed at the end; one that a killed process left is nobody's and is taken.

    Raises:
        BlockingIOError: somebody else holds it.
        OSError: the file system knows no locks, or nothing can be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _taken(path)
    try:
        yield
    finally:
        # While it is still held: whoever takes what was removed sees that, and begins again.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _taken(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(descriptor)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
