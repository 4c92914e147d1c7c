"""A decoder whose gates and rotary embeddings are one pass scores as before; what only looks like one is left alone."""

import pytest
import tiny
import torch
from torch import Tensor, nn
from transformers.models.llama import modeling_llama

from reward_model import rotary
from reward_model.compiled import is_compiled_for
from reward_model.gates import pack_gates, unpack_gates
from reward_model.model import RewardModel
from reward_model.pointwise import Activation
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered
from reward_model.rotary import pack_rotary, unpack_rotary

pytestmark = pytest.mark.skipif(
    not is_compiled_for(torch.device("cpu"), torch.bfloat16),
    reason="the CPU lacks AVX-512 BF16, or there was no C compiler",
)

SEQUENCES = [[5 + (7 * i + j * j) % 50 for j in range(n)] for i, n in enumerate((3, 17, 40, 99, 1))]
#: Those with gates, and those with rotary embeddings of whole heads.
GATED = ("llama", "qwen3", "gemma2", "mistral")
ROTARY = (*GATED, "modernbert")
MORE: dict[str, dict[str, object]] = {
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16},
    "mistral": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16},
}


def network_of(kind: str) -> nn.Module:
    return tiny.tiny_model(kind, tiny.tiny_tokenizer(tiny.kind_of(kind)), **MORE.get(kind, {})).bfloat16().eval()


@pytest.mark.parametrize("kind", GATED)
def test_gates_are_found_and_given_back(kind: str) -> None:
    network = network_of(kind)
    perceptrons = [one for one in network.modules() if hasattr(one, "gate_proj")]
    torch.manual_seed(0)
    x = torch.randn(1, 9, perceptrons[0].gate_proj.in_features).bfloat16()
    expected = [one(x) for one in perceptrons]
    assert pack_gates(network)
    activation = Activation.GELU_TANH if kind == "gemma2" else Activation.SILU
    assert {vars(one)["forward"].args[1] for one in perceptrons} == {activation}
    with torch.no_grad():
        measured = [one(x) for one in perceptrons]
    for one, other in zip(measured, expected, strict=True):
        assert (one - other).abs().max() <= 0.02 * other.abs().max()
    unpack_gates(network)
    assert not any("forward" in vars(one) for one in network.modules())


@pytest.mark.parametrize("kind", ROTARY)
def test_rotary_embeddings_are_found_and_given_back(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, calls = network_of(kind), []
    assert pack_rotary(network)
    rotate = rotary.rotated
    monkeypatch.setattr(rotary, "rotated", lambda *them: calls.append(them) or rotate(*them))
    with torch.no_grad():
        network.base_model(input_ids=torch.arange(5, 15)[None])
    assert len(calls) == 2 * network.config.num_hidden_layers
    unpack_rotary(network)
    assert not any("forward" in vars(one) for one in network.modules())


@pytest.mark.parametrize("kind", ROTARY)
def test_a_frozen_model_scores_as_before(kind: str) -> None:
    model = RewardModel(network_of(kind), choose_precision("cpu", "bfloat16")).eval()
    inputs = [Rendered(None, ids) for ids in SEQUENCES]
    before = torch.tensor([score.value for score in model.score(inputs)])
    after = torch.tensor([score.value for score in model.freeze().score(inputs)])
    assert (after - before).abs().max() < 0.05 * max(1.0, float(before.abs().max()))
    own = [one for one in model.model.modules() if "forward" in vars(one)]
    assert len(own) == (2 if kind in GATED else 1) * model.config.num_hidden_layers


class Perceptron(nn.Module):
    def __init__(self, act_fn: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(8, 24), nn.Linear(8, 24), nn.Linear(24, 8)
        self.act_fn = act_fn

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Clamped(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=7)) * self.up_proj(x))


class Two(Perceptron):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


class Flat(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]


class TurnedRound(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))


class Routed(Perceptron):
    def forward(self, x: Tensor, experts: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x[experts])


@pytest.mark.parametrize(
    "module",
    [
        Perceptron(nn.ReLU()),
        Perceptron(nn.Tanh()),
        *(kind(nn.SiLU()) for kind in (Clamped, Two, Flat, TurnedRound, Routed)),
    ],
)
def test_what_only_looks_like_a_gate_is_left_alone(module: nn.Module) -> None:
    assert pack_gates(nn.Sequential(Perceptron(nn.SiLU()).bfloat16()))
    assert not pack_gates(nn.Sequential(module.bfloat16()))
    assert not pack_gates(nn.Sequential(Perceptron(nn.SiLU())))


def interleaved(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    def turn(x: Tensor) -> Tensor:
        return x * cos[:, None] + torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2) * sin[:, None]

    return turn(q), turn(k)


def other(q: Tensor) -> Tensor:
    return q


@pytest.mark.parametrize("function", [interleaved, other, None])
def test_other_rotations_are_left_alone(function: object, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of("llama")
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", function)
    assert not pack_rotary(network)


def test_what_the_kernel_does_not_take_goes_to_the_plain_function() -> None:
    def plain(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        calls.append(unsqueeze_dim)
        return q, k

    calls: list[int] = []
    rotate = rotary._Rotation(plain)
    q, angles = torch.zeros(1, 2, 5, 8).bfloat16(), torch.zeros(1, 5, 8).bfloat16()
    rotate(q, q, angles, angles)
    rotate(q, q, angles, angles, unsqueeze_dim=1)
    assert calls == []
    rotate(q, q, angles, angles, unsqueeze_dim=2)
    rotate(q, q, angles, angles, 1)
    rotate(q.float(), q, angles, angles)
    assert calls == [2, 1, 1]


def test_both_know_their_own_work_only() -> None:
    network = network_of("llama")
    assert pack_gates(network)
    unpack_rotary(network)
    assert any("forward" in vars(one) for one in network.modules())
    assert not pack_gates(network)
    unpack_gates(network)
    assert pack_rotary(network)
    unpack_gates(network)
    assert any("forward" in vars(one) for one in network.modules())
