"""Attention over a packed row: each segment sees itself and nothing else.

Registered with transformers' `AttentionInterface`, so that the models' own code does everything but attention. One
function, equal to transformers' eager attention on each sequence alone; causality, sliding windows and soft caps are
the model's. Knows nothing of batches of requests.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

from reward_model.errors import CheckpointRefused

#: The name under which transformers dispatches to `packed_attention`.
PACKED = "reward_model_packed"
#: Tensors that some models hand through and that change nothing here.
_HARMLESS = frozenset({"position_ids", "cache_position"})


def packed_attention(  # noqa: PLR0913 - the signature is transformers'
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    *,
    segments: Sequence[int],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Attention within each segment.

    Args:
        module: the model's attention module; its `is_causal` says whether tokens see later ones.
        query: [1, heads, T, head_size].
        key, value: [1, key_value_heads, T, head_size].
        attention_mask: always None: transformers builds none for an attention it has no mask function for.
        segments: bounds of the segments, 0 first and T last.
        scaling: factor on the logits; default head_size ** -0.5.
        dropout: probability, in training.
        sliding_window: a token sees others less than this many positions away.
        softcap: logits become softcap * tanh(logits / softcap) (Gemma 2).
        is_causal: overrides the module's.

    Returns:
        [1, T, heads, head_size], and None for the weights.

    Raises:
        CheckpointRefused: the model's attention has a term that is not known here (attention sinks, say).
    """
    if unknown := sorted(name for name, value in others.items() if isinstance(value, Tensor) and name not in _HARMLESS):
        msg = f"this model's attention has a term that packed attention does not know: {', '.join(unknown)}"
        raise CheckpointRefused(msg)
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    pieces = []
    for start, count, length in _runs(segments):
        # Equal lengths side by side are one batch: [count, heads, length, head_size], without a copy.
        q, k, v = (_batched(tensor, start, count, length) for tensor in (query, key, value))
        windowed = sliding_window is not None and length > sliding_window
        mask = _mask(q, sliding_window, causal=causal) if windowed or softcap is not None else None
        if softcap is not None and mask is not None:
            piece = _softcapped(q, k, v, softcap, scaling, dropout, mask)
        else:
            piece = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                is_causal=causal and not windowed,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=_grouped(q, k),
            )
        pieces.append(piece.transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces).unsqueeze(0), None


def _runs(segments: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(start, count, length) of each run of segments that are equally long."""
    start = 0
    for length, run in groupby(end - start for start, end in pairwise(segments)):
        count = len(list(run))
        yield start, count, length
        start += count * length


def _batched(tensor: Tensor, start: int, count: int, length: int) -> Tensor:
    """[1, heads, T, head_size] -> [count, heads, length, head_size] of the tokens from `start` on."""
    heads, head_size = tensor.shape[1], tensor.shape[3]
    return tensor[0, :, start : start + count * length].view(heads, count, length, head_size).transpose(0, 1)


def _grouped(query: Tensor, key: Tensor) -> bool:
    return query.shape[1] != key.shape[1]


def _mask(query: Tensor, sliding_window: int | None, *, causal: bool) -> Tensor:
    """[n, n], true where a token may look."""
    n = query.shape[2]
    position = torch.arange(n, device=query.device)
    distance = position[:, None] - position[None, :]
    allowed = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    if sliding_window is not None:
        allowed &= distance.abs() < sliding_window
    return allowed


def _softcapped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    softcap: float,
    scaling: float | None,
    dropout: float,
    mask: Tensor,
) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    logits = torch.tanh(query @ key.transpose(2, 3) * scale / softcap) * softcap
    logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    weights = F.dropout(torch.softmax(logits, dim=-1, dtype=torch.float32).to(query.dtype), dropout)
    return weights @ value


AttentionInterface.register(PACKED, packed_attention)
