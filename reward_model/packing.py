"""Many token sequences as one flat row: no padding, and nothing twice.

Pure bookkeeping on integers: knows neither models nor text. The layout (one row of tokens, cumulative lengths as
bounds) is that of variable-length attention kernels (Krell et al. 2021, arXiv 2107.02027); sequences that start alike
can share their first run of tokens, as in a radix tree (Zheng et al. 2023, arXiv 2312.07104).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain

import torch
from torch import Tensor
from torch.nn import functional as F

from reward_model.prefixes import Runs, separate_runs, shared_runs


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """`n` sequences as `r` runs of `T` tokens in all; without sharing, each sequence is one run.

    Attributes:
        input_ids: [T] int64, the runs one after the other, and perhaps more tokens behind them.
        position_ids: [T] int64, counting from 0 in each sequence.
        cu_seqlens: [r + 1] int32; run i occupies input_ids[cu_seqlens[i] : cu_seqlens[i + 1]].
        ends: [n] int64; the run whose last token is the last token of sequence i.
        parents: [r] int64, the run that each run continues, -1 where it begins sequences; None where all do.
        segment_ids: [T] int64 (transformers' token_type_ids), or None where all are 0.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    ends: Tensor
    parents: Tensor | None = None
    segment_ids: Tensor | None = None

    def lengthened(self, more: int) -> "PackedBatch":
        """The same row and behind it `more` tokens, all 0, that are of no run."""
        if not more:
            return self
        filled = {name: F.pad(getattr(self, name), (0, more)) for name in ("input_ids", "position_ids")}
        return replace(
            self, **filled, segment_ids=None if self.segment_ids is None else F.pad(self.segment_ids, (0, more))
        )

    def to(self, device: torch.device) -> "PackedBatch":
        """The same with what the model computes on at `device`; what only the host reads stays there."""
        if self.input_ids.device == device:
            return self
        moved = {name: to_device(getattr(self, name), device) for name in ("input_ids", "position_ids")}
        segment_ids = None if self.segment_ids is None else to_device(self.segment_ids, device)
        return replace(self, **moved, segment_ids=segment_ids)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on its way to `device`, without waiting for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def pack(
    sequences: Sequence[Sequence[int]],
    segment_ids: Sequence[Sequence[int] | None] | None = None,
    *,
    share_prefixes: bool = False,
) -> PackedBatch:
    """Packs `sequences` (each at least one token).

    Args:
        sequences: token ids.
        segment_ids: per sequence its token_type_ids, or None for all zeros.
        share_prefixes: prefixes that sequences have in common appear once; for causal models without segment ids.

    Raises:
        ValueError: there is no sequence, or one is empty.
    """
    lengths = [len(sequence) for sequence in sequences]
    if not lengths or min(lengths) == 0:
        msg = f"pack() needs one or more sequences of one or more tokens each, got lengths {lengths[:10]}"
        raise ValueError(msg)
    return pack_runs(shared_runs(sequences) if share_prefixes else separate_runs(sequences), sequences, segment_ids)


def pack_runs(
    runs: Runs, sequences: Sequence[Sequence[int]], segment_ids: Sequence[Sequence[int] | None] | None = None
) -> PackedBatch:
    """The row of `runs` of `sequences`; see `pack`."""
    parents = [-1 if run.parent is None else run.parent for run in runs.runs]
    bounds = [0, *accumulate(run.stop - run.start for run in runs.runs)]
    tokens = chain.from_iterable(sequences[run.sequence][run.start : run.stop] for run in runs.runs)
    return PackedBatch(
        input_ids=torch.tensor(list(tokens), dtype=torch.int64),
        position_ids=torch.cat([torch.arange(run.start, run.stop) for run in runs.runs]),
        cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
        ends=torch.tensor(runs.ends, dtype=torch.int64),
        parents=torch.tensor(parents, dtype=torch.int64) if max(parents) >= 0 else None,
        segment_ids=_pack_segments(segment_ids, runs),
    )


def _pack_segments(segment_ids: Sequence[Sequence[int] | None] | None, runs: Runs) -> Tensor | None:
    if segment_ids is None or all(ids is None for ids in segment_ids):
        return None
    rows = [
        ids[run.start : run.stop] if (ids := segment_ids[run.sequence]) is not None else [0] * (run.stop - run.start)
        for run in runs.runs
    ]
    return torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64)
