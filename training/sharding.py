"""Parameters divided among devices (FSDP2): what accelerate has to be told of a model, and how it becomes whole again.

Knows accelerate's plugin and torch's `fully_shard`, nothing of steps or data.
"""

import os
from typing import Any

import torch
from accelerate import Accelerator, PartialState  # type: ignore[import-untyped]
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import _CHECKPOINT_PREFIX
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from reward_model.model import RewardModel
from training.optimizers import layers_of


class CannotDivide(ValueError):
    """Parameters cannot be divided in the way that was asked for; the message says what to change."""


def divide(accelerator: Accelerator, model: RewardModel, options: dict[str, Any] | None) -> bool:
    """Prepares the division of a model's parameters among all processes, where that was asked for.

    Args:
        accelerator: new.
        model: not yet prepared by it.
        options: of accelerate's plugin, where flags and not `accelerate launch` asked for it.

    Returns:
        Whether it was.

    Raises:
        CannotDivide: not in the way that was asked for.
    """
    if options is None and os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return False
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        _allow_cpus(accelerator, FullyShardedDataParallelPlugin(**options or {}))
    if accelerator.distributed_type != DistributedType.FSDP:
        msg = "FSDP divides a model among processes: start several with torchrun or accelerate launch"
        raise CannotDivide(msg)
    plugin = accelerator.state.fsdp_plugin
    _check(plugin, accelerator.mixed_precision)
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = _layer_classes(model)
    if accelerator.mixed_precision == "bf16":
        # Gradients are summed up in fp32, and the head and all after it are computed in fp32, as without division.
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for module in model.head_modules():
            fully_shard(module, mp_policy=MixedPrecisionPolicy())
    return True


def gather(accelerator: Accelerator, model: nn.Module) -> None:
    """Makes a divided model whole in the first process, which can save it then; no process can run it any more.

    All processes have to call it.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    whole: dict[str, Tensor] = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        for path, _ in list(model.named_parameters(remove_duplicate=False)):
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, nn.Parameter(whole[path.replace(_CHECKPOINT_PREFIX, "")]))


def _allow_cpus(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Has accelerate do on CPUs what it does on GPUs.

    torch's `fully_shard` runs on both. accelerate 1.15 heeds its plugin on accelerators only, in the constructor of
    `AcceleratorState`, and gives every CPU process a copy of all parameters instead, without a word.
    """
    accelerator.state.fsdp_plugin = plugin
    # The accelerator's state is made up from this one again and again.
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


def _check(plugin: FullyShardedDataParallelPlugin, mixed_precision: str) -> None:
    if plugin.fsdp_version != 2:
        msg = 'FSDP1 is not supported: set "version" (fsdp_version for accelerate) to 2'
    elif plugin.cpu_ram_efficient_loading:
        msg = "cpu_ram_efficient_loading must be false: each process reads the base model and tries it out"
    elif mixed_precision not in {"no", "bf16"}:
        msg = f"FSDP goes with fp32 and --bf16 here, not with {mixed_precision}"
    else:
        return
    raise CannotDivide(msg)


def _layer_classes(model: RewardModel) -> list[str]:
    layers = layers_of(model.model)
    if layers is None:
        msg = (
            f"{type(model.model).__name__} does not keep its layers in one list: name their class as"
            " transformer_layer_cls_to_wrap in --fsdp_config"
        )
        raise CannotDivide(msg)
    return sorted({type(layer).__name__ for layer in layers})
