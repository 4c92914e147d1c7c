"""How the backbone is run where its attention cannot be packed: in groups of similar length, padded.

The other way is in `backbone`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from reward_model.backbone import segment_ids_of, takes_segments, without_pooler
from reward_model.graphs import Graphs
from reward_model.packing import PackedBatch
from reward_model.traced import Traced

#: A padded group may hold sequences down to this share of its longest.
_SIMILAR = 0.8


@dataclass
class PaddedBackbone:
    """Groups of similar length, each padded to its longest, for architectures with an attention of their own."""

    model: PreTrainedModel
    path: str = "padded"
    reason: str = "this architecture computes its own attention, which cannot be packed"
    similar: float = _SIMILAR
    shares_prefixes: bool = False
    concurrent: bool = True
    graphs: Graphs | None = None
    traced: Traced | None = None

    def hidden_states(self, batch: PackedBatch, rows: Sequence[int] | None = None) -> Tensor:  # noqa: ARG002
        """See `Backbone`."""
        lengths = batch.cu_seqlens.diff().tolist()
        ids = torch.split(batch.input_ids, lengths)
        segments = torch.split(segment_ids_of(batch), lengths)
        states: list[Tensor] = [torch.empty(0)] * len(lengths)
        for group in self._groups(lengths):
            hidden = self._padded([ids[i] for i in group], [segments[i] for i in group])
            for row, i in zip(hidden, group, strict=True):
                states[i] = row[: lengths[i]]
        return torch.cat(states)

    def padding(self, lengths: Sequence[int]) -> int:
        """See `Backbone`."""
        return sum(lengths[group[0]] - lengths[i] for group in self._groups(lengths) for i in group)

    def record(self) -> None:
        """Nothing: padded batches have more shapes than could be recorded."""

    def trace(self, *, reads: bool) -> None:
        """Nothing: what such models do depends on their shapes."""

    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of sequences of similar length, the longest of each group first."""
        groups: list[list[int]] = []
        for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
            if groups and lengths[i] >= self.similar * lengths[groups[-1][0]]:
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups

    def _padded(self, ids: list[Tensor], segments: list[Tensor]) -> Tensor:
        pad_token_id = self.model.config.get_text_config().pad_token_id or 0
        inputs = {"input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id)}
        if len(ids[0]) != len(ids[-1]):  # the longest is the first
            inputs["attention_mask"] = pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)
        if takes_segments(self.model):
            inputs["token_type_ids"] = pad_sequence(segments, batch_first=True)
        hidden: Tensor = without_pooler(self.model)(**inputs).last_hidden_state
        return hidden
