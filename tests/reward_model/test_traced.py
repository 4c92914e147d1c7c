"""A trace of a model's forward pass against its modules, to the last bit."""

import copy
import gc
import logging
import random
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from math import isfinite, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from reward_model import absorbed, gates, norms, pointwise, readout, rotary
from reward_model.leaves import leaf, notes, noting
from reward_model.linear import PackedLinear
from reward_model.model import RewardModel
from reward_model.norms import Norm
from reward_model.packing import pack
from reward_model.pointwise import Activation
from reward_model.pooling import read_rows
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered
from reward_model.spans import Layout
from reward_model.traced import Traced, Untraceable
from tests.architectures import IN_EQUAL_LENGTHS, PACKED, PADDED_ENCODERS, VOCABULARY, tiny_network

BATCHES = 12
#: In fp32 torch has no product of experts for tensors without values.
MIXTURES = ("mixtral", "mistral4", "qwen2_moe", "qwen3_moe", "hunyuan_v1_moe", "deepseek_v2", "deepseek_v3", "axk1")


def frozen(kind: str, dtype: str = "float32", **overrides: object) -> RewardModel:
    return RewardModel(tiny_network(kind, **overrides), choose_precision("cpu", dtype)).freeze()


def batches(seed: int) -> list[list[list[int]]]:
    """Sequences that start alike and others, single tokens and single sequences among them."""
    draw = random.Random(seed)
    start = [draw.randrange(3, VOCABULARY) for _ in range(20)]

    def sequence(longest: int) -> list[int]:
        own = [draw.randrange(3, VOCABULARY) for _ in range(draw.randint(1, longest))]
        return start + own if draw.random() < 0.3 else own

    several = [[sequence(draw.choice((2, 60))) for _ in range(draw.randint(1, 9))] for _ in range(BATCHES)]
    return [[[7]], [[7], [8]], [sequence(90)], *several]


def last_states(model: RewardModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """What scores are made of: [n, d], or [T, d] where the mean is."""
    batch = pack(sequences, share_prefixes=model.backbone.shares_prefixes)
    rows = read_rows(batch, model.pooling, model.config.get_text_config().pad_token_id)
    hidden = model.backbone.hidden_states(batch, rows)
    return hidden if rows is None else hidden[rows]


@torch.inference_mode()
def assert_traced_like_its_modules(model: RewardModel) -> None:
    traced = model.backbone.traced
    assert traced is not None
    run = model.backbone._run
    for sequences in batches(seed=0):
        model.backbone.traced, model.backbone._run = traced, unused
        measured = last_states(model, sequences)
        model.backbone.traced, model.backbone._run = None, run
        assert torch.equal(measured, last_states(model, sequences))


def unused(*_: object) -> Tensor:
    msg = "the modules ran, not the trace"
    raise AssertionError(msg)


@pytest.mark.parametrize("kind", [kind for kind in PACKED if kind not in MIXTURES])
def test_every_architecture_gives_the_states_of_its_modules(kind: str) -> None:
    assert_traced_like_its_modules(frozen(kind))


@pytest.mark.parametrize("kind", ["bert", "modernbert", "gpt2", "qwen3", "gemma2", *MIXTURES])
def test_in_bf16_with_whatever_kernels_there_are(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absorbed, "FEWEST_TOKENS", 1000)
    assert_traced_like_its_modules(frozen(kind, "bfloat16"))


@pytest.mark.parametrize("kind", ["modernbert", "qwen3", "gemma2"])
def test_our_own_kernels_are_one_operation_each(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()

    @leaf(pointwise._empty_gated)
    def gated(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
        called.add("gated")
        assert not isinstance(gate, FakeTensor)
        return (F.silu(gate) if activation is Activation.SILU else F.gelu(gate, approximate="tanh")) * up

    @leaf(pointwise._empty_rotated)
    def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        called.add("rotated")
        assert not isinstance(x, FakeTensor)
        left, right = x.chunk(2, dim=-1)
        turned = x * cos[:, None] + torch.cat([-right, left], dim=-1) * sin[:, None]
        return turned[0].transpose(0, 1).contiguous().transpose(0, 1).unsqueeze(0)

    for module in (gates, rotary, pointwise):
        monkeypatch.setattr(module, "is_in_one_pass", lambda _: True)
    monkeypatch.setattr(gates, "gated", gated)
    monkeypatch.setattr(rotary, "rotated", rotated)
    monkeypatch.setattr(norms, "_fused_by_torch", lambda _: True)
    model = frozen(kind)
    assert any(isinstance(one, norms.PackedNorm) for one in model.modules())
    called.clear()
    assert_traced_like_its_modules(model)
    assert called == ({"rotated"} if kind == "modernbert" else {"rotated", "gated"})


@pytest.mark.parametrize("kind", ["mixtral", *PADDED_ENCODERS[:1], *IN_EQUAL_LENGTHS[:1]])
def test_what_cannot_be_traced_runs_as_before(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = frozen(kind)
    assert model.backbone.traced is None
    told = [one.getMessage() for one in caplog.records if "module by module" in one.getMessage()]
    assert len(told) == (kind == "mixtral")
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert all(isfinite(score.value) for score in model.score([Rendered(None, [5, 6, 7])]))


@pytest.mark.parametrize(("kind", "called"), [("bert", "of_sum"), ("qwen3", "of_kept_sum")])
def test_norms_add_what_they_are_the_norms_of(kind: str, called: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: set[str] = set()

    def noting_calls_of(name: str) -> Callable[..., Any]:
        plain = getattr(Norm, name)

        def noted(norm: Norm, *terms: Tensor) -> Any:
            calls.add(name)
            return plain(norm, *terms)

        return noted

    for name in ("of_sum", "of_kept_sum"):
        monkeypatch.setattr(Norm, name, noting_calls_of(name))
    monkeypatch.setattr(norms, "_fused_by_torch", lambda _: True)
    model = frozen(kind)
    calls.clear()
    assert_traced_like_its_modules(model)
    assert calls == {called}


def test_layers_that_cannot_be_read_for_single_tokens_are_traced_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readout, "install", lambda *_: False)
    assert_traced_like_its_modules(frozen("bert"))


def test_weights_that_move_leave_no_trace_with_those_that_were() -> None:
    model = frozen("bert")
    assert copy.deepcopy(model.backbone.traced) is None
    model.to(torch.float32)
    assert model.backbone.traced is None


def traced_by(states: Callable[[Tensor], Tensor]) -> Traced:
    """A trace of a backbone whose states come of input ids, [T] fp32."""

    def forward(input_ids: Tensor, _: Tensor, __: Tensor, layout: Layout) -> Tensor:
        return states(input_ids[0].float())[:, None]

    return Traced(forward, reads=False)


def test_a_pass_that_depends_on_the_number_of_tokens_is_refused() -> None:
    with pytest.raises(Untraceable, match="other numbers of tokens"):
        traced_by(lambda ids: ids * 2 if len(ids) > 10 else ids)


def test_a_pass_that_looks_into_values_is_refused() -> None:
    with pytest.raises(RuntimeError, match="data-dependent"):
        traced_by(lambda ids: ids * 2 if ids.sum() > 10 else ids)


@pytest.mark.parametrize("other", [2.0, 1.01, nan])
@pytest.mark.parametrize("place", range(4))
def test_a_pass_that_gives_something_else_for_one_batch_is_refused(place: int, other: float) -> None:
    factors = chain([1.0], [1.0] * place, [other], repeat(1.0))
    with pytest.raises(Untraceable, match="off by"):
        traced_by(lambda ids: ids * next(factors))


def test_models_that_are_frozen_at_once_are_all_traced_and_torch_stays_as_it_was() -> None:
    before = (nn.Module.__call__, nn.Module.__getattr__)
    with ThreadPoolExecutor(4) as threads:
        models = list(threads.map(frozen, ["bert", "qwen3", "bert", "gpt2"]))
    assert all(model.backbone.traced is not None for model in models)
    assert (nn.Module.__call__, nn.Module.__getattr__) == before
    assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2


def test_a_model_that_is_dropped_takes_its_trace_along() -> None:
    model = frozen("bert")
    held = [weakref.ref(one) for one in model.modules() if isinstance(one, PackedLinear)]
    gc.collect()
    gc.disable()
    try:
        del model
        assert held
        assert [one for one in held if one() is not None] == []
    finally:
        gc.enable()


def test_frozen_again_it_is_traced_again_and_says_so_once() -> None:
    model = frozen("bert")
    first = model.backbone.traced
    assert model.freeze().backbone.traced not in (None, first)
    assert model.backbone.reason.count("without the Python") == 1


def test_copies_stay_where_something_is_changed() -> None:
    traced = traced_by(lambda ids: ids + ids.clone().add_(1))
    states = traced(torch.tensor([[3, 4, 5]]), torch.zeros(1, 3), torch.zeros(1, 3), Layout((), 3))
    assert states[:, 0].tolist() == [7, 9, 11]


def test_a_leaf_is_itself_but_for_the_thread_that_traces() -> None:
    double = leaf(torch.empty_like)(lambda x: 2 * x)
    with noting() as mine:
        assert notes() is mine
        with ThreadPoolExecutor(1) as other:
            assert other.submit(double, torch.ones(2)).result().tolist() == [2, 2]
    assert notes() is None
    assert double(torch.ones(1)).tolist() == [2]
    assert mine.leaves == []
