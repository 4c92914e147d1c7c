"""Putting a finished directory or file in place in one step, so that a half-written one is never seen.

Knows nothing of what is inside.
"""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def checked_target(target: Path, owned: str = "reward_model.json") -> Path:
    """`target` as an absolute path, if it may be replaced: it does not exist, is empty, or holds the file `owned`.

    Raises:
        FileExistsError: it is something else, which would be lost.
    """
    resolved = target.expanduser().resolve()
    if resolved == Path.cwd() or (resolved.exists() and not resolved.is_dir()):
        msg = f"{target} cannot be replaced by a checkpoint: name a directory of its own"
        raise FileExistsError(msg)
    if resolved.is_dir() and any(resolved.iterdir()) and not (resolved / owned).is_file():
        msg = f"{target} holds files that are no checkpoint and would be lost: name another directory"
        raise FileExistsError(msg)
    return resolved


@contextmanager
def replaced_directory(target: Path) -> Iterator[Path]:
    """Yields an empty directory that takes the place of `target` when the block ends without an error.

    A previous `target` stays whole and in place until then; a crash at any moment leaves the old or the new one.

    Raises:
        OSError: it cannot be written, because the disk is full for example; the message says that nothing was lost.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield staging
        for path in (*staging.rglob("*"), staging):
            # Some writers make private files, but the service may run as another user.
            path.chmod(0o755 if path.is_dir() else 0o644)
            sync(path)
        _swap(staging, target)
        sync(target.parent)
    except OSError as error:
        msg = f"{target} cannot be written, what was there before is as it was: {error}"
        raise OSError(msg) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def replaced_file(path: Path, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """Yields an empty file that takes the place of `path`, with `mode`, when the block ends without an error."""
    descriptor, staging = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(staging).chmod(mode)
        Path(staging).replace(path)
    finally:
        Path(staging).unlink(missing_ok=True)


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


def sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
