"""A model in evaluation mode for a while. Knows modules, not models."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; after it, each module in the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    nn.Module.eval(model)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
