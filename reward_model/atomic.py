"""Putting a finished directory in place in one step, so that a half-written one is never seen.

Knows nothing of what is inside.
"""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def replaced_directory(target: Path) -> Iterator[Path]:
    """Yields an empty directory that takes the place of `target` when the block ends without an error.

    A previous `target` stays whole and in place until then; a crash at any moment leaves the old or the new one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield staging
        staging.chmod(0o755)
        for path in (*staging.rglob("*"), staging):
            _sync(path)
        _swap(staging, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _swap(staging: Path, target: Path) -> None:
    """Renames `staging` to `target`; what was there is left at `staging`."""
    if not target.exists():
        staging.rename(target)
        return
    try:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        exchange = None
    if exchange and not exchange(_AT_FDCWD, os.fsencode(staging), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE):
        return
    # No exchange on this system: two renames, with a moment in which only the staged copies exist.
    aside = staging.with_name(staging.name + ".previous")
    target.rename(aside)
    staging.rename(target)
    aside.rename(staging)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
