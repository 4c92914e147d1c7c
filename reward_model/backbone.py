"""How the backbone is run over a packed batch: packed where the architecture allows, else padded by length.

Chosen once, at load, with the reason. Both ways take a packed batch and give a packed row of hidden states, so nobody
else knows which one it is.
"""

import copy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from reward_model.attention import PACKED
from reward_model.packing import PackedBatch
from reward_model.pooling import segment_of_token

#: Their position ids start after the padding id and skip padding tokens (fairseq's rule).
_POSITIONS_AFTER_PAD = frozenset(
    {"camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"}
)
#: A padded group may hold sequences this much shorter than its longest.
_PADDED_GROUP_RATIO = 0.8


class Backbone(Protocol):
    """Runs everything below the head."""

    path: str
    reason: str

    def hidden_states(self, batch: PackedBatch) -> Tensor:
        """[T, d] of the last layer, in the order of `batch.input_ids`."""
        ...


def choose_backbone(model: PreTrainedModel) -> Backbone:
    """Packed wherever transformers lets the attention be replaced."""
    if model._supports_attention_backend:  # noqa: SLF001 - transformers has no public name for it
        model.set_attn_implementation(PACKED)
        return PackedBackbone(model)
    model.set_attn_implementation("eager")
    return PaddedBackbone(model)


def usable_positions(model: PreTrainedModel) -> int:
    """How many tokens the position embeddings reach."""
    config = model.config.get_text_config()
    taken = config.pad_token_id + 1 if config.model_type in _POSITIONS_AFTER_PAD else 0
    return int(config.max_position_embeddings) - taken


@dataclass
class PackedBackbone:
    """One flat row, attention per segment."""

    model: PreTrainedModel
    path: str = "packed"
    reason: str = "transformers dispatches this architecture's attention, so no token is padding"

    def hidden_states(self, batch: PackedBatch) -> Tensor:
        """See `Backbone`."""
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids.unsqueeze(0),
            "position_ids": self._positions(batch).unsqueeze(0),
            "segments": batch.cu_seqlens.tolist(),
            "use_cache": False,
        }
        if _takes_segments(self.model):
            inputs["token_type_ids"] = _segment_ids(batch).unsqueeze(0)
        hidden: Tensor = _without_pooler(self.model)(**inputs).last_hidden_state
        return hidden.squeeze(0)

    def _positions(self, batch: PackedBatch) -> Tensor:
        config = self.model.config
        if config.model_type not in _POSITIONS_AFTER_PAD:
            return batch.position_ids
        bounds = batch.cu_seqlens.to(batch.input_ids.device, torch.int64)
        real = (batch.input_ids != config.pad_token_id).long()
        counted = real.cumsum(0)
        before = (counted - real)[bounds[:-1]][segment_of_token(bounds)]
        positions: Tensor = (counted - before) * real + config.pad_token_id
        return positions


@dataclass
class PaddedBackbone:
    """Groups of similar length, each padded to its longest, for architectures with an attention of their own."""

    model: PreTrainedModel
    path: str = "padded"
    reason: str = "this architecture computes its own attention, which cannot be packed"

    def hidden_states(self, batch: PackedBatch) -> Tensor:
        """See `Backbone`."""
        lengths = batch.cu_seqlens.diff().tolist()
        ids = torch.split(batch.input_ids, lengths)
        segments = torch.split(_segment_ids(batch), lengths)
        rows: list[Tensor] = [torch.empty(0)] * len(lengths)
        for group in _groups_of_similar_length(lengths):
            hidden = self._padded([ids[i] for i in group], [segments[i] for i in group])
            for row, i in zip(hidden, group, strict=True):
                rows[i] = row[: lengths[i]]
        return torch.cat(rows)

    def _padded(self, ids: list[Tensor], segments: list[Tensor]) -> Tensor:
        pad_token_id = self.model.config.get_text_config().pad_token_id or 0
        inputs = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        }
        if _takes_segments(self.model):
            inputs["token_type_ids"] = pad_sequence(segments, batch_first=True)
        hidden: Tensor = _without_pooler(self.model)(**inputs).last_hidden_state
        return hidden


def _groups_of_similar_length(lengths: list[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if groups and lengths[i] >= _PADDED_GROUP_RATIO * lengths[groups[-1][0]]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _segment_ids(batch: PackedBatch) -> Tensor:
    return batch.segment_ids if batch.segment_ids is not None else torch.zeros_like(batch.input_ids)


def _takes_segments(model: PreTrainedModel) -> bool:
    # GPT-2 would look its "segments" up among the words, so only a table of their own counts.
    return getattr(model.config, "type_vocab_size", 0) > 0


def _without_pooler(model: PreTrainedModel) -> nn.Module:
    """The backbone without its pooler, which belongs to the head and would pool the packed row's first token."""
    base: nn.Module = getattr(model, model.base_model_prefix)
    return shell(base, pooler=None) if getattr(base, "pooler", None) is not None else base


def shell(module: nn.Module, **children: nn.Module | None) -> nn.Module:
    """A second view of `module`, sharing everything but the named children."""
    view = copy.copy(module)
    # Assigning a child to the view would change the dictionary it still shares with `module`.
    view._modules = {**module._modules, **children}  # noqa: SLF001
    return view
