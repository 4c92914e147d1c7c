"""Attention with gradients of its own gives the values and the gradients of attention written out."""

import math

import pytest
import torch
from packed import rows_of
from torch import Tensor

from reward_model import attention, kernels
from reward_model.attention import _by_spans, packed_attention
from reward_model.kernels import Rule, States
from reward_model.packing import PackedBatch, pack
from reward_model.spans import Layout
from reward_model.tiled import tiled_attention, tiled_can

PREFIX = list(range(100, 120))
SEPARATE = [[1] * 3, [2] * 3, [3] * 17, [4], [6] * 15]
ALIKE = [[*PREFIX, 1, 2], [*PREFIX, *range(200, 220), 7], PREFIX, [3] * 4, [*PREFIX, *range(200, 220), 8, 8]]


def written_out(batch: PackedBatch, inputs: list[Tensor], rule: Rule) -> Tensor:
    """[T, heads, head_size], a prefix in common being whatever its first sequence makes of it."""
    query, key, value = inputs
    repeats = query.shape[0] // key.shape[0]
    key, value = (one.repeat_interleave(repeats, dim=0) for one in (key, value))
    outputs: dict[int, Tensor] = {}
    for rows in rows_of(batch):
        i = torch.arange(len(rows))
        distance = i[:, None] - i[None, :]
        unseen = (distance < 0) & rule.causal
        if rule.window is not None:
            unseen |= distance.abs() >= rule.window
        logits = query[:, rows] @ key[:, rows].transpose(1, 2) * rule.scale
        attended = logits.masked_fill(unseen, -torch.inf).softmax(-1) @ value[:, rows]
        for place, row in enumerate(rows):
            outputs.setdefault(int(row), attended[:, place])
    return torch.stack([outputs[row] for row in range(len(batch.input_ids))])


@pytest.mark.parametrize("way", ["sdpa", "matmul", "matmul in tiles"])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("kind", ["encoder", "decoder", "decoder that shares"])
def test_values_and_gradients_are_those_of_attention_written_out(
    kind: str, key_heads: int, window: int | None, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_fewest_keys", lambda *_: 0 if "matmul" in way else math.inf)
    if way == "matmul in tiles":
        monkeypatch.setattr(kernels, "SCORES", 2 * 45 * 3)
        monkeypatch.setattr(kernels, "ROWS", 7)
    torch.manual_seed(0)
    shares = kind == "decoder that shares"
    batch = pack(ALIKE if shares else SEPARATE, share_prefixes=shares)
    tokens = len(batch.input_ids)
    rule = Rule(0.4, causal=kind != "encoder", window=window)
    inputs = [
        torch.randn(n, tokens, size, dtype=torch.float64, requires_grad=True)
        for n, size in ((4, 8), (key_heads, 8), (key_heads, 6))
    ]
    measured = tiled_attention(inputs[0], States(*inputs[1:]), Layout.of(batch), rule, _by_spans)
    expected = written_out(batch, inputs, rule)
    torch.testing.assert_close(measured, expected, rtol=1e-6, atol=1e-6)
    direction = torch.randn_like(expected)
    gradients = (torch.autograd.grad((result * direction).sum(), inputs) for result in (measured, expected))
    for own, plain in zip(*gradients, strict=True):
        # What many spans add to is kept in fp32, whatever the inputs are.
        torch.testing.assert_close(own, plain, rtol=1e-5, atol=1e-5)


def test_queries_that_stand_for_a_few_rows_have_gradients_too() -> None:
    batch = pack(ALIKE, share_prefixes=True)
    last = [rows[-1] for rows in rows_of(batch)]
    layout = Layout.of(batch, last, causal=True)
    rule = Rule(0.4, causal=True)
    tokens = len(batch.input_ids)
    inputs = [torch.randn(2, tokens, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    query, key, value = inputs
    assert layout.read is not None
    assert layout.rows is not None
    states, read = States(key, value), layout.read.with_states(key, value, layout.rows)
    measured = tiled_attention(query[:, layout.rows], states, read, rule, _by_spans)
    expected = written_out(batch, inputs, rule)[layout.rows]
    for own, plain in zip(
        *(torch.autograd.grad(one.square().sum(), inputs) for one in (measured, expected)), strict=True
    ):
        torch.testing.assert_close(own, plain, rtol=1e-5, atol=1e-5)


def test_training_in_bf16_on_a_cpu_goes_this_way_and_is_as_exact_as_bf16_allows() -> None:
    batch = pack(ALIKE, share_prefixes=True)
    tokens = len(batch.input_ids)
    inputs = [torch.randn(1, 2, tokens, 32, requires_grad=True) for _ in range(3)]
    module = torch.nn.Module()
    # What some models hand over is in fp32 even under autocast.
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = packed_attention(module, *inputs, None, layout=Layout.of(batch))
    assert output.dtype == torch.bfloat16
    assert "_Tiled" in str(output.grad_fn.next_functions) + str(output.grad_fn)
    exact = [one[0].detach().double().requires_grad_() for one in inputs]
    expected = written_out(batch, exact, Rule(32**-0.5, causal=True))
    direction = torch.randn_like(expected)
    measured = torch.autograd.grad((output[0].double() * direction).sum(), inputs)
    for own, plain in zip(measured, torch.autograd.grad((expected * direction).sum(), exact), strict=True):
        assert (own[0] - plain).abs().max() < 0.03 * plain.abs().max()


@pytest.mark.parametrize(
    ("rule", "can"),
    [
        (Rule(1, causal=True), True),
        (Rule(1, causal=True, softcap=3.0), False),
        (Rule(1, causal=False, dropout=0.1), False),
    ],
)
def test_soft_caps_and_dropout_go_another_way(rule: Rule, can: bool) -> None:
    assert tiled_can(rule) == can
