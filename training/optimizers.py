"""Learning rates by depth: the layers near the words move less than those near the score.

Knows parameters and their names, not what they are trained for.
"""

from itertools import groupby

import torch
from torch import nn
from transformers import PreTrainedModel

from reward_model.errors import CheckpointRefused


def spread_rates(
    optimizer: torch.optim.Optimizer, model: PreTrainedModel, *, layer_decay: float, head_factor: float = 1.0
) -> None:
    """Multiplies the learning rate of each parameter by how deep it lies.

    The head (whatever is not in the backbone, and the pooler) gets `head_factor`, the last layer `layer_decay`, each
    layer below that times `layer_decay` again, embeddings last (Howard & Ruder 2018, arXiv 1801.06146, section 3.2).

    Args:
        optimizer: new, with groups of `model`'s parameters.
        model: a sequence classifier.
        layer_decay: within (0, 1].
        head_factor: above 0.

    Raises:
        CheckpointRefused: `layer_decay` is not 1, and it is not known which layers come first.
    """
    rates = _rates(model, layer_decay, head_factor)
    groups = optimizer.param_groups[:]
    optimizer.param_groups.clear()
    for group in groups:
        members = sorted(group["params"], key=lambda parameter: rates[id(parameter)])
        for rate, parameters in groupby(members, key=lambda parameter: rates[id(parameter)]):
            optimizer.add_param_group({**group, "params": list(parameters), "lr": rate * group["lr"]})


def _rates(model: PreTrainedModel, layer_decay: float, head_factor: float) -> dict[int, float]:
    """Factors by parameter."""
    base = getattr(model, model.base_model_prefix)
    # Where all layers learn alike, it does not matter which comes first.
    layers = [] if layer_decay == 1 else list(ordered_layers(model))
    depth = {id(parameter): 0 for parameter in base.parameters()}
    depth |= {id(p): i + 1 for i, layer in enumerate(layers) for p in layer.parameters()}
    pooler = getattr(base, "pooler", None)
    in_head = {id(p) for p in pooler.parameters()} if isinstance(pooler, nn.Module) else set()
    rates = {key: layer_decay ** (len(layers) + 1 - height) for key, height in depth.items() if key not in in_head}
    return {id(p): rates.get(id(p), head_factor) for p in model.parameters()}


def ordered_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of layers, from the one near the words to the one near the score.

    Raises:
        CheckpointRefused: it is not known which layers come first.
    """
    layers = layers_of(model)
    if layers is None:
        msg = f"{type(model).__name__} does not keep its layers in one list: --layer_decay must be 1 for it"
        raise CheckpointRefused(msg)
    return layers


def layers_of(model: PreTrainedModel) -> nn.ModuleList | None:
    """The stack of layers; None if the model keeps them in a way that is not known here."""
    base: nn.Module = getattr(model, model.base_model_prefix)
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    found = [one for one in base.modules() if isinstance(one, nn.ModuleList) and len(one) == count]
    return found[0] if len(found) == 1 else None
