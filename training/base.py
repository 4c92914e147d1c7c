"""A base model made ready to become a reward model: a score head, a chat template, a padding id that pools right.

Any Hugging Face encoder or decoder will do. Knows nothing of data or optimisers.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from reward_model.backbone import usable_positions
from reward_model.errors import CheckpointRefused
from reward_model.pooling import pooling_of
from reward_model.pretrained import LOADING_ERRORS, first_line, load_tokenizer, vocabulary_of
from reward_model.source import check_safe, locate
from reward_model.template import DECODER_TEMPLATE, ENCODER_TEMPLATE, pin_clock

logger = logging.getLogger(__name__)

PAD_TOKEN = "<|reward_pad|>"  # noqa: S105 - no password


@dataclass(frozen=True, slots=True)
class Base:
    """What training starts from.

    Attributes:
        network: a sequence classifier with the labels asked for, in fp32.
        tokenizer: with a chat template that does not depend on the clock.
        positions: how many tokens the model can read.
        head_initialisation: `sha256:` over the head's weights as they are now, before training.
    """

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    positions: int
    head_initialisation: str


def load_base(
    name: str, *, labels: Sequence[str] = ("reward",), disable_dropout: bool = True, head_seed: int = 0
) -> Base:
    """Loads a base model by directory or hub name.

    Args:
        name: which.
        labels: what the head gives, by name.
        disable_dropout: train without.
        head_seed: of the weights that are new; the random numbers of whoever calls are left alone.

    Raises:
        CheckpointRefused: it cannot become a reward model whose score is well defined.
    """
    directory = locate(name)
    check_safe(directory)
    tokenizer = load_tokenizer(directory)
    with torch.random.fork_rng():
        torch.manual_seed(head_seed)
        network, made_up = _with_head(directory, labels, disable_dropout=disable_dropout)
    head = _head_hash(network, made_up)
    is_decoder = hasattr(network, "score")
    if is_decoder:
        _set_template(tokenizer, DECODER_TEMPLATE)
        _set_padding(network, tokenizer)
    else:
        _set_template(tokenizer, ENCODER_TEMPLATE)
    pooling_of(network.config, has_score_head=is_decoder)
    return Base(network, tokenizer, usable_positions(network), head)


def _with_head(directory: Path, labels: Sequence[str], *, disable_dropout: bool) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of its weights that the base does not have."""
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False, **_named(labels))
        if disable_dropout:
            _disable_dropout(config)
        network, info = AutoModelForSequenceClassification.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except LOADING_ERRORS as error:
        msg = f"transformers cannot load {directory.name} as a sequence classifier: {first_line(error)}"
        raise CheckpointRefused(msg) from error
    for module in network.modules():
        if disable_dropout and isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # what no entry of the config speaks of
    prefix = f"{network.base_model_prefix}."
    made_up = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    lost = sorted(key for key in made_up if key.startswith(prefix) and ".pooler." not in key)
    if lost:
        msg = f"the base model lacks {', '.join(lost[:4])}: only its head may be new"
        raise CheckpointRefused(msg)
    logger.info("new at random: %s", ", ".join(sorted(made_up)) or "nothing, the base already has a score head")
    return cast("PreTrainedModel", network), made_up


def _head_hash(network: PreTrainedModel, made_up: set[str]) -> str:
    """Of all that the base did not bring along: runs can be averaged only where this is the same for all of them."""
    prefix = f"{network.base_model_prefix}."
    digest = sha256()
    for name, weight in sorted(network.named_parameters(), key=lambda item: item[0]):
        if name in made_up or not name.startswith(prefix):
            digest.update(f"{name} {tuple(weight.shape)} ".encode())
            digest.update(weight.detach().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def _named(labels: Sequence[str]) -> dict[str, Any]:
    """What the config is to say of the labels; one alone needs no name."""
    if len(labels) == 1:
        return {"num_labels": 1}
    return {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}


def _disable_dropout(config: PreTrainedConfig) -> None:
    """Every probability of dropping something, in modules and in functions alike, comes from the config."""
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)


def _set_template(tokenizer: PreTrainedTokenizerBase, default: str) -> None:
    if tokenizer.chat_template is None:
        logger.info("the base has no chat template; using a plain one")
        tokenizer.chat_template = default
    tokenizer.chat_template = pin_clock(str(tokenizer.get_chat_template()))


def _set_padding(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives a decoder a padding token that never occurs in rendered text.

    transformers scores the rightmost token that is not padding. Were padding the end-of-sequence token, or one that
    content can contain (ChatML's <|endoftext|>), the score would be read too early. So it is always a token of our own.
    """
    if tokenizer.pad_token != PAD_TOKEN:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    if len(tokenizer) > vocabulary_of(network):
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    network.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    network.config.pad_token_id = tokenizer.pad_token_id
