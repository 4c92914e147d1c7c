"""Means of weights, from safetensors to safetensors: one tensor of each checkpoint in memory at a time, and the result.

Knows files and tensors, neither models nor what the weights are good for.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from reward_model.errors import CheckpointRefused


def average_weights(directories: Sequence[Path], weights: Sequence[float], target: Path) -> None:
    """Writes the weighted mean of the weights in `directories` to the file `target`, in fp32.

    Sums are in fp64 and in the order given; with weights of 1 the result is the plain mean, rounded once. What is not a
    floating-point number (a table of positions, say) must be the same everywhere and is copied.

    Args:
        directories: one or more, each with one or more *.safetensors files.
        weights: one for each, positive; only their proportions count.
        target: a file; replaced where it exists.

    Raises:
        CheckpointRefused: names, shapes or what cannot be averaged differ.
    """
    with ExitStack() as stack:
        members = [_open(directory, stack) for directory in directories]
        for member in members[1:]:
            if odd := sorted(member.keys() ^ members[0].keys()):
                msg = f"weights that only some of the checkpoints have: {', '.join(odd[:4])}"
                raise CheckpointRefused(msg)
        means = {
            name: _mean(name, [member[name].get_tensor(name) for member in members], weights)
            for name in sorted(members[0])
        }
        save_file(means, target, metadata={"format": "pt"})


def _open(directory: Path, stack: ExitStack) -> dict[str, Any]:
    """For each tensor's name the open file that has it."""
    files: dict[str, Any] = {}
    for path in sorted(directory.glob("*.safetensors")):
        file = stack.enter_context(safe_open(path, framework="pt"))
        files |= dict.fromkeys(file.keys(), file)
    return files


def _mean(name: str, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    first = tensors[0]
    if any(tensor.shape != first.shape for tensor in tensors):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        msg = f"the weights {name} have different shapes: {shapes}"
        raise CheckpointRefused(msg)
    if not first.is_floating_point():
        if not all(tensor.equal(first) for tensor in tensors):
            msg = f"{name} holds whole numbers that differ: they have no mean"
            raise CheckpointRefused(msg)
        return first
    total = torch.zeros(first.shape, dtype=torch.float64)
    for tensor, weight in zip(tensors, weights, strict=True):
        total += tensor.double() * weight
    return (total / sum(weights)).float()
