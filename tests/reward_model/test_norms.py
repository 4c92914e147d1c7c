"""Norms laid out for scoring say what the model's own say, and what is no norm is left alone."""

import pytest
import tiny
import torch
from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from reward_model.compiled import is_compiled_for
from reward_model.model import RewardModel
from reward_model.norms import PackedNorm, pack_norms, unpack_norms
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered

pytestmark = pytest.mark.skipif(
    not is_compiled_for(torch.device("cpu"), torch.bfloat16),
    reason="the CPU lacks AVX-512 BF16, or there was no C compiler",
)

SEQUENCES = [[5 + (7 * i + j * j) % 50 for j in range(n)] for i, n in enumerate((3, 17, 40, 99, 1))]


def layer_norm(size: int) -> nn.Module:
    return nn.LayerNorm(size, eps=1e-12)


def without_bias(size: int) -> nn.Module:
    return nn.LayerNorm(size, bias=False)


def trained(kind: type[nn.Module] | object, size: int) -> nn.Module:
    module = kind(size)  # type: ignore[operator]
    for parameter in module.parameters():
        parameter.data = torch.randn(size)
    return module.bfloat16()


@pytest.mark.parametrize("size", [1, 16, 33, 384, 1000])
@pytest.mark.parametrize("kind", [layer_norm, without_bias, Qwen3RMSNorm, Gemma3RMSNorm])
def test_it_equals_the_plain_norm(kind: type[nn.Module], size: int) -> None:
    torch.manual_seed(0)
    module = trained(kind, size)
    parent = nn.Sequential(module)
    assert pack_norms(parent)
    assert isinstance(parent[0], PackedNorm)
    # Rows apart, with a mean, small and large.
    rows = torch.randn(2, 40, 3, size) * torch.logspace(-3, 3, 40)[:, None, None] + 0.5
    rows = rows.bfloat16()[:, :, 1]
    exact = module.double()(rows.double()) if kind in {layer_norm, without_bias} else module.float()(rows.float())
    measured = parent(rows)
    assert measured.dtype == torch.bfloat16
    assert measured.is_contiguous()
    torch.testing.assert_close(measured.double(), exact.double(), rtol=0.01, atol=0.02)
    # A module that is used twice stays one.
    shared = trained(kind, size)
    twice = nn.Sequential(shared, nn.Sequential(shared))
    assert pack_norms(twice)
    assert twice[0] is twice[1][0]


@pytest.mark.parametrize("kind", [layer_norm, Qwen3RMSNorm, Gemma3RMSNorm])
def test_one_large_weight_does_not_hide_how_the_others_are_meant(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = trained(kind, 64)
    module.weight.data[7] = 300.0
    module.weight.data[8] = -0.3
    parent = nn.Sequential(module)
    assert pack_norms(parent)
    rows = torch.randn(5, 64).bfloat16()
    expected = module(rows)
    torch.testing.assert_close(parent(rows), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("rows", [3, 40])
@pytest.mark.parametrize("size", [1, 16, 33, 384])
def test_of_a_sum_it_is_the_same_to_the_last_bit(size: int, rows: int) -> None:
    torch.manual_seed(0)
    parent = nn.Sequential(trained(layer_norm, size))
    assert pack_norms(parent)
    norm = parent[0].norm
    x, y = torch.randn(2, rows, 2, size).bfloat16(), torch.randn(2, 2, rows, size).bfloat16().transpose(1, 2)
    for left, right in ((x, y), (x[:, :, 0], y[:, :, 1]), (y, x)):
        expected = norm(left + right)
        assert torch.equal(norm.of_sum(left, right), expected)
        total, normed = norm.of_kept_sum(left, right)
        assert torch.equal(normed, expected)
        assert torch.equal(total, left + right)
        assert total.is_contiguous()


def test_a_bias_of_another_shape_is_not_read() -> None:
    module = WithBias(24).bfloat16()
    parent = nn.Sequential(module)
    assert not pack_norms(parent)


def test_what_it_takes_back_is_as_before() -> None:
    module = trained(layer_norm, 8)
    parent = nn.Sequential(nn.Sequential(module))
    assert pack_norms(parent)
    assert list(parent.parameters()) == []
    unpack_norms(parent)
    assert parent[0][0] is module


class Doubled(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return 2 * super().forward(input)


class WithBias(nn.LayerNorm):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return nn.functional.layer_norm(input, self.normalized_shape, self.weight, eps=self.eps) + self.bias


class WithMore(nn.LayerNorm):
    def forward(self, input: Tensor, gate: Tensor) -> Tensor:  # type: ignore[override]  # noqa: A002
        return super().forward(input) * gate


@pytest.mark.parametrize("kind", [Doubled, WithMore, lambda n: nn.Linear(n, n), lambda n: nn.BatchNorm1d(n).eval()])
def test_what_is_no_norm_of_rows_is_left_alone(kind: object) -> None:
    module = kind(24)  # type: ignore[operator]
    parent = nn.Sequential(trained(lambda _: module, 24))
    assert not pack_norms(parent)
    assert parent[0] is module


def test_norms_in_fp32_are_left_to_torch() -> None:
    assert not pack_norms(nn.Sequential(nn.LayerNorm(24)))


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_frozen_model_scores_as_before(architecture: str) -> None:
    network = tiny.tiny_model(architecture, tiny.tiny_tokenizer(tiny.kind_of(architecture)))
    model = RewardModel(network, choose_precision("cpu", "bfloat16")).eval()
    inputs = [Rendered(None, ids) for ids in SEQUENCES]
    before = torch.tensor([score.value for score in model.score(inputs)])
    after = torch.tensor([score.value for score in model.freeze().score(inputs)])
    assert (after - before).abs().max() < 0.05 * max(1.0, float(before.abs().max()))
    assert any(isinstance(one, PackedNorm) for one in network.modules())
