"""Adapters are trained in place of the backbone and leave an ordinary checkpoint behind."""

from pathlib import Path
from typing import Any

import pytest
import runs
import tiny
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from reward_model import checkpoint
from reward_model.errors import CheckpointRefused
from reward_model.model import RewardModel
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered
from training.lora import Lora, adapt, merge
from training.train import main

SEQUENCES = [Rendered(None, [5 + (7 * i * j) % 200 for j in range(4 + 3 * i)]) for i in range(6)]


def tiny_model(architecture: str, dtype: Any = "float32") -> RewardModel:
    network = tiny.tiny_model(architecture, tiny.tiny_tokenizer(tiny.kind_of(architecture)))
    return RewardModel(network, choose_precision("cpu", dtype))


def adapted_layers(network: PreTrainedModel) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, LoraLayer)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["bert", "llama", "gpt2"])
def test_merged_adapters_score_as_they_did_apart(architecture: str, dtype: str) -> None:
    model = tiny_model(architecture, dtype)
    before = [score.value for score in model.eval().score(SEQUENCES)]
    names = list(model.state_dict())
    adapted = adapt(model.model, Lora())
    assert [score.value for score in model.score(SEQUENCES)] == before
    for module in model.modules():
        if isinstance(module, LoraLayer):
            nn.init.normal_(module.lora_B["default"].weight, std=0.1)
    apart = [score.value for score in model.score(SEQUENCES)]
    merge(adapted, model.model)
    assert list(model.state_dict()) == names
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    rounding = 1e-5 if dtype == "float32" else 0.05
    assert [score.value for score in model.score(SEQUENCES)] == pytest.approx(apart, abs=rounding)
    assert apart != pytest.approx(before, abs=4 * rounding)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_everything_outside_of_the_backbone_is_trained_in_full(architecture: str) -> None:
    network = tiny_model(architecture).model
    adapt(network, Lora())
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    prefix = f"{network.base_model_prefix}."
    full = {name for name in trained if ".lora_" not in name}
    assert full == {n for n, _ in network.named_parameters() if not n.startswith(prefix) or ".pooler." in n}
    base = getattr(tiny_model(architecture).model, network.base_model_prefix)
    expected = {prefix + name for name, module in base.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    assert set(adapted_layers(network)) == {name for name in expected if ".pooler." not in name}


def test_only_the_layers_that_are_named_get_adapters() -> None:
    network = tiny_model("llama").model
    adapt(network, Lora(r=4, alpha=8, targets=("q_proj", "layers.1.self_attn.v_proj")))
    attention = [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]
    assert sorted(adapted_layers(network)) == sorted([*attention, "model.layers.1.self_attn.v_proj"])
    layer = network.get_submodule(attention[0])
    assert layer.lora_A["default"].weight.shape == (4, 32)
    assert layer.scaling["default"] == 2


def test_names_of_no_layer_are_refused() -> None:
    with pytest.raises(CheckpointRefused, match=r"no adapters for LlamaForSequenceClassification.*c_attn"):
        adapt(tiny_model("llama").model, Lora(targets=("c_attn",)))


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_adapters_and_head_alone_move_and_the_checkpoint_is_an_ordinary_one(tmp_path: Path, architecture: str) -> None:
    lora = {"use_peft": "true", "learning_rate": 1e-2, "lora_r": 4, "pairs": 60}
    assert main(runs.argv(tmp_path, "plain", architecture, **lora)) == 0
    checkpointing = {"activation_checkpointing": "true", "max_batch_tokens": 90}
    assert main(runs.argv(tmp_path, "checkpointed", architecture, **lora, **checkpointing)) == 0
    base, plain, other = (runs.weights(tmp_path / n) for n in (f"base-{architecture}", "plain", "checkpointed"))
    assert plain.keys() == base.keys()
    for name, tensor in plain.items():
        is_matrix = tensor.dim() == 2 and "embed" not in name
        in_head = "pooler" in name or name.startswith(("classifier", "score"))
        moved = not torch.equal(tensor[: len(base[name])], base[name])
        if name != "classifier.bias":  # no difference of rewards depends on it
            assert moved == (is_matrix or in_head), name
        assert torch.allclose(tensor, other[name], atol=2e-3), name
    loaded = checkpoint.load(tmp_path / "plain", dtype="float32")
    assert loaded.manifest is not None
    assert loaded.manifest.training["metrics"]["accuracy"] > 0.9
    assert loaded.manifest.training["flags"]["lora_r"] == 4
