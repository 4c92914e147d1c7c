"""Where a checkpoint's files are, and whether they may be read at all.

Only safetensors and data files: no pickles, no code. Knows names of files, not what is in the weights.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from reward_model.errors import CheckpointRefused

_DATA_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
#: What people say of a checkpoint, its licence above all.
_TEXTS = ("*.md", "LICENSE*", "NOTICE*")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


def locate(name: str, revision: str | None = None) -> Path:
    """The local directory of a checkpoint: itself, or a hub repository's data files.

    Raises:
        CheckpointRefused: it is neither a directory nor to be had from the hub.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            msg = f"a revision ({revision}) is for models of the hub: {name} is a directory here"
            raise CheckpointRefused(msg)
        return path
    if path.exists() or name.startswith((".", "/", "~")):
        msg = f"{name} is not a checkpoint directory"
        raise CheckpointRefused(msg)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_DATA_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        msg = f"{name} is neither a directory here nor a model that the hub gives out ({reason})"
        raise CheckpointRefused(msg) from error


def check_safe(directory: Path) -> None:
    """Refuses what would execute code.

    Raises:
        CheckpointRefused: pickled weights only, no weights, or remote code.
    """
    if not any(directory.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
        if pickles:
            msg = f"the weights are pickled ({', '.join(pickles)}), which can execute code: convert them to safetensors"
            raise CheckpointRefused(msg)
        msg = f"{directory.name} holds no *.safetensors weights"
        raise CheckpointRefused(msg)
    for file in ("config.json", "tokenizer_config.json"):
        if "auto_map" in _read(directory / file):
            msg = (
                f"{file} asks for code of its own (`auto_map`), which is never run: use an architecture of transformers"
            )
            raise CheckpointRefused(msg)


def score_files(directory: Path) -> list[Path]:
    """The files a score depends on: configuration, weights, tokenizer and template."""
    patterns = ("config.json", "*.safetensors", "*.safetensors.index.json", "token*", "*.jinja", "*.model")
    more = ("special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt")
    return sorted({path for pattern in patterns + more for path in directory.glob(pattern) if path.is_file()})


def copy_files(directory: Path, target: Path) -> None:
    """Copies a checkpoint's data files and what is said of it, but no pickles and no code.

    Raises:
        OSError: the disk is full, for example.
    """
    for pattern in _DATA_FILES + _TEXTS:
        for path in filter(Path.is_file, directory.glob(pattern)):
            shutil.copyfile(path, target / path.name)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        if path.name == "config.json":
            msg = "config.json is missing: this is not a transformers checkpoint"
            raise CheckpointRefused(msg)
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path.name} is not JSON: {error}"
        raise CheckpointRefused(msg) from error
    return document if isinstance(document, dict) else {}
