"""Results on disk, written whole or not at all. Knows nothing of what is in them."""

import json
from pathlib import Path
from typing import Any

from reward_model.atomic import replaced_file


def write_document(document: dict[str, Any], path: Path) -> None:
    """Writes `document` to `path`, replacing what was there in one step; missing directories are made.

    Raises:
        ValueError: it holds a number that JSON cannot express (NaN or infinity); nothing is written.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        file.write(text.encode())


def read_document(path: Path, version: int) -> dict[str, Any]:
    """What was written to `path`, without its `format_version`.

    Raises:
        ValueError: it is no JSON document of that version.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    found = document.pop("format_version", None) if isinstance(document, dict) else None
    if found != version:
        msg = f"its format version is {found!r}, this release reads {version}"
        raise ValueError(msg)
    return dict(document)
