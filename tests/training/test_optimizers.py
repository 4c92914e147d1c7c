"""Learning rates by depth: every parameter once, the head first, embeddings last."""

import pytest
import tiny
import torch

from reward_model.errors import CheckpointRefused
from training.optimizers import spread_rates


def rates(architecture: str, **factors: float) -> dict[str, float]:
    network = tiny.tiny_model(architecture, tiny.tiny_tokenizer(tiny.kind_of(architecture)))
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    spread_rates(optimizer, network, **factors)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}
    return {name: found[id(p)]["lr"] for name, p in network.named_parameters()}


@pytest.mark.parametrize("architecture", ["bert", "llama", "distilbert", "modernbert", "gpt2"])
def test_rates_fall_from_the_head_to_the_embeddings(architecture: str) -> None:
    by_name = rates(architecture, layer_decay=0.5, head_factor=3.0)
    layers = sorted({rate for rate in by_name.values() if rate != 3.0}, reverse=True)
    assert layers == [0.5 ** (i + 1) for i in range(len(layers))]
    assert {rate for name, rate in by_name.items() if "classif" in name or "score" in name or "pooler" in name} == {3.0}
    embedding = [rate for name, rate in by_name.items() if "embed" in name or ".wte" in name]
    assert set(embedding) == {layers[-1]}


def test_a_model_without_a_list_of_layers_is_refused() -> None:
    network = tiny.tiny_model("bert", tiny.tiny_tokenizer("encoder"))
    network.config.num_hidden_layers = 17
    with pytest.raises(CheckpointRefused, match="--layer_decay must be 1"):
        spread_rates(torch.optim.SGD(network.parameters(), lr=1.0), network, layer_decay=0.5)


def test_a_rate_of_the_head_alone_needs_no_list_of_layers() -> None:
    by_name = rates("albert", layer_decay=1.0, head_factor=3.0)
    assert {name.partition(".")[0] for name, rate in by_name.items() if rate == 3.0} == {"albert", "classifier"}
    assert {name for name, rate in by_name.items() if rate == 3.0 and name.startswith("albert")} == {
        "albert.pooler.weight",
        "albert.pooler.bias",
    }
    assert set(by_name.values()) == {1.0, 3.0}
