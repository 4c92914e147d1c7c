"""The last layer, computed only where it is read, says the same as when it is computed everywhere."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import reward_model.model
from reward_model.model import RewardModel
from reward_model.packing import pack
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered
from reward_model.sizes import round_up
from reward_model.spans import Layout

READS = "the last layer is computed only where it is read"
PROMPT = [5 + i % 9 for i in range(20)]
SEQUENCES = [[*PROMPT, 30, 31], [7, 7, 8], [*PROMPT, 6], [12], PROMPT]


@pytest.fixture(autouse=True)
def however_few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_model.model, "FEW_TOKENS", 0)


def model_of(architecture: str) -> RewardModel:
    network = tiny.tiny_model(architecture, tiny.tiny_tokenizer(tiny.kind_of(architecture)))
    return RewardModel(network, choose_precision("cpu", "float32"))


def counted(layer: nn.Module) -> list[int]:
    """How many tokens go through the first matrix behind the layer's attention, filled as it happens."""
    seen: list[int] = []
    behind = [one for name, one in layer.named_modules() if isinstance(one, (nn.Linear, Conv1D)) and "att" not in name]
    behind[0].register_forward_hook(lambda _module, args, _output: seen.append(args[0].shape[1]))
    return seen


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "gpt2", "llama", "qwen3"])
def test_the_last_layer_computes_one_token_of_each_sequence(architecture: str) -> None:
    model = model_of(architecture).eval()
    assert READS in model.backbone.reason
    layers = next(one for one in model.model.modules() if isinstance(one, nn.ModuleList) and len(one) == 2)
    first, last = counted(layers[0]), counted(layers[1])
    model.score([Rendered(None, ids) for ids in SEQUENCES])
    tokens = 20 + 2 + 3 + 1 + 1 if architecture in tiny.DECODERS else sum(map(len, SEQUENCES))
    assert (first, last) == ([round_up(tokens)], [len(SEQUENCES)])


def gradients(model: RewardModel) -> dict[str, Tensor]:
    model.zero_grad()
    share = model.backbone.shares_prefixes
    model(pack(SEQUENCES, share_prefixes=share)).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_recomputing_activations_gives_the_same_gradients(architecture: str, use_reentrant: bool) -> None:
    model = model_of(architecture).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    expected = gradients(model)
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def read_only(kwargs: dict[str, Any]) -> bool:
    layout = kwargs.get("layout")
    return isinstance(layout, Layout) and layout.states is not None


def wrong(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A layer that is another one for a few tokens than for all."""
    return lambda hidden, *args, **kwargs: forward(hidden, *args, **kwargs) + read_only(kwargs)


def refusing(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A layer that cannot be run for a few tokens."""

    def forward_or_raise(hidden: Tensor, *args: object, **kwargs: object) -> Tensor:
        if read_only(kwargs):
            msg = "fewer tokens than a layer of this shape takes"
            raise RuntimeError(msg)
        return forward(hidden, *args, **kwargs)

    return forward_or_raise


@pytest.mark.parametrize("change", [wrong, refusing])
def test_a_layer_that_cannot_be_run_so_is_run_as_a_whole(change: Callable[..., Callable[..., Tensor]]) -> None:
    network = tiny.tiny_model("llama", tiny.tiny_tokenizer("decoder"))
    last = network.model.layers[-1]
    last.forward = change(last.forward)
    model = RewardModel(network, choose_precision("cpu", "float32")).eval()
    assert model.backbone.path == "packed"
    assert READS not in model.backbone.reason
    assert not last._forward_hooks
    assert not last._forward_pre_hooks
    assert model.score([Rendered(None, [5, 6, 7] * 4)])


def test_a_second_model_around_the_same_network_reads_only_too() -> None:
    network = tiny.tiny_model("llama", tiny.tiny_tokenizer("decoder"))
    first, second = (RewardModel(network, choose_precision("cpu", "float32")).eval() for _ in range(2))
    assert READS in second.backbone.reason
    inputs = [Rendered(None, ids) for ids in SEQUENCES]
    assert second.score(inputs) == first.score(inputs)
    assert len(network.model.layers[-1]._forward_pre_hooks) == 1
