"""Attention without keys and values against the same with them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reward_model import absorbed
from reward_model.absorbed import Absorbed
from reward_model.compiled import is_compiled_for
from reward_model.kernels import Rule
from reward_model.linear import PackedLinear
from reward_model.model import RewardModel
from reward_model.native import by_native
from reward_model.packing import pack
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered
from reward_model.spans import Layout
from tests.architectures import VOCABULARY, tiny_network

pytestmark = pytest.mark.skipif(
    not is_compiled_for(torch.device("cpu"), torch.bfloat16),
    reason="the CPU lacks AVX-512 BF16, or there was no C compiler",
)


def unused(*_: object) -> Tensor:
    msg = "keys and values were made"
    raise AssertionError(msg)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("heads", "head_size", "value_size", "width"), [(12, 32, 32, 384), (3, 20, 8, 60), (20, 4, 4, 80)]
)
def test_it_is_attention_over_projected_states(
    heads: int, head_size: int, value_size: int, width: int, *, bias: bool
) -> None:
    torch.manual_seed(0)
    lengths = (1, 2, 15, 16, 33, 170)
    layout = Layout.of(pack([[1] * n for n in lengths]), [sum(lengths[:i]) for i in range(len(lengths))])
    assert layout.read is not None
    sizes = (heads * head_size, heads * value_size)
    weights = [torch.randn(size, width).bfloat16() * width**-0.5 for size in sizes]
    biases = [torch.randn(size).bfloat16() if bias else None for size in sizes]
    key, value = (PackedLinear(*one) for one in zip(weights, biases, strict=True))
    states, query = (
        torch.randn(1, layout.tokens, width).bfloat16(),
        torch.randn(1, heads, layout.read.tokens, head_size),
    )
    query = query.bfloat16()
    rule = Rule(head_size**-0.5, causal=False)
    measured = Absorbed(unused, rule, key, value, heads).attend(query, states, layout)
    assert measured.shape == (1, layout.read.tokens, heads, value_size)
    assert measured.is_contiguous()
    x = states[0].double()
    keys, values = (
        (x @ weight.double().T + (0 if one is None else one.double())).view(len(x), heads, -1).transpose(0, 1)
        for weight, one in zip(weights, biases, strict=True)
    )
    for i, span in enumerate(layout.read.spans):
        seen = slice(*span.keys[0])
        logits = torch.einsum("hd,htd->ht", query[0, :, i].double(), keys[:, seen]) * rule.scale
        expected = torch.einsum("ht,htd->hd", logits.softmax(-1), values[:, seen])
        assert (measured[0, i].double() - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra", "xlm-roberta"])
def test_encoders_score_as_exactly_with_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absorbed, "FEWEST_FOR_EACH", 0)
    tokens = [[3 + (7 * i + j * j) % (VOCABULARY - 3) for j in range(n)] for i, n in enumerate(range(1, 40))]
    inputs = [Rendered(None, ids) for ids in tokens]
    plain = RewardModel(tiny_network(kind), choose_precision("cpu", "float32")).freeze()
    model = RewardModel(tiny_network(kind), choose_precision("cpu", "bfloat16")).freeze()
    assert model.backbone.traced is not None
    assert model.backbone.traced.absorbs
    assert "neither keys nor values" in model.backbone.reason
    exact = torch.tensor([one.value for one in plain.score(inputs)])
    errors = []
    for fewest in (10**6, 0):
        monkeypatch.setattr(absorbed, "FEWEST_TOKENS", fewest)
        scores = torch.tensor([one.value for one in model.score(inputs)])
        errors.append((scores - exact).square().mean().sqrt())
    with_them, without = errors
    assert without != with_them
    assert without < 1.3 * with_them


def test_many_short_sequences_and_few_tokens_keep_keys_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def noted(*args: Any) -> Tensor:
        calls.append(args)
        return by_native(*args)

    model = RewardModel(tiny_network("bert"), choose_precision("cpu", "bfloat16")).freeze()
    monkeypatch.setattr(absorbed, "by_native", noted)
    for lengths, without in (([20] * 10, False), ([100], False), ([40] * 4, True), ([20] * 3 + [90], True)):
        calls.clear()
        model.score([Rendered(None, [5 + i] * n) for i, n in enumerate(lengths)])
        assert bool(calls) == without, lengths


def test_at_load_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absorbed, "by_native", lambda *args: 2 * by_native(*args))
    model = RewardModel(tiny_network("bert"), choose_precision("cpu", "bfloat16")).freeze()
    assert model.backbone.traced is None


@pytest.mark.parametrize(
    ("kind", "dtype"), [("bert", "float32"), ("modernbert", "bfloat16"), ("opt", "bfloat16"), ("qwen3", "bfloat16")]
)
def test_what_else_looks_at_keys_keeps_them(kind: str, dtype: str) -> None:
    model = RewardModel(tiny_network(kind), choose_precision("cpu", dtype)).freeze()
    assert model.backbone.traced is not None
    assert not model.backbone.traced.absorbs
    assert "neither keys nor values" not in model.backbone.reason
