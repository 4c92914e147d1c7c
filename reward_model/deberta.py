"""How DeBERTa's second and third version are run over a packed row: their attention is replaced, the rest stays.

Their code dispatches its attention nowhere, and makes masks and distances of all pairs of a row. So its layers are
called here one by one, each with the layout in the mask's place. Knows these models; `disentangled` computes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.deberta_v2 import modeling_deberta_v2 as deberta

from reward_model.backbone import PackedBackbone, usable_positions
from reward_model.compiled import is_compiled_for
from reward_model.disentangled import Distances, disentangled_attention
from reward_model.kernels import Rule, States
from reward_model.leaves import Leaf, notes
from reward_model.native import DistanceTiles, by_native
from reward_model.spans import Layout

#: Terms of the attention that is known here, as configs name them; every published model has both.
_TERMS = {"c2p", "p2c"}


def is_disentangled(model: PreTrainedModel) -> bool:
    """Whether `DisentangledBackbone` may run it: on a CPU; convolutions would mix a packed row's sequences."""
    base = getattr(model, model.base_model_prefix)
    if not isinstance(base, deberta.DebertaV2Model) or model.device.type != "cpu" or base.encoder.conv is not None:
        return False
    return base.encoder.relative_attention and all(set(one.pos_att_type) == _TERMS for one in _attention(base))


class DisentangledBackbone(PackedBackbone):
    """See `PackedBackbone`; for models that `is_disentangled`."""

    def _prepared(self) -> dict[str, bool]:
        base: Any = getattr(self.model, self.model.base_model_prefix)
        longest = usable_positions(self.model)
        for module in _attention(base):
            PackedSelfAttention.take_over(module, longest)
        return {
            "this architecture's attention is replaced, so no sequence is padded": True,
            "the last layer is computed only where it is read": True,
            "attention is a kernel of our own": is_compiled_for(self.model.device, self.model.dtype),
        }

    def _run(self, input_ids: Tensor, position_ids: Tensor, segment_ids: Tensor, layout: Layout) -> Tensor:
        """[1, T] each -> [T, d]."""
        base: Any = getattr(self.model, self.model.base_model_prefix)
        hidden = base.embeddings(input_ids=input_ids, token_type_ids=segment_ids, position_ids=position_ids)
        relative = base.encoder.get_rel_embedding()
        for layer in base.encoder.layer[:-1]:
            hidden, _ = layer(hidden, layout, rel_embeddings=relative)
        last = base.encoder.layer[-1]
        if layout.read is None:
            whole: Tensor = last(hidden, layout, rel_embeddings=relative)[0]
            return whole[0]
        assert layout.rows is not None
        query = hidden.index_select(1, layout.rows)
        read, _ = last(hidden, layout.read, query_states=query, rel_embeddings=relative)
        return torch.zeros_like(hidden[0]).index_copy(0, layout.rows, read[0])


class PackedSelfAttention(deberta.DisentangledSelfAttention):
    """The attention of a model that `DisentangledBackbone` runs; without a layout it does what it did before.

    Attributes:
        longest: tokens of the longest sequence.
        distances: what stands for distances, where weights do not change any more.
    """

    longest: int
    distances: Distances | DistanceTiles | None

    @classmethod
    def take_over(cls, module: Any, longest: int) -> None:
        """Makes `module`, an attention, one of this class."""
        module.__class__ = cls
        module.longest, module.distances = longest, None

    @torch.no_grad()
    def freeze(self, relative: Tensor) -> None:
        """Makes what stands for distances once for all, of what stands for them before each layer's projection."""
        made = self._made(relative, self.longest)
        tiled = is_compiled_for(made.by_key.device, made.by_key.dtype)
        self.distances = DistanceTiles.of(made.by_query, made.by_key) if tiled else made

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Layout | Tensor,
        output_attentions: bool = False,  # noqa: FBT001, FBT002 - the signature is transformers'
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """States [1, T, d] -> [1, T, d], and no weights.

        Args:
            hidden_states: what is looked at.
            attention_mask: the layout, of the queries.
            output_attentions: not for a layout.
            query_states: [1, n, d], what looks, where only some tokens are read; else `hidden_states` do.
            relative_pos: not for a layout.
            rel_embeddings: what stands for distances before each layer's projection.
        """
        if not isinstance(attention_mask, Layout):
            whole: tuple[Tensor, Tensor | None] = super().forward(  # type: ignore[no-untyped-call]
                hidden_states, attention_mask, output_attentions, query_states, relative_pos, rel_embeddings
            )
            return whole
        assert rel_embeddings is not None
        query = self._by_head(self.query_proj(hidden_states if query_states is None else query_states))
        key, value = (self._by_head(project(hidden_states)) for project in (self.key_proj, self.value_proj))
        # In a trace those that are not frozen have no values, and it fails when it is tried.
        distances = self.distances or self._made(rel_embeddings, max(span.num_keys for span in attention_mask.spans))

        def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
            return self._attend(distances, query, key, value, layout)

        def attend_read(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
            assert layout.read is not None
            return attend(query, key, value, layout.read)

        if (trace := notes()) is None:
            return attend(query, key, value, attention_mask), None
        empty = query.new_empty(1, query.shape[1], self.all_head_size)
        compute = attend if query_states is None else attend_read
        return trace.add(Leaf(compute, lambda: empty, of_layout=True), query, key, value), None

    def _attend(
        self, distances: Distances | DistanceTiles, query: Tensor, key: Tensor, value: Tensor, layout: Layout
    ) -> Tensor:
        """[1, n, d]."""
        states, dropout = States(key, value), self.dropout.p if self.training else 0.0
        rule = Rule((self.attention_head_size * (1 + len(_TERMS))) ** -0.5, causal=False, dropout=dropout)
        if isinstance(distances, DistanceTiles):
            out = by_native(query, states, layout, rule, distances)
        else:
            out = disentangled_attention(query, states, layout, rule, distances)
        return out.flatten(1).unsqueeze(0)

    def _by_head(self, projected: Tensor) -> Tensor:
        """[1, n, heads * head_size] -> [heads, n, head_size]."""
        return projected.view(projected.shape[1], self.num_attention_heads, -1).transpose(0, 1)

    def _made(self, relative: Tensor, longest: int) -> Distances:
        relative = self.pos_dropout(relative[: 2 * self.pos_ebd_size]).unsqueeze(0)
        by_query, by_key = (self.key_proj, self.query_proj)
        if not self.share_att_key:
            by_query, by_key = (self.pos_key_proj, self.pos_query_proj)
        pairs = zip((by_query, by_key), Distances.rows(longest), strict=True)
        return Distances(*(self._by_head(one(relative))[:, self._place(rows)] for one, rows in pairs))

    def _place(self, distances: Tensor) -> Tensor:
        """Which of the embeddings stands for each."""
        if self.position_buckets > 0:
            distances = deberta.make_log_bucket_position(
                distances, self.position_buckets, self.max_relative_positions
            ).long()
        size: int = self.pos_ebd_size
        return (distances + size).clamp(0, 2 * size - 1)


@torch.no_grad()
def pack_distances(model: Any) -> bool:
    """Has the attention below `model`, a backbone, make what stands for distances now and not in each pass.

    Returns:
        Whether there was any that could.
    """
    found = [module for module in model.modules() if isinstance(module, PackedSelfAttention)]
    if found:
        relative = model.encoder.get_rel_embedding()
        for module in found:
            module.freeze(relative)
    return bool(found)


def unpack_distances(model: nn.Module) -> None:
    """Takes back what `pack_distances` did."""
    for module in model.modules():
        if isinstance(module, PackedSelfAttention):
            module.distances = None


def _attention(base: Any) -> list[Any]:
    return [layer.attention.self for layer in base.encoder.layer]
