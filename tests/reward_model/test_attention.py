"""Attention over a packed row equals softmax(QK^T)V written out, sequence by sequence, whichever kernel computes it."""

import math

import pytest
import torch
from packed import rows_of
from torch import Tensor

from reward_model import attention, kernels
from reward_model.attention import StatesFound, packed_attention
from reward_model.errors import CheckpointRefused
from reward_model.packing import pack
from reward_model.spans import Layout
from reward_model.varlen import varlen_can

PREFIX = list(range(100, 120))
#: Several lengths, some of them equal, and prefixes in common within prefixes in common.
SEPARATE = [[1] * 3, [2] * 3, [3] * 17, [4], [5], [6] * 15]
ALIKE = [
    [*PREFIX, 1, 2],
    [*PREFIX, *range(200, 220), 7],
    PREFIX,
    [3] * 4,
    [*PREFIX, *range(200, 220), 8, 8],
    [*PREFIX, *range(200, 220)],
]


class Module(torch.nn.Module):
    def __init__(self, *, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal


def plain(query: Tensor, key: Tensor, value: Tensor, causal: bool, window: int | None, softcap: float | None) -> Tensor:
    n, heads = query.shape[1], query.shape[0]
    key, value = (t.repeat_interleave(heads // t.shape[0], dim=0) for t in (key, value))
    logits = query.double() @ key.double().transpose(1, 2) * query.shape[-1] ** -0.5
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    unseen = (j > i) & causal
    if window is not None:
        unseen |= (i - j).abs() >= window
    return (logits.masked_fill(unseen, -torch.inf).softmax(-1) @ value.double()).float().transpose(0, 1)


@pytest.mark.parametrize("kernel", ["matmul", "matmul in tiles", "sdpa"])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("kind", ["encoder", "decoder", "decoder that shares"])
def test_each_sequence_attends_to_itself_as_if_it_were_alone(
    kind: str, key_heads: int, window: int | None, softcap: float | None, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_fewest_keys", lambda *_: 0 if "matmul" in kernel else math.inf)
    if kernel == "matmul in tiles":
        monkeypatch.setattr(kernels, "SCORES", 2 * 45 * 3)
        monkeypatch.setattr(kernels, "ROWS", 7)
    torch.manual_seed(0)
    shares = kind == "decoder that shares"
    batch = pack(ALIKE if shares else SEPARATE, share_prefixes=shares)
    assert (batch.parents is not None) == shares
    tokens = len(batch.input_ids)
    query = torch.randn(1, 4, tokens, 8) * 2
    key, value = torch.randn(2, 1, key_heads, tokens, 8)
    module = Module(is_causal=kind != "encoder")
    rows = rows_of(batch)
    layout = Layout.of(batch, [one[-1] for one in rows])
    with torch.inference_mode():
        output, weights = packed_attention(
            module, query, key, value, None, layout=layout, sliding_window=window, softcap=softcap
        )
    assert weights is None
    assert layout.read is not None
    read = layout.read.with_states(key, value, torch.tensor([one[-1] for one in rows]))
    last, _ = packed_attention(
        module,
        query[:, :, [one[-1] for one in rows]],
        key,
        value,
        None,
        layout=read,
        sliding_window=window,
        softcap=softcap,
    )
    for i, one in enumerate(rows):
        own = (tensor[0][:, one] for tensor in (query, key, value))
        expected = plain(*own, module.is_causal, window, softcap)
        torch.testing.assert_close(output[0, one], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(last[0, i], expected[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("matmul", [True, False])
@pytest.mark.parametrize("row", [0, 3, 6])
def test_a_query_that_is_read_before_the_end_sees_nothing_behind_it(
    row: int, matmul: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_fewest_keys", lambda *_: 0 if matmul else math.inf)
    query, key, value = torch.randn(3, 1, 2, 7, 4)
    read = Layout.of(pack([[1] * 7]), [row]).read
    assert read is not None
    layout = read.with_states(key, value, torch.tensor([row]))
    result, _ = packed_attention(Module(is_causal=True), query[:, :, row : row + 1], key, value, None, layout=layout)
    expected = plain(query[0], key[0], value[0], True, None, None)[row]
    torch.testing.assert_close(result[0, 0], expected)


def test_a_long_sequence_is_laid_out_once_however_many_tiles_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "ROWS", 8)
    states = kernels.States(*torch.randn(2, 2, 100, 4))
    layout = Layout.of(pack([[1] * 100]))
    rule = kernels.Rule(0.5, causal=True)
    result = kernels.by_matmul(torch.randn(2, 100, 4), states, layout, layout.spans[0], rule)
    assert result.shape == (100, 2, 4)
    assert list(states._cut) == [(0, 100)]


def test_no_mask_is_made_where_torch_knows_causality_itself() -> None:
    layout = Layout.of(pack([[1] * 100]))
    states = kernels.States(*torch.randn(2, 2, 100, 4))
    kernels.by_sdpa(torch.randn(2, 100, 4), states, layout, layout.spans[0], kernels.Rule(0.5, causal=True))
    assert not layout._made


@pytest.mark.parametrize("window", [None, 4])
def test_gradients_of_the_kernels_agree(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pack(ALIKE, share_prefixes=True)
    torch.manual_seed(0)
    states = torch.randn(3, 1, 2, len(batch.input_ids), 8, requires_grad=True)
    found = []
    for sdpa in (True, False):
        monkeypatch.setattr(attention, "_fewest_keys", lambda *_, sdpa=sdpa: math.inf if sdpa else 0)
        output, _ = packed_attention(
            Module(is_causal=True), *states, None, layout=Layout.of(batch), sliding_window=window
        )
        found.append(torch.autograd.grad(output.square().sum(), states)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("amx", [True, False])
def test_plain_matrix_products_are_for_bf16_without_amx_where_no_weights_need_be_kept(
    amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "has_amx", lambda: amx)
    query = torch.zeros(2, 60, 4, dtype=torch.bfloat16)
    states = kernels.States(query, query)
    assert attention._fewest_keys(query, states) == math.inf
    with torch.no_grad():
        assert attention._fewest_keys(query, states) == (math.inf if amx else attention.FEWEST_KEYS)
        assert attention._fewest_keys(query.float(), states) == math.inf
        # torch does not fuse attention where values have another size.
        assert attention._fewest_keys(query, kernels.States(query, query[:, :, :2])) == attention.FEWEST_KEYS


def test_the_caller_can_override_causality() -> None:
    query, key, value = torch.randn(3, 1, 2, 5, 4)
    layout = Layout.of(pack([[1] * 5]))
    causal, _ = packed_attention(Module(is_causal=False), query, key, value, None, layout=layout, is_causal=True)
    expected, _ = packed_attention(Module(is_causal=True), query, key, value, None, layout=layout)
    torch.testing.assert_close(causal, expected)


def test_a_layout_without_queries_asks_for_keys_and_values_only() -> None:
    query, key, value = torch.randn(3, 1, 2, 5, 4)
    with pytest.raises(StatesFound) as found:
        packed_attention(Module(is_causal=True), query, key, value, None, layout=Layout(()))
    assert found.value.key is key
    assert found.value.value is value


def test_a_term_of_attention_that_is_not_known_is_refused_not_ignored() -> None:
    query, key, value = torch.randn(3, 1, 2, 5, 4)
    layout = Layout.of(pack([[1] * 5]))
    with pytest.raises(CheckpointRefused, match="does not know: s_aux"):
        packed_attention(Module(is_causal=True), query, key, value, None, layout=layout, s_aux=torch.zeros(2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlashAttention's variable-length kernel is CUDA's only")
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("kind", ["encoder", "decoder", "decoder that shares"])
def test_the_kernel_for_gpus_agrees_with_the_one_for_cpus(kind: str, key_heads: int, window: int | None) -> None:
    torch.manual_seed(0)
    shares = kind == "decoder that shares"
    batch = pack(ALIKE if shares else SEPARATE, share_prefixes=shares)
    query = torch.randn(1, 4, len(batch.input_ids), 32)
    key, value = torch.randn(2, 1, key_heads, len(batch.input_ids), 32)
    module = Module(is_causal=kind != "encoder")
    expected, _ = packed_attention(module, query, key, value, None, layout=Layout.of(batch), sliding_window=window)
    there = [tensor.to("cuda", torch.bfloat16) for tensor in (query, key, value)]
    layout = Layout.of(batch.to(torch.device("cuda")))
    states = kernels.States(there[1][0], there[2][0])
    assert varlen_can(there[0][0], states, layout, kernels.Rule(1.0, causal=module.is_causal, window=window))
    output, _ = packed_attention(module, *there, None, layout=layout, sliding_window=window)
    torch.testing.assert_close(output.float().cpu(), expected, rtol=0.05, atol=0.05)
