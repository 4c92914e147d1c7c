"""Results on disk, written whole or not at all. Knows nothing of what is in them."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def write_document(document: dict[str, Any], path: Path) -> None:
    """Writes `document` to `path`, replacing what was there in one step; missing directories are made.

    Raises:
        ValueError: it holds a number that JSON cannot express (NaN or infinity); nothing is written.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        file.write(text.encode())


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
