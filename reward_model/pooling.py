"""Which hidden state a sequence is judged by: the rule of the Hugging Face class, recorded and checked.

Where transformers' classes differ among themselves is written down here once. Knows packed rows of hidden states,
nothing of heads or text.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from reward_model.errors import CheckpointRefused
from reward_model.packing import PackedBatch, to_device

#: `last_non_pad` is transformers' rule for decoders: the rightmost token whose id is not config.pad_token_id.
Pooling = Literal["cls", "mean", "last_non_pad", "last"]

#: Encoders whose sequence-classification class reads the first token.
_CLS_ENCODERS = frozenset(
    {
        "albert", "bert", "camembert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra", "ernie",
        "gte", "jina_embeddings_v3", "megatron-bert", "mobilebert", "mpnet", "nomic_bert", "rembert", "roberta",
        "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
    }
)  # fmt: skip


def pooling_of(config: PreTrainedConfig, *, has_score_head: bool) -> Pooling:
    """The rule that transformers' sequence-classification class for this config follows.

    Args:
        config: the model's config.
        has_score_head: the class scores every token with a linear `score` and picks one (all decoders do).

    Raises:
        CheckpointRefused: the class pools in a way that is not known here.
    """
    if getattr(config, "is_encoder_decoder", False):
        msg = (
            f"{config.model_type!r} models judge a sequence by a decoder that reads it a second time, which is not"
            " computed here: take a model that is an encoder or a decoder alone"
        )
        raise CheckpointRefused(msg)
    if has_score_head:
        return "last" if config.get_text_config().pad_token_id is None else "last_non_pad"
    if config.model_type == "modernbert" and config.classifier_pooling in ("cls", "mean"):
        return "mean" if config.classifier_pooling == "mean" else "cls"
    if config.model_type in _CLS_ENCODERS:
        return "cls"
    msg = (
        f"how {config.model_type!r} models pool a sequence for classification is not known here, so the score could"
        " differ from the trained one; known are decoders with a `score` head, modernbert,"
        f" {', '.join(sorted(_CLS_ENCODERS))}"
    )
    raise CheckpointRefused(msg)


def read_rows(batch: PackedBatch, pooling: Pooling, pad_token_id: int | None) -> list[int] | None:
    """For each sequence the row whose last hidden state it is judged by; None for `mean`, which takes all.

    Args:
        batch: read on the host.
        pooling: the rule.
        pad_token_id: for `last_non_pad`.
    """
    if pooling == "mean":
        return None
    bounds: list[int] = batch.cu_seqlens.tolist()
    parents = [-1] * (len(bounds) - 1) if batch.parents is None else batch.parents.tolist()
    ids = batch.input_ids.tolist() if pooling == "last_non_pad" else []
    rows: list[int] = []
    for (start, stop), parent in zip(pairwise(bounds), parents, strict=True):
        # Where every token is padding, transformers' argmax over zeros picks the first one.
        default = start if parent < 0 else rows[parent]
        if pooling == "cls":
            rows.append(default)
        elif pooling == "last":
            rows.append(stop - 1)
        else:
            rows.append(next((row for row in range(stop - 1, start - 1, -1) if ids[row] != pad_token_id), default))
    return [rows[run] for run in batch.ends.tolist()]


def mean(hidden: Tensor, batch: PackedBatch) -> Tensor:
    """The mean state of each sequence.

    Args:
        hidden: [T, d] of a packed row.
        batch: of sequences that share nothing.

    Returns:
        [n, d] in fp32.
    """
    lengths = batch.cu_seqlens.diff()
    segments, counts, ends = (
        to_device(one, hidden.device) for one in (segment_of_token(batch.cu_seqlens), lengths.unsqueeze(1), batch.ends)
    )
    totals = hidden.new_zeros((len(lengths), hidden.shape[1]), dtype=torch.float32)
    return (totals.index_add(0, segments, hidden.float()) / counts)[ends]


def segment_of_token(cu_seqlens: Tensor) -> Tensor:
    """[T]: the sequence each token of the packed row belongs to."""
    lengths = cu_seqlens.diff()
    return torch.repeat_interleave(torch.arange(len(lengths), device=cu_seqlens.device), lengths)
