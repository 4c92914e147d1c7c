"""Operations that a traced forward pass holds as one, whatever they do inside; see `traced`.

A trace runs a model on tensors without values. Our own kernels cannot take those, and what attention does depends on
the batch: so while a trace is made, a leaf only notes who is to be called, and what the result will look like. Knows
tensors, not what the leaves compute.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, library

Compute = TypeVar("Compute", bound=Callable[..., Tensor])


@dataclass(frozen=True, slots=True)
class Leaf:
    """One operation of a trace.

    Attributes:
        compute: called with the tensors; where `of_layout` says so, with the batch's layout behind them.
        empty: makes a tensor with the shape, dtype and strides of the result.
        of_layout: whether it wants the layout.
        owner: whose it is, for who rewrites traces: a method's module, or the rule of attention of read queries.
    """

    compute: Callable[..., Tensor]
    empty: Callable[[], Tensor]
    of_layout: bool = False
    owner: object = None


class Notes:
    """The leaves of one trace, in the order in which they were met."""

    def __init__(self) -> None:
        self.leaves: list[Leaf] = []

    def add(self, leaf: Leaf, *tensors: Tensor) -> Tensor:
        """Notes `leaf` of `tensors`; returns what stands for its result."""
        self.leaves.append(leaf)
        result: Tensor = LEAF(len(self.leaves) - 1, list(tensors))
        return result


class _Thread(threading.local):
    notes: Notes | None = None


_thread = _Thread()


def notes() -> Notes | None:
    """Those of the trace that this thread is making, if it is."""
    return _thread.notes


@contextmanager
def noting() -> Iterator[Notes]:
    """While a trace is made, in this thread."""
    _thread.notes = made = Notes()
    try:
        yield made
    finally:
        _thread.notes = None


def leaf(empty: Callable[..., Tensor]) -> Callable[[Compute], Compute]:
    """For a function or method of tensors, before and behind which may be what does not change.

    Args:
        empty: of the same arguments; see `Leaf`.
    """

    def decorate(compute: Compute) -> Compute:
        @wraps(compute)
        def compute_or_note(*args: Any) -> Tensor:
            if _thread.notes is None:
                return compute(*args)
            places = [i for i, one in enumerate(args) if isinstance(one, Tensor)]
            before, behind = args[: places[0]], args[places[-1] + 1 :]

            def call(*tensors: Tensor) -> Tensor:
                return compute(*before, *tensors, *behind)

            made = Leaf(call, lambda: empty(*args), owner=before[0] if before else None)
            return _thread.notes.add(made, *(args[i] for i in places))

        return compute_or_note  # type: ignore[return-value]

    return decorate


@library.custom_op("reward_model::leaf", mutates_args=())
def _leaf(index: int, tensors: list[Tensor]) -> Tensor:  # noqa: ARG001 - what it is called with makes the trace
    msg = f"leaf {index} was called, which only stands for what is called"
    raise AssertionError(msg)


@_leaf.register_fake
def _(index: int, tensors: list[Tensor]) -> Tensor:  # noqa: ARG001 - as the operation has it
    assert _thread.notes is not None
    return _thread.notes.leaves[index].empty()


#: What stands for a leaf in a trace: its number, and the tensors that it is given.
LEAF = torch.ops.reward_model.leaf.default
