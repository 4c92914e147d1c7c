"""Which hidden state a sequence is judged by: the rule of the Hugging Face class, recorded and checked.

Where transformers' classes differ among themselves is written down here once. Knows packed rows of hidden states,
nothing of heads or text.
"""

from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from reward_model.errors import CheckpointRefused

#: `last_non_pad` is transformers' rule for decoders: the rightmost token whose id is not config.pad_token_id.
Pooling = Literal["cls", "mean", "last_non_pad", "last"]

#: Encoders whose sequence-classification class reads the first token.
_CLS_ENCODERS = frozenset(
    {
        "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "roberta",
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


def pool(hidden: Tensor, input_ids: Tensor, cu_seqlens: Tensor, pooling: Pooling, pad_token_id: int) -> Tensor:
    """Picks or averages hidden states.

    Args:
        hidden: [T, d] of a packed row.
        input_ids: [T].
        cu_seqlens: [n + 1] int64, on the device of `hidden`.
        pooling: the rule.
        pad_token_id: for `last_non_pad`; anything elsewhere.

    Returns:
        [n, d] in fp32.
    """
    if pooling == "cls":
        return hidden[cu_seqlens[:-1]].float()
    if pooling == "last":
        return hidden[cu_seqlens[1:] - 1].float()
    segment = segment_of_token(cu_seqlens)
    if pooling == "mean":
        totals = hidden.new_zeros((len(cu_seqlens) - 1, hidden.shape[1]), dtype=torch.float32)
        lengths = cu_seqlens.diff().unsqueeze(1)
        return totals.index_add(0, segment, hidden.float()) / lengths
    index = torch.arange(len(input_ids), device=hidden.device)
    # Where every token is padding, transformers' argmax over zeros picks the first one: so does the minimum here.
    candidates = torch.where(input_ids.ne(pad_token_id), index, cu_seqlens[:-1][segment])
    rightmost = cu_seqlens[:-1].scatter_reduce(0, segment, candidates, "amax")
    return hidden[rightmost].float()


def segment_of_token(cu_seqlens: Tensor) -> Tensor:
    """[T]: the sequence each token of the packed row belongs to."""
    lengths = cu_seqlens.diff()
    return torch.repeat_interleave(torch.arange(len(lengths), device=cu_seqlens.device), lengths)
