"""On a GPU a norm is one operation of torch's, which a CPU has too, so that it is tested there."""

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from reward_model import norms
from reward_model.norms import PackedNorm, pack_norms, unpack_norms


@pytest.fixture(autouse=True)
def without_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "is_compiled_for", lambda *_: False)
    monkeypatch.setattr(norms, "_fused_by_torch", lambda _: True)


def trained(kind: type[nn.Module], size: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    module = kind(size)
    for parameter in module.parameters():
        # With so few digits that one can be added in bf16.
        parameter.data = (8 * torch.randn(size)).round() / 8
    return module.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [nn.LayerNorm, Qwen3RMSNorm, Gemma3RMSNorm])
def test_it_equals_the_plain_norm(kind: type[nn.Module], dtype: torch.dtype) -> None:
    module = trained(kind, 48, dtype)
    parent = nn.Sequential(module)
    assert pack_norms(parent)
    assert isinstance(parent[0], PackedNorm)
    rows = (torch.randn(2, 40, 3, 48) * torch.logspace(-3, 3, 40)[:, None, None] + 0.5).to(dtype)
    measured = parent(rows)
    assert measured.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(measured, module(rows), rtol=tolerance, atol=tolerance)
    unpack_norms(parent)
    assert parent[0] is module


def test_a_weight_that_would_lose_digits_is_left_to_the_module() -> None:
    module = Gemma3RMSNorm(48)
    module.weight.data = torch.full((48,), 0.001)
    module = module.bfloat16()
    assert not pack_norms(nn.Sequential(module))
