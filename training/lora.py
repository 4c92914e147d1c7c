"""Low-rank adapters (LoRA, arXiv 2106.09685) on a backbone, through peft: trained in place of it, merged in at the end.

Whatever is not in the backbone, the score head above all, is trained in full. Knows networks and peft, not training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from reward_model.errors import CheckpointRefused

#: The target that means every linear layer of the backbone.
ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class Lora:
    """The form of adapters.

    Attributes:
        r: rank of the update of a weight.
        alpha: the update counts alpha / r times.
        dropout: of what goes into an adapter, in training.
        targets: names of the linear layers that get one, whole or from a dot on, or `ALL_LINEAR` alone.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: Sequence[str] = (ALL_LINEAR,)


def adapt(network: PreTrainedModel, lora: Lora) -> LoraModel:
    """Puts adapters into the backbone of `network`, whose own weights are frozen; scores stay what they were.

    Returns:
        What `merge` takes.

    Raises:
        CheckpointRefused: the backbone has no such layers.
    """
    base: nn.Module = getattr(network, network.base_model_prefix)
    trained_in_full = [name for name, _ in base.named_modules() if name.split(".")[0] == "pooler"]
    linears = {name: module for name, module in base.named_modules() if _is_linear(module)}
    every = list(lora.targets) == [ALL_LINEAR]
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(linears) if every else list(lora.targets),
        exclude_modules=trained_in_full or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in linears.values()),
    )
    try:
        adapted = LoraModel(base, config, "default")
    except ValueError as error:
        msg = f"no adapters for {type(network).__name__}: {str(error).splitlines()[0]}"
        raise CheckpointRefused(msg) from error
    for module in base.modules():
        if isinstance(module, LoraLayer):
            for adapter in (module.lora_A, module.lora_B):
                _in_float32(adapter)  # peft made it in what the frozen weights are in
    for name in trained_in_full:
        base.get_submodule(name).requires_grad_(requires_grad=True)
    return adapted


def _in_float32(module: nn.Module) -> None:
    # Not module.float(), which goes by way of each module's own means to move itself.
    for parameter in module.parameters():
        parameter.data = parameter.data.float()


def _is_linear(module: nn.Module) -> bool:
    # Routers of mixtures are linear layers whose output is not only their product.
    return isinstance(module, nn.Linear | Conv1D) and "Router" not in type(module).__name__


def merge(adapted: LoraModel, network: PreTrainedModel) -> None:
    """Adds what the adapters have learned to the weights of `network`, in fp32, and takes them out again."""
    _in_float32(network)
    adapted.merge_and_unload()
