"""Many token sequences as one flat run: no padding, so that every computed token is a real one.

Pure bookkeeping on integers: knows neither models nor text. The layout (one row of tokens, cumulative lengths as
segment bounds) is that of variable-length attention kernels (Krell et al. 2021, arXiv 2107.02027).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """`n` sequences of `T` tokens in all.

    Attributes:
        input_ids: [T] int64, the sequences one after the other.
        position_ids: [T] int64, counting from 0 in each sequence.
        cu_seqlens: [n + 1] int32; sequence i occupies input_ids[cu_seqlens[i] : cu_seqlens[i + 1]].
        segment_ids: [T] int64 (transformers' token_type_ids), or None where all are 0.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    segment_ids: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The arguments of `RewardModel.forward`."""
        fields = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "cu_seqlens": self.cu_seqlens,
            "segment_ids": self.segment_ids,
        }
        return {name: value for name, value in fields.items() if value is not None}


def pack(
    sequences: Sequence[Sequence[int]],
    segment_ids: Sequence[Sequence[int] | None] | None = None,
) -> PackedBatch:
    """Packs `sequences` (each at least one token) in their order.

    Args:
        sequences: token ids.
        segment_ids: per sequence its token_type_ids, or None for all zeros.

    Raises:
        ValueError: there is no sequence, or one is empty.
    """
    lengths = [len(sequence) for sequence in sequences]
    if not lengths or min(lengths) == 0:
        msg = f"pack() needs one or more sequences of one or more tokens each, got lengths {lengths[:10]}"
        raise ValueError(msg)
    return PackedBatch(
        input_ids=torch.tensor(list(chain.from_iterable(sequences)), dtype=torch.int64),
        position_ids=torch.cat([torch.arange(length) for length in lengths]),
        cu_seqlens=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
        segment_ids=_pack_segments(segment_ids, lengths),
    )


def _pack_segments(segment_ids: Sequence[Sequence[int] | None] | None, lengths: list[int]) -> Tensor | None:
    if segment_ids is None or all(ids is None for ids in segment_ids):
        return None
    rows = [ids if ids is not None else [0] * n for ids, n in zip(segment_ids, lengths, strict=True)]
    return torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64)
