"""Backbone plus head: a packed batch in, one score per sequence out. The only forward pass there is.

`training` calls `forward` (with gradients), `training.evaluate` calls `score`, the service `launch`: same code, same
number. The backbone is transformers' own; so is the head, which gets the pooled states as sequences of one token. Knows
nothing of text, templates or files.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from reward_model import division, lanes
from reward_model.allocator import keep_freed_memory
from reward_model.architectures import choose_backbone
from reward_model.backbone import Backbone, without_pooler
from reward_model.deberta import pack_distances, unpack_distances
from reward_model.errors import CheckpointRefused, DtypeRefused
from reward_model.gates import pack_gates, unpack_gates
from reward_model.head import run_head, scores_of
from reward_model.linear import pack_linears, unpack_linears
from reward_model.meter import Identity, Meter, RepeatMeter, SharingMeter, identity
from reward_model.norms import pack_norms, unpack_norms
from reward_model.packing import PackedBatch, pack_runs, to_device
from reward_model.pending import PendingScores, ScoresInLanes
from reward_model.pooling import mean, pooling_of, read_rows
from reward_model.precision import Precision
from reward_model.prefixes import separate_runs, shared_runs
from reward_model.rendering import Rendered
from reward_model.rotary import pack_rotary, unpack_rotary
from reward_model.scores import Scalarisation, Score
from reward_model.trial import Trial

if TYPE_CHECKING:
    from reward_model.length_calibration import LengthCalibration

log = logging.getLogger(__name__)

#: Share of the largest score by which a few of them may move where weights are laid out another way.
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1}
#: Tokens of a batch up to which to compute its last layer everywhere takes no longer than only where it is read, if
#: reading means to go through the layer's modules twice.
FEW_TOKENS = 64
#: Tokens of a batch unless told otherwise: on a CPU, which few tokens keep busy, and on everything else.
CPU_BATCH_TOKENS, BATCH_TOKENS = 4096, 16_384
#: The labels' values of inputs, [n, labels] on the device, and how many tokens of each were reused.
_Launched = tuple[Tensor, list[int]]
#: What is computed in another way once a model only scores; weights are read off linear layers, so these come last.
_PACKED: tuple[tuple[Callable[[nn.Module], bool], Callable[[nn.Module], None]], ...] = (
    (pack_distances, unpack_distances),
    (pack_gates, unpack_gates),
    (pack_rotary, unpack_rotary),
    (pack_norms, unpack_norms),
    (pack_linears, unpack_linears),
)


class RewardModel(nn.Module):
    """A transformers sequence-classification model that reads packed batches.

    Args:
        model: an `AutoModelForSequenceClassification`; its parameters are converted in place.
        precision: device and dtype of the backbone. The head and all after it stay in fp32.
        scalarisation: how several labels become one reward.
        deterministic: each sequence is computed alone, so that its score is bitwise the same in any batch.

    Raises:
        CheckpointRefused: how the model pools is not known, or its scores are not those of transformers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        precision: Precision,
        *,
        scalarisation: Scalarisation | None = None,
        deterministic: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.scalarisation = scalarisation or Scalarisation()
        self.deterministic = deterministic
        self._frozen = False
        #: What is taken off raw rewards; set once these are known to be those of the checkpoint.
        self.length_calibration: LengthCalibration | None = None
        self.pooling = pooling_of(model.config, has_score_head=hasattr(model, "score"))
        self._convert()
        trial = Trial(model)
        self.backbone: Backbone = choose_backbone(model, trial)
        self._trial = trial.sequences
        if problem := trial.of_scores(self):
            msg = (
                f"the head of {type(model).__name__} is not read as transformers reads it: its scores are {problem};"
                " take another architecture"
            )
            raise CheckpointRefused(msg)

    def freeze(self) -> Self:
        """Only scores from now on, as fast as the device can: no gradients, no dropout, no way back.

        On a CPU weights are laid out for its matrix products, and freed memory is kept for the next batch.
        """
        nn.Module.eval(self)
        self.requires_grad_(requires_grad=False)
        self.backbone.traced = None
        try:
            expected = self._try_out()
        except RuntimeError as error:
            msg = f"{type(self.model).__name__} cannot be computed in {self.precision.dtype_name}: {error}"
            raise DtypeRefused(msg.splitlines()[0]) from error
        backbone = without_pooler(self.model)
        for pack, unpack in _PACKED:
            if pack(backbone) and not self._scores_as(expected):
                unpack(backbone)
        if self.precision.device.type == "cpu":
            keep_freed_memory()
            self.backbone.trace(reads=self.pooling != "mean")
        else:
            self.backbone.record()
        self._frozen = True
        return self

    @torch.inference_mode()
    def _try_out(self) -> Tensor:
        """The labels' values of a few short sequences, [n, labels]."""
        return self._launch([Rendered(None, list(ids)) for ids in self._trial])[0]

    def _scores_as(self, expected: Tensor) -> bool:
        try:
            error = (self._try_out() - expected).abs().max() / expected.abs().max()
        except Exception:  # some models look into their layers, where packed ones are empty
            log.info("layers cannot be laid out for scoring", exc_info=True)
            return False
        return float(error) <= ROUNDING[self.precision.dtype]

    def forward(self, batch: PackedBatch) -> Tensor:
        """The labels' values of each sequence of a packed batch, on any device.

        Returns:
            [n, labels] fp32, with gradients if they are enabled.
        """
        rows = read_rows(batch, self.pooling, self.model.config.get_text_config().pad_token_id)
        few = len(batch.input_ids) <= FEW_TOKENS and self.backbone.traced is None
        batch = batch.to(self.model.device)
        hidden = self.backbone.hidden_states(batch, None if few else rows)
        read = mean(hidden, batch) if rows is None else hidden[to_device(torch.tensor(rows), hidden.device)].float()
        with torch.autocast(hidden.device.type, enabled=False):
            return run_head(self.model, read)

    def score(self, inputs: Sequence[Rendered]) -> list[Score]:
        """Scores `inputs` as one batch (or one by one in deterministic mode), in their order.

        Identical inputs are computed once, so that they get the same score to the last bit.

        Raises:
            NotRenderable: rewards are calibrated by the response's length, which an input does not tell.
        """
        return self.launch(inputs).result()

    @torch.inference_mode()
    def launch(self, inputs: Sequence[Rendered]) -> PendingScores | ScoresInLanes[_Launched]:
        """Begins to score `inputs`, one or more: `score`, but where it can it returns before the device is done."""
        curve = self.length_calibration
        first: dict[Identity, int] = {}
        places = [first.setdefault(identity(one), i) for i, one in enumerate(inputs)]
        groups = self._divide(inputs, list(first.values()))
        computed = list(chain.from_iterable(groups))
        biases = [0.0 if curve is None else curve.bias(one.response_length) for one in inputs]
        batches = [[inputs[i] for i in group] for group in groups]

        def read(launched: Sequence[_Launched]) -> list[Score]:
            logits, reused = _joined(launched)
            scores = dict(zip(computed, scores_of(logits, self.scalarisation), strict=True))
            tokens = dict(zip(computed, reused, strict=True))
            return [
                replace(
                    scores[place],
                    value=scores[place].value - biases[i],
                    reused_tokens=tokens[place] if place == i else len(inputs[i].token_ids),
                )
                for i, place in enumerate(places)
            ]

        if self._has_lanes:
            short = sum(len(inputs[i].token_ids) for i in computed) < division.FEWEST_TOKENS
            mine = lanes.of_caller()
            return ScoresInLanes(mine, mine.start(self._launch, batches, short=short), read)
        logits, reused = _joined([*map(self._launch, batches)])
        return PendingScores(logits, lambda values: read([(values, reused)]))

    @property
    def _has_lanes(self) -> bool:
        """Whether a CPU's cores may compute parts of a batch, or different batches, at the same time."""
        frozen = self._frozen and not self.deterministic and self.backbone.concurrent
        return frozen and self.precision.device.type == "cpu" and lanes.count() > 1

    def _divide(self, inputs: Sequence[Rendered], computed: list[int]) -> list[list[int]]:
        """Which of `computed` are computed together: all of them, unless a CPU's cores do better on their own."""
        if self.deterministic:
            return [[i] for i in computed]
        if not self._has_lanes:
            return [computed]
        parts = division.parts([inputs[i].token_ids for i in computed], shares_prefixes=self._shares_prefixes)
        return [[computed[i] for i in part] for part in parts]

    def _launch(self, inputs: Sequence[Rendered]) -> _Launched:
        """The labels' values of `inputs`, [n, labels] on the device, and how many tokens of each were reused."""
        sequences = [one.token_ids for one in inputs]
        runs = shared_runs(sequences) if self._shares_prefixes else separate_runs(sequences)
        batch = pack_runs(runs, sequences, [one.segment_ids for one in inputs])
        logits: Tensor = self(batch)
        return logits, runs.reused([len(sequence) for sequence in sequences])

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch that keep the device busy; more only make each batch take longer."""
        return CPU_BATCH_TOKENS if self.precision.device.type == "cpu" else BATCH_TOKENS

    def meter(self) -> Meter:
        """For a batch that is to be filled: what each input adds to it."""
        return SharingMeter() if self._shares_prefixes else RepeatMeter()

    @property
    def _shares_prefixes(self) -> bool:
        return self.backbone.shares_prefixes and not self.deterministic

    def padding(self, inputs: Sequence[Rendered]) -> int:
        """How many tokens beside the real ones `score` computes for `inputs`."""
        groups = self._divide(inputs, list(range(len(inputs))))
        return sum(self._padding([inputs[i].token_ids for i in group]) for group in groups)

    def _padding(self, sequences: Sequence[Sequence[int]]) -> int:
        graphs, lengths = self.backbone.graphs, [len(sequence) for sequence in sequences]
        if graphs is not None:
            # No graph shares prefixes.
            alike = sum(lengths) <= graphs.most and self._computed(sequences) == lengths
            return self.backbone.padding(lengths) if alike else 0
        if self.precision.device.type != "cpu" and self.backbone.path == "packed":
            return 0
        return self.backbone.padding(self._computed(sequences))

    def _computed(self, sequences: Sequence[Sequence[int]]) -> list[int]:
        """How many tokens of each are computed where all are computed together."""
        lengths = [len(sequence) for sequence in sequences]
        if not self._shares_prefixes:
            return lengths
        return [n - reused for n, reused in zip(lengths, shared_runs(sequences).reused(lengths), strict=True)]

    @property
    def config(self) -> PreTrainedConfig:
        """The model's, which transformers' Trainer looks at."""
        return self.model.config

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Passed on to the model, for transformers' Trainer."""
        self.model.activation_checkpointing_enable(*args, **kwargs)

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """The same, under the name that it has before transformers 5.23."""
        self.model.gradient_checkpointing_enable(*args, **kwargs)  # type: ignore[no-untyped-call]

    def head_modules(self) -> list[nn.Module]:
        """What computes the labels' values from a pooled state: all modules outside of the backbone, and its pooler."""
        base = getattr(self.model, self.model.base_model_prefix)
        outside = [module for module in self.model.children() if module is not base]
        pooler = getattr(base, "pooler", None)
        return outside + ([pooler] if isinstance(pooler, nn.Module) else [])

    def _apply(self, fn: Any, recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's own
        # What moves or converts weights leaves graphs and traces with those that were.
        self.backbone.graphs = self.backbone.traced = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _convert(self) -> None:
        """Moves to the device; backbone parameters to the dtype, all others to fp32.

        Buffers keep their dtype: rotary frequencies in bf16 would shift every position.
        """
        nn.Module.to(self.model, self.precision.device)
        base = getattr(self.model, self.model.base_model_prefix)
        pooler = getattr(base, "pooler", None)
        in_head = {id(p) for p in pooler.parameters()} if isinstance(pooler, nn.Module) else set()
        in_backbone = {id(p) for p in base.parameters()} - in_head
        for parameter in self.model.parameters():
            dtype = self.precision.dtype if id(parameter) in in_backbone else torch.float32
            parameter.data = parameter.data.to(dtype)


def _joined(launched: Sequence[_Launched]) -> _Launched:
    return torch.cat([logits for logits, _ in launched]), [tokens for _, reused in launched for tokens in reused]
