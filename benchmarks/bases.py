"""Base models that every trainer reads the same way: head, padding and chat template are in the directory already.

What a trainer would make up for itself (a random head, a template, a padding token) would be another one in each.
Knows models, not trainers.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from reward_model.pretrained import load_tokenizer
from training.base import load_base
from training.demo.backbone import copy_backbone

#: Qwen3-0.6B in small: a third of its width, as many heads of half the size for it, six layers.
_DECODER: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "intermediate_size": 1152,
    "max_position_embeddings": 2048,
}


def write_decoder(directory: Path, *, seed: int = 0) -> Path:
    """A small causal model of random weights with the WordPiece tokenizer of the demo's backbone, dropout off.

    Args:
        directory: where to.
        seed: of the weights.

    Raises:
        CheckpointRefused: the package with the tokenizer is not installed (see requirements-demo.txt).
    """
    with tempfile.TemporaryDirectory() as home:
        source = copy_backbone(Path(home))
        tokenizer = load_tokenizer(source)
        tokenizer.add_special_tokens({"bos_token": "[CLS]", "eos_token": "[SEP]"})
        torch.manual_seed(seed)
        special = ("bos_token_id", "eos_token_id", "pad_token_id")
        ids = {name: getattr(tokenizer, name) for name in special}
        config = AutoConfig.for_model("qwen3", **_DECODER, **ids, vocab_size=len(tokenizer), num_labels=1)
        network = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
        bare = Path(home) / "bare"
        network.save_pretrained(bare)
        tokenizer.save_pretrained(bare)
        return _made_ready(bare, directory)


def write_encoder(directory: Path) -> Path:
    """The demo's MiniLM backbone under a random head, dropout off.

    Raises:
        CheckpointRefused: the package with the backbone is not installed (see requirements-demo.txt).
    """
    with tempfile.TemporaryDirectory() as home:
        return _made_ready(copy_backbone(Path(home)), directory)


def _made_ready(source: Path, directory: Path) -> Path:
    base = load_base(str(source))
    base.network.save_pretrained(directory)
    base.tokenizer.save_pretrained(directory)
    return directory
