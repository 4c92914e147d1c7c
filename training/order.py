"""Which examples make a step, and which process learns from them: each example once an epoch, in a random order.

Knows places of examples, not what they are.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler


class Shuffled(Sampler[list[int]]):
    """The batches of one of several processes, as places of examples.

    A step of all processes is cut from one order of all examples, as if one process had taken it with a larger batch.
    Of the last step, which may be short, each process takes an equal part; that can be no example at all.

    Args:
        size: how many examples there are.
        batch_size: how many a process takes at once.
        seed: of the order; each epoch has its own.
        process, processes: which of how many.
        drop_last: leave a short last step out.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int, process: int = 0, processes: int = 1, drop_last: bool = False
    ) -> None:
        self._size = size
        self._together = batch_size * processes
        self._seed = seed
        self._process, self._processes = process, processes
        self._drop_last = drop_last
        self._epoch = 0

    def __len__(self) -> int:
        """How many batches an epoch has; the same for all processes."""
        return self._size // self._together if self._drop_last else -(-self._size // self._together)

    def __iter__(self) -> Iterator[list[int]]:
        """Places of the examples of each batch."""
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order: list[int] = torch.randperm(self._size, generator=generator).tolist()
        for step in range(len(self)):
            of_all = order[step * self._together : (step + 1) * self._together]
            first, last = (len(of_all) * i // self._processes for i in (self._process, self._process + 1))
            yield of_all[first:last]

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next, counted from 0."""
        self._epoch = epoch


class Epochs(DataLoader[Any]):
    """A data loader over `Shuffled` batches that can be told the epoch, as transformers' Trainer does."""

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next, counted from 0."""
        assert isinstance(self.batch_sampler, Shuffled)
        self.batch_sampler.set_epoch(epoch)
