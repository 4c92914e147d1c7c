"""Whether a way to run a model gives what transformers itself gives: tried at load, on a few short sequences.

Architectures differ in ways that no list of names keeps up with: some carry a state from token to token, some tell
their window to a mask that packing does without, some read the token next door. So none is believed: its states and
scores are compared with those of its own unmodified code, eager attention, fp32, one unpadded sequence at a time. The
precision that is served is the golden vectors' business; here everything is fp32, so that a small error is seen. Knows
batches and states, not the ways to compute them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from reward_model.errors import CheckpointRefused
from reward_model.modes import evaluating
from reward_model.packing import PackedBatch, pack

#: Share of the largest value by which two ways to compute it may differ. Rounding in fp32 stays under 1e-5 in the
#: parity tests; a token seen or missed is off by a tenth and more.
ROUNDING = 1e-3
#: A mixture's router can fall either way between two experts that are all but equal, and change a token's state a lot.
#: That is chance, and gone with other tokens; a way that is wrong is wrong each time.
TRIES = 4
#: What limits attention to some tokens shows on inputs longer than any cheap trial only, so it is made this short for
#: its duration, wherever it has one of these names.
WINDOW = 8
_WINDOWS = ("sliding_window", "attention_chunk_size", "index_topk")

#: [T, d]: the states of a packed batch.
States = Callable[[PackedBatch], Tensor]
#: [n, labels]: the scores of a packed batch.
Scores = Callable[[PackedBatch], Tensor]


@dataclass(frozen=True, slots=True)
class Sample:
    """Sequences and what transformers makes of each alone.

    Attributes:
        sequences: token ids; some begin alike, one is the beginning of another.
        states: for each sequence [tokens, d], the last hidden states.
        scores: [n, labels].
    """

    sequences: Sequence[Sequence[int]]
    states: tuple[Tensor, ...]
    scores: Tensor


class Trial:
    """What a model gives by itself, to compare with.

    Args:
        model: a sequence classifier; it is left as it was.

    Raises:
        CheckpointRefused: it cannot score a few plain token ids.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._samples: list[Sample] = []
        problem = ""
        # A module that reads another's weights cannot be in fp32 while that one is not.
        for self._in_float32 in (_one_module_at_a_time, _all_at_once):
            try:
                self._sample(0)
            except Exception as error:  # noqa: BLE001 - see `of_states`
                problem = described(error)
            else:
                return
        msg = (
            f"transformers cannot score plain token ids with this {model.config.model_type!r} model ({problem}): take a"
            " model that needs nothing else"
        )
        raise CheckpointRefused(msg)

    @property
    def sequences(self) -> Sequence[Sequence[int]]:
        """What it is tried with."""
        return self._samples[0].sequences

    def of_states(self, run: States, *, share_prefixes: bool) -> str | None:
        """What is wrong with the states that `run` gives; None if nothing is."""
        return self._of(lambda sample: self._states_error(run, sample, share_prefixes=share_prefixes))

    def of_scores(self, run: Scores) -> str | None:
        """What is wrong with the scores that `run` gives; None if nothing is."""
        return self._of(
            # The first once more, alone: a row of one sequence is computed in other shapes.
            lambda sample: max(
                _error(run(pack(sample.sequences)), sample.scores),
                _error(run(pack(sample.sequences[:1])), sample.scores[:1]),
            )
        )

    def _of(self, error: Callable[[Sample], float]) -> str | None:
        smallest = inf
        for i in range(TRIES):
            sample = self._sample(i)
            try:
                with self._conditions():
                    smallest = min(smallest, error(sample))
            except Exception as raised:  # noqa: BLE001 - whatever an architecture that nobody foresaw makes of it
                return described(raised)
            if smallest <= ROUNDING:
                return None
        return f"off by {100 * smallest:.2g} % of the largest value"

    def _states_error(self, run: States, sample: Sample, *, share_prefixes: bool) -> float:
        batch = pack(sample.sequences, share_prefixes=share_prefixes)
        together = torch.cat(_unpacked(run(batch), batch))
        return _error(together, torch.cat(sample.states))

    def _sample(self, index: int) -> Sample:
        while len(self._samples) <= index:
            self._samples.append(self._alone(_sequences(self._model, seed=len(self._samples))))
        return self._samples[index]

    def _alone(self, sequences: Sequence[Sequence[int]]) -> Sample:
        model = self._model
        before = model.config._attn_implementation  # noqa: SLF001 - it has no public name
        model.set_attn_implementation("eager")
        states: list[Tensor] = []
        base: nn.Module = getattr(model, model.base_model_prefix)
        handle = base.register_forward_hook(lambda _, __, output: states.append(output[0][0]))
        try:
            with self._conditions():
                scores = [model(input_ids=torch.tensor([ids], device=model.device)).logits[0] for ids in sequences]
        finally:
            handle.remove()
            model.set_attn_implementation(before)
        return Sample(sequences, tuple(states), torch.stack(scores))

    @contextmanager
    def _conditions(self) -> Iterator[None]:
        """No dropout, no gradients, fp32 and short windows."""
        model = self._model
        with torch.no_grad(), evaluating(model), _short_windows(model), self._in_float32(model):
            yield


def described(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _sequences(model: PreTrainedModel, seed: int) -> list[list[int]]:
    """Two that begin alike, their beginning, a single token, and one of the first's length."""
    config = model.config.get_text_config()
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings.weight, Tensor)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(embeddings.weight), (512,), generator=generator).tolist()
    ids = [i for i in drawn if i != config.pad_token_id]
    start, one, other = ids[:20], ids[20:32], ids[32:37]
    return [[*start, *one], ids[40:43], [*start, *other], start, ids[43:44], ids[44:76]]


def _unpacked(hidden: Tensor, batch: PackedBatch) -> list[Tensor]:
    """For each sequence the states of its runs, one after the other."""
    runs = torch.split(hidden, batch.cu_seqlens.diff().tolist())
    parents = [-1] * len(runs) if batch.parents is None else batch.parents.tolist()
    whole: list[Tensor] = []
    for run, parent in zip(runs, parents, strict=True):
        whole.append(run if parent < 0 else torch.cat([whole[parent], run]))
    return [whole[end] for end in batch.ends.tolist()]


def _error(measured: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest value; infinite where something is not finite."""
    difference = float((measured.float() - expected.float()).abs().max())
    largest = float(expected.abs().max())
    if difference == 0:
        return 0.0
    return difference / largest if isfinite(difference) and largest > 0 else inf


@contextmanager
def _short_windows(model: PreTrainedModel) -> Iterator[None]:
    changed: list[tuple[object, dict[str, Any]]] = []
    # A model and its backbone may each have a copy of the config.
    configs = {id(one): one for module in model.modules() if (one := getattr(module, "config", None)) is not None}
    try:
        for name in _WINDOWS:
            longest = max((_window(config, name) for config in configs.values()), default=0)
            for holder in (*configs.values(), *model.modules()):
                if _window(holder, name) > WINDOW:
                    changed.append((holder, vars(holder).copy()))
                    # Some modules count the token itself, which the config does not.
                    setattr(holder, name, WINDOW + _window(holder, name) - longest)
        yield
    finally:
        for holder, before in reversed(changed):
            vars(holder).update(before)


def _window(holder: object, name: str) -> int:
    window = getattr(holder, name, None)
    return window if isinstance(window, int) else 0


@contextmanager
def _one_module_at_a_time(model: PreTrainedModel) -> Iterator[None]:
    """Each module's parameters are fp32 while it runs, so that no second copy of a large model is needed."""
    handles = []
    try:
        for module in model.modules():
            own = _half(module.parameters(recurse=False))
            if own and isinstance(module, nn.Embedding):
                # Its table is large, and looking up before or after the conversion is the same.
                handles.append(module.register_forward_hook(lambda _, __, output: output.float()))
            elif own:
                loan = _Loan(own)
                handles.append(module.register_forward_pre_hook(loan.take, prepend=True))
                handles.append(module.register_forward_hook(loan.give_back, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _all_at_once(model: PreTrainedModel) -> Iterator[None]:
    loan = _Loan(_half(model.parameters()))
    loan.take()
    try:
        yield
    finally:
        loan.give_back()


def _half(parameters: Iterator[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if p.dtype in {torch.bfloat16, torch.float16}]


class _Loan:
    """Parameters that are fp32 while their module runs."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._stored: list[Tensor] = []

    def take(self, *_: object) -> None:
        if not self._stored:
            self._stored = [parameter.data for parameter in self._parameters]
            for parameter in self._parameters:
                parameter.data = parameter.data.float()

    def give_back(self, *_: object) -> None:
        for parameter, stored in zip(self._parameters, self._stored, strict=False):
            parameter.data = stored
        self._stored = []
