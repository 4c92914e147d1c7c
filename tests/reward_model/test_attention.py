"""Packed attention equals softmax(QK^T)V written out, segment by segment."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from reward_model.attention import packed_attention
from reward_model.errors import CheckpointRefused

BOUNDS = [0, 3, 6, 23, 24, 25, 40]


class Module(torch.nn.Module):
    def __init__(self, *, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal


def plain(query: Tensor, key: Tensor, value: Tensor, causal: bool, window: int | None, softcap: float | None) -> Tensor:
    n, heads = query.shape[2], query.shape[1]
    key, value = (t.repeat_interleave(heads // t.shape[1], dim=1) for t in (key, value))
    logits = query.double() @ key.double().transpose(2, 3) * query.shape[-1] ** -0.5
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    for i in range(n):
        for j in range(n):
            if (causal and j > i) or (window is not None and abs(i - j) >= window):
                logits[:, :, i, j] = float("-inf")
    return (logits.softmax(-1) @ value.double()).float()


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("causal", [True, False])
def test_each_segment_attends_to_itself_as_if_it_were_alone(
    causal: bool, key_heads: int, window: int | None, softcap: float | None
) -> None:
    torch.manual_seed(0)
    query = torch.randn(1, 4, BOUNDS[-1], 8) * 2
    key, value = torch.randn(2, 1, key_heads, BOUNDS[-1], 8)
    output, weights = packed_attention(
        Module(is_causal=causal),
        query,
        key,
        value,
        None,
        segments=BOUNDS,
        sliding_window=window,
        softcap=softcap,
    )
    assert weights is None
    for start, end in pairwise(BOUNDS):
        cut = [tensor[:, :, start:end] for tensor in (query, key, value)]
        expected = plain(*cut, causal, window, softcap).transpose(1, 2)
        torch.testing.assert_close(output[:, start:end], expected, rtol=1e-4, atol=1e-5)


def test_the_caller_can_override_causality() -> None:
    query, key, value = torch.randn(3, 1, 2, 5, 4)
    causal, _ = packed_attention(Module(is_causal=False), query, key, value, None, segments=[0, 5], is_causal=True)
    expected, _ = packed_attention(Module(is_causal=True), query, key, value, None, segments=[0, 5])
    torch.testing.assert_close(causal, expected)


def test_a_term_of_attention_that_is_not_known_is_refused_not_ignored() -> None:
    query, key, value = torch.randn(3, 1, 2, 5, 4)
    with pytest.raises(CheckpointRefused, match="does not know: s_aux"):
        packed_attention(Module(is_causal=True), query, key, value, None, segments=[0, 5], s_aux=torch.zeros(2))
