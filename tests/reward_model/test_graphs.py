"""Recorded forward passes say what plain ones say. A CPU has no CUDA graphs, so here a graph is the function again."""

import copy
import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from reward_model import attention, graphs, varlen
from reward_model.backbone import PackedBackbone
from reward_model.graphs import SIZES, SLOTS, Graphs, worthwhile_sizes
from reward_model.model import RewardModel
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered

MORE: dict[str, dict[str, object]] = {"mistral": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16}}
#: On a GPU DeBERTa is padded.
ARCHITECTURES = (*(kind for kind in tiny.ARCHITECTURES if kind != "deberta-v2"), "mistral")


def again(replays: list[int]) -> graphs.Record:
    """Records by keeping the function, and writes down how long each row was that it ran over again."""

    def record(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        hidden = run()

        def replay() -> None:
            replays.append(len(hidden))
            with torch.no_grad():
                hidden.copy_(run())

        return hidden, replay

    return record


def plain_kernel(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, most_q: int, most_k: int, *,
    scale: float, window_size: tuple[int, int], enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """What FlashAttention's kernel computes for sequences whose queries and keys are the same tokens."""
    assert torch.equal(cu_q, cu_k)
    out = torch.empty_like(q)
    for start, stop in pairwise(cu_q.tolist()):
        assert stop - start <= min(most_q, most_k)
        one = [tensor[start:stop].transpose(0, 1)[None] for tensor in (q, k, v)]
        rows = torch.arange(stop - start)
        ahead = rows[None] - rows[:, None]
        left, right = (10**9 if size < 0 else size for size in window_size)
        seen = (ahead >= -left) & (ahead <= right)
        result = F.scaled_dot_product_attention(*one, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
        out[start:stop] = result[0].transpose(0, 1)
    return out


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes what records and what it needs of a GPU; the rows that were run over."""
    rows: list[int] = []
    monkeypatch.setattr(graphs, "cuda_recorder", lambda: again(rows))
    monkeypatch.setattr(attention, "varlen_can", lambda _, __, layout, ___: isinstance(layout, varlen.LayoutOnDevice))
    monkeypatch.setattr(varlen, "_kernel", plain_kernel)
    return rows


def model_of(kind: str, *, deterministic: bool = False) -> RewardModel:
    network = tiny.tiny_model(kind, tiny.tiny_tokenizer(tiny.kind_of(kind)), **MORE.get(kind, {}))
    return RewardModel(network, choose_precision("cpu", "float32"), deterministic=deterministic).freeze()


def recorded(kind: str, replays: list[int], *, deterministic: bool = False) -> RewardModel:
    model = model_of(kind, deterministic=deterministic)
    model.backbone.record()
    assert model.backbone.graphs is not None
    assert sorted(replays) == list(SIZES), "each is compared with a plain pass"
    replays.clear()
    return model


def inputs(draw: random.Random, lengths: list[int]) -> list[Rendered]:
    return [Rendered(None, [draw.randrange(5, 250) for _ in range(n)]) for n in lengths]


def values(model: RewardModel, batch: list[Rendered]) -> list[float]:
    return [score.value for score in model.score(batch)]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_whatever_a_row_is_filled_with_scores_are_those_of_plain_passes(kind: str, replays: list[int]) -> None:
    plain, model, draw = model_of(kind), recorded(kind, replays), random.Random(0)
    for lengths in ([1], [90], [31, 1], [33], [5] * SLOTS, [64, 3, 40], [1], [20, 90, 1, 17]):
        batch = inputs(draw, lengths)
        assert values(model, batch) == pytest.approx(values(plain, batch), abs=1e-5)
    assert replays == [32, 96, 32, 48, 48, 128, 32, 128]


@pytest.mark.parametrize("lengths", [[5] * (SLOTS + 1), [90] * 46])
def test_a_batch_that_no_graph_holds_is_computed_as_before(lengths: list[int], replays: list[int]) -> None:
    model, batch = recorded("bert", replays), inputs(random.Random(0), lengths)
    assert values(model, batch) == pytest.approx(values(model_of("bert"), batch), abs=1e-5)
    assert replays == []


def test_shared_prefixes_are_computed_once_and_not_by_a_graph(replays: list[int]) -> None:
    model, draw = recorded("qwen3", replays), random.Random(0)
    prompt = inputs(draw, [40])[0].token_ids
    batch = [Rendered(None, [*prompt, *one.token_ids]) for one in inputs(draw, [5, 9])]
    assert [score.reused_tokens for score in model.score(batch)] == [0, 40]
    assert replays == []


def test_in_deterministic_mode_each_sequence_has_a_graph_of_its_own(replays: list[int]) -> None:
    model, batch = recorded("qwen3", replays, deterministic=True), inputs(random.Random(0), [70, 3, 40])
    together = values(model, batch)
    assert replays == [96, 32, 48]
    assert together == [values(model, [one])[0] for one in batch]


def test_segment_ids_and_offset_positions_come_along(replays: list[int]) -> None:
    draw = random.Random(0)
    batch = [Rendered(None, one.token_ids, segment_ids=[0, 0, *[1] * 8]) for one in inputs(draw, [10, 10])]
    assert values(recorded("bert", replays), batch) == pytest.approx(values(model_of("bert"), batch), abs=1e-5)
    assert values(model_of("bert"), batch) != values(model_of("bert"), [Rendered(None, o.token_ids) for o in batch])
    assert replays == [32]


def test_threads_that_score_at_once_get_their_own_scores(replays: list[int]) -> None:
    model, draw = recorded("llama", replays), random.Random(0)
    batches = [inputs(draw, [draw.randrange(1, 30) for _ in range(3)]) for _ in range(40)]
    expected = [values(model, batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda batch: values(model, batch), batches)) == expected


def test_a_model_whose_attention_needs_bounds_on_the_host_has_no_graphs(
    replays: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "varlen_can", lambda *_: False)
    model = model_of("llama")
    reason = model.backbone.reason
    model.backbone.record()
    assert (model.backbone.graphs, model.backbone.reason, replays) == (None, reason, [])


def zero(hidden: Tensor) -> None:
    hidden.zero_()


@pytest.mark.usefixtures("replays")
@pytest.mark.parametrize("kind", ["bert", "qwen3"])
@pytest.mark.parametrize("wrong", SIZES[:2] + SIZES[-1:])
def test_graphs_of_which_one_gives_other_states_are_not_used(
    wrong: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recorder() -> graphs.Record:
        honest = again([])

        def record(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
            hidden, replay = honest(run)
            return hidden, partial(zero, hidden) if len(hidden) == wrong else replay

        return record

    model = model_of(kind)
    reason = model.backbone.reason
    with monkeypatch.context() as patched:
        patched.setattr(graphs, "cuda_recorder", recorder)
        model.backbone.record()
    assert (model.backbone.graphs, model.backbone.reason) == (None, reason)
    model.backbone.record()
    assert "up to 4096 tokens in 8 sequences without a common start are CUDA graphs" in model.backbone.reason


def test_a_model_that_is_copied_or_moved_has_no_graphs_of_the_weights_that_were(replays: list[int]) -> None:
    model = recorded("qwen3", replays)
    assert copy.deepcopy(model.backbone.graphs) is None
    assert pickle.loads(pickle.dumps(model.backbone.graphs)) is None
    assert model.backbone.graphs is not None
    model.to("cpu")
    assert model.backbone.graphs is None


def test_a_padded_model_has_none() -> None:
    model = model_of("deberta")
    model.backbone.record()
    assert model.backbone.graphs is None


class Syncs(TorchDispatchMode):
    """Fails where the host asks for a value, which on a GPU would wait for it and cannot be recorded."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        aten = torch.ops.aten
        assert func not in {
            aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
            aten.repeat_interleave.Tensor, aten._unique2.default,
        }  # fmt: skip
        assert func != aten.index.Tensor or not any(one is not None and one.dtype == torch.bool for one in args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("replays")
@pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if kind != "gpt2"])
def test_a_recorded_pass_does_not_wait_for_the_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers' GPT-2 looks whether the row begins or ends with padding, and so has no graphs.
    monkeypatch.setattr(varlen, "_kernel", lambda q, *_, **__: torch.empty_like(q))
    backbone = model_of(kind).backbone
    assert isinstance(backbone, PackedBackbone)
    layout = varlen.layout_on_device(torch.tensor([0, 5, 32, 32], dtype=torch.int32), 32)
    with torch.no_grad(), Syncs():
        backbone._forward(torch.zeros(3, 32, dtype=torch.int64), layout)


@given(st.lists(st.integers(1, 900), min_size=1, max_size=SLOTS + 1))
def test_a_row_is_the_smallest_that_holds_a_batch(lengths: list[int]) -> None:
    made = Graphs(lambda row, _: row[0].float(), SIZES, torch.device("cpu"), lambda run: (run(), lambda: None))
    size, tokens = made.size_for(lengths), sum(lengths)
    if size is None:
        assert len(lengths) > SLOTS or tokens > made.most
    else:
        assert tokens <= size < max(SIZES[0] + 1, 1.5 * tokens)
        assert not any(tokens <= smaller < size for smaller in SIZES)


def test_what_a_row_is_filled_up_with_counts_as_padding(replays: list[int]) -> None:
    model, draw = recorded("qwen3", replays), random.Random(0)
    assert model.padding(inputs(draw, [60, 20])) == 96 - 80
    assert model.padding(inputs(draw, [90] * 46)) == 0
    prompt = inputs(draw, [40])[0].token_ids
    assert model.padding([Rendered(None, [*prompt, last]) for last in (7, 8)]) == 0


def test_the_larger_a_model_is_the_fewer_tokens_are_worth_a_graph() -> None:
    assert worthwhile_sizes(layers=28, parameters=440_000_000)[-1] == 3072
    assert worthwhile_sizes(layers=32, parameters=7_000_000_000)[-1] == 192
    assert worthwhile_sizes(layers=6, parameters=10_000_000) == SIZES
    assert worthwhile_sizes(layers=80, parameters=700_000_000_000) == ()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["bert", "modernbert", "qwen3", "mistral"])
def test_on_a_gpu_graphs_score_as_plain_passes_do(kind: str) -> None:
    network = tiny.tiny_model(kind, tiny.tiny_tokenizer(tiny.kind_of(kind)), **MORE.get(kind, {}))
    model = RewardModel(network, choose_precision("cuda", "bfloat16")).freeze()
    recorded, draw = model.backbone.graphs, random.Random(0)
    assert recorded is not None
    for lengths in ([1], [32], [33], [5] * SLOTS, [64, 3, 40], [1], [20, 90, 1, 17], [90] * SLOTS):
        batch = inputs(draw, lengths)
        model.backbone.graphs = recorded
        measured = torch.tensor(values(model, batch))
        model.backbone.graphs = None
        expected = torch.tensor(values(model, batch))
        assert (measured - expected).abs().max() <= 0.02
