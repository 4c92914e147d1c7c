"""transformers' objects in and out of a checkpoint directory, whole or not at all. Knows no manifests and no scores."""

from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from reward_model.errors import CheckpointRefused

#: What transformers and safetensors raise for files that are damaged, unknown or need something that is not installed.
LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError, SafetensorError)

_TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.*", "merges.txt")
_NO_TOKENIZER = "there is no tokenizer beside the model: save it there (tokenizer.json or what it is made from)"


def first_line(error: Exception) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def load_network(directory: Path, *, dtype: str | torch.dtype = "auto") -> PreTrainedModel:
    """The transformers model of a checkpoint, with every weight from the file.

    Raises:
        CheckpointRefused: a weight is missing, and so would be made up at random (a lost score head, most often).
    """
    try:
        network, info = AutoModelForSequenceClassification.from_pretrained(
            directory, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except LOADING_ERRORS as error:
        msg = f"transformers cannot load the model: {first_line(error)}"
        raise CheckpointRefused(msg) from error
    missing = sorted(info["missing_keys"])
    if missing:
        shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        msg = f"the checkpoint lacks {shown}: scores would come from random numbers; save the model with its head"
        raise CheckpointRefused(msg)
    return cast("PreTrainedModel", network)


def vocabulary_of(network: PreTrainedModel) -> int:
    """How many token ids the model has embeddings for."""
    embeddings = network.get_input_embeddings()
    assert isinstance(embeddings.weight, torch.Tensor)
    return len(embeddings.weight)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, in its fast form.

    Raises:
        CheckpointRefused: there is none, or it has no fast form.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except LOADING_ERRORS as error:
        absent = not any(path for pattern in _TOKENIZER_FILES for path in directory.glob(pattern))
        reason = _NO_TOKENIZER if absent else f"transformers cannot load the tokenizer: {first_line(error)}"
        raise CheckpointRefused(reason) from error
    # Where the files are missing, transformers may make up a tokenizer that knows no words. (A large vocabulary is not
    # looked at, which would take its time.)
    if len(tokenizer) < 100 and set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise CheckpointRefused(_NO_TOKENIZER)
    if not tokenizer.is_fast:
        msg = "the tokenizer has no fast (tokenizer.json) form, which rendering needs: convert it"
        raise CheckpointRefused(msg)
    return tokenizer


def save_pretrained(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Writes both to `directory`; raises OSError where the disk is full."""
    try:
        network.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    except SafetensorError as error:
        raise OSError(first_line(error)) from error
