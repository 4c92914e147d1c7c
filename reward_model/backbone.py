"""How the backbone is run over a packed batch where the architecture allows: as one row, without padding.

`architectures` chooses between this and `padded`. Both take a packed batch and give a packed row of hidden states, so
nobody else knows which one it is.
"""

import copy
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from reward_model import readout
from reward_model.compiled import is_compiled_for
from reward_model.errors import CheckpointRefused
from reward_model.graphs import SLOTS, Graphs, worthwhile_sizes
from reward_model.packing import PackedBatch, pack, to_device
from reward_model.pooling import segment_of_token
from reward_model.sizes import round_up
from reward_model.spans import Layout
from reward_model.traced import Traced
from reward_model.trial import described

log = logging.getLogger(__name__)

#: Their position ids start after the padding id and skip padding tokens (fairseq's rule).
_POSITIONS_AFTER_PAD = frozenset(
    {"camembert", "data2vec-text", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"}
)
#: Share of the largest state by which a graph's may differ, whose matrices have other sizes, bf16 included.
_ROUNDING = 0.05

#: Of a reason.
_TRACED = "; operations are called without the Python of the model's modules"
_ABSORBED = "; where sequences are not short the last layer makes neither keys nor values"


class Backbone(Protocol):
    """Runs everything below the head."""

    path: str
    reason: str
    shares_prefixes: bool
    #: Whether several threads may run it at once.
    concurrent: bool
    #: What small batches are computed by on a GPU, once it is recorded.
    graphs: Graphs | None
    #: What batches are computed by on a CPU, once it is traced.
    traced: Traced | None

    def hidden_states(self, batch: PackedBatch, rows: Sequence[int] | None = None) -> Tensor:
        """The states after the last layer.

        Args:
            batch: packed with `shares_prefixes` at most where this backbone's is true.
            rows: for each sequence the one row that is read; None: all are.

        Returns:
            [T, d], in the order of `batch.input_ids`; rows that are not read may hold anything.
        """
        ...

    def padding(self, lengths: Sequence[int]) -> int:
        """How many tokens beside the real ones a batch of such sequences computes."""
        ...

    def record(self) -> None:
        """Has a GPU start the kernels of small batches all at once from now on, where that can be recorded and works.

        Nothing that the model computes with may be moved or replaced after that.
        """
        ...

    def trace(self, *, reads: bool) -> None:
        """Leaves out the Python of the model's modules from now on, where that can be traced and works.

        Nothing that the model computes with may be moved or replaced after that.

        Args:
            reads: whether `hidden_states` will be told which rows are read.
        """
        ...


def usable_positions(model: PreTrainedModel) -> int:
    """How many tokens the position embeddings reach.

    Raises:
        CheckpointRefused: the config does not say.
    """
    config = model.config.get_text_config()
    if getattr(config, "max_position_embeddings", None) is None:
        msg = f"the config of this {config.model_type!r} model does not say how many positions it has"
        raise CheckpointRefused(msg)
    taken = config.pad_token_id + 1 if config.model_type in _POSITIONS_AFTER_PAD else 0
    return int(config.max_position_embeddings) - taken


class PackedBackbone:
    """One flat row, attention by spans.

    Args:
        model: dispatches to the packed attention.
    """

    path = "packed"
    concurrent = True

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.graphs: Graphs | None = None
        self.traced: Traced | None = None
        self.shares_prefixes = False
        self.reason = "; ".join(reason for reason, holds in self._prepared().items() if holds)

    def _prepared(self) -> dict[str, bool]:
        """Makes the model ready; how it is run, and whether it is."""
        model = self.model
        self.shares_prefixes = _is_causal(model)
        reads_only = readout.install(model, self._probe)
        return {
            "transformers dispatches this architecture's attention, so no sequence is padded": True,
            "prefixes in common are computed once": self.shares_prefixes,
            "the last layer is computed only where it is read": reads_only,
            "attention is a kernel of our own": is_compiled_for(model.device, model.dtype) and not _caps_logits(model),
        }

    def hidden_states(self, batch: PackedBatch, rows: Sequence[int] | None = None) -> Tensor:
        """See `Backbone`."""
        if self.graphs is not None and (hidden := self.graphs.hidden_states(batch, self._positions(batch))) is not None:
            return hidden
        return self._plain(batch, rows)

    def _plain(self, batch: PackedBatch, rows: Sequence[int] | None = None) -> Tensor:
        tokens = len(batch.input_ids)
        more = self._more(tokens)
        # What fills the row up has position 0, however much it is: there may be fewer positions.
        row = F.pad(torch.stack([batch.input_ids, self._positions(batch), segment_ids_of(batch)]), (0, more))
        return self._forward(row, Layout.of(batch.lengthened(more), rows, causal=self.shares_prefixes))[:tokens]

    def _forward(self, row: Tensor, layout: Layout) -> Tensor:
        """Input, position and segment ids, [3, T] -> [T, d]."""
        input_ids, position_ids, segment_ids = row.unsqueeze(1)
        run = self.traced if self.traced is not None and self.traced.takes(layout) else self._run
        return run(input_ids, position_ids, segment_ids, layout)

    def _run(self, input_ids: Tensor, position_ids: Tensor, segment_ids: Tensor, layout: Layout) -> Tensor:
        """[1, T] each -> [T, d]."""
        inputs: dict[str, Any] = {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "layout": layout,
            "use_cache": False,
        }
        if takes_segments(self.model):
            inputs["token_type_ids"] = segment_ids
        hidden: Tensor = without_pooler(self.model)(**inputs).last_hidden_state
        return hidden[0]

    def record(self) -> None:
        """See `Backbone`."""
        layers = getattr(self.model.config.get_text_config(), "num_hidden_layers", 0)
        base: PreTrainedModel = getattr(self.model, self.model.base_model_prefix)
        sizes = worthwhile_sizes(layers, base.num_parameters(exclude_embeddings=True))
        if not sizes:
            return
        try:
            graphs = Graphs(self._forward, sizes, self.model.device)
            problem = "" if all(self._same(graphs, size) for size in sizes) else "they give other states"
        except Exception as error:  # noqa: BLE001 - whatever a model does that cannot be recorded
            problem = f"{type(error).__name__}: {error}"
        if problem:
            log.warning("small batches are not CUDA graphs, and slower: %s", problem)
            return
        self.graphs = graphs
        self.reason += (
            f"; batches of up to {graphs.most} tokens in {SLOTS} sequences without a common start are CUDA graphs"
        )

    @torch.no_grad()
    def _same(self, graphs: Graphs, size: int) -> bool:
        """Whether a graph gives the states of a plain pass, for sequences that do not quite fill it."""
        tokens = min(usable_positions(self.model), size // SLOTS)
        batch = pack([[1 + (i + j) % 7 for j in range(max(1, tokens - i % 2))] for i in range(SLOTS)])
        batch = batch.to(self.model.device)
        expected = self._plain(batch)
        error = (graphs.replayed(size, batch, self._positions(batch)) - expected).abs().max()
        return bool(error <= _ROUNDING * expected.abs().max())

    def trace(self, *, reads: bool) -> None:
        """See `Backbone`."""
        try:
            self.traced = Traced(self._run, reads=reads)
        except Exception as error:  # noqa: BLE001 - whatever a model does that cannot be traced
            log.info("the model is run module by module, which is slower for short inputs: %s", described(error))
            return
        if _TRACED not in self.reason:
            self.reason += _TRACED + (_ABSORBED if self.traced.absorbs else "")

    def padding(self, lengths: Sequence[int]) -> int:
        """To fill the row up, to a graph's size or as `sizes` says."""
        tokens = sum(lengths)
        size = None if self.graphs is None else self.graphs.size_for(lengths)
        return self._more(tokens) if size is None else size - tokens

    def _more(self, tokens: int) -> int:
        return round_up(tokens) - tokens if self.model.device.type == "cpu" else 0

    def _probe(self, *, read_only: bool) -> Tensor:
        """[n, d]: last states of a few short sequences, the last of each."""
        batch = pack([[1, 2, 3, 4], [5], [3, 2, 1]]).to(self.model.device)
        rows = [int(batch.cu_seqlens[end + 1]) - 1 for end in batch.ends.tolist()]
        return self.hidden_states(batch, rows if read_only else None)[rows]

    def _positions(self, batch: PackedBatch) -> Tensor:
        config = self.model.config
        if config.model_type not in _POSITIONS_AFTER_PAD:
            return batch.position_ids
        starts, segments = (
            to_device(one, batch.input_ids.device)
            for one in (batch.cu_seqlens[:-1].long(), segment_of_token(batch.cu_seqlens))
        )
        real = (batch.input_ids != config.pad_token_id).long()
        counted = real.cumsum(0)
        before = (counted - real)[starts][segments]
        positions: Tensor = (counted - before) * real + config.pad_token_id
        return positions


def segment_ids_of(batch: PackedBatch) -> Tensor:
    """[T] int64."""
    return batch.segment_ids if batch.segment_ids is not None else torch.zeros_like(batch.input_ids)


def _is_causal(model: PreTrainedModel) -> bool:
    """No token sees a later one, in any layer."""
    base = getattr(model, model.base_model_prefix)
    causal = [module.is_causal for module in base.modules() if hasattr(module, "is_causal")]
    return bool(causal) and all(causal)


def _caps_logits(model: PreTrainedModel) -> bool:
    return getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None


def takes_segments(model: PreTrainedModel) -> bool:
    """Whether the model has embeddings for segment ids."""
    # GPT-2 would look its "segments" up among the words, so only a table of their own counts.
    return getattr(model.config, "type_vocab_size", 0) > 0


def without_pooler(model: PreTrainedModel) -> nn.Module:
    """The backbone without its pooler, which belongs to the head and would pool the packed row's first token."""
    base: nn.Module = getattr(model, model.base_model_prefix)
    return shell(base, pooler=None) if getattr(base, "pooler", None) is not None else base


def shell(module: nn.Module, **children: nn.Module | None) -> nn.Module:
    """A second view of `module`, sharing everything but the named children."""
    view = copy.copy(module)
    # Assigning a child to the view would change the dictionary it still shares with `module`.
    view._modules = {**module._modules, **children}  # noqa: SLF001
    return view
