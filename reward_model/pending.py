"""Scores that have been launched: the device may still be computing them.

Knows how to wait for a device, not what it computes.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

import torch
from torch import Tensor

from reward_model.lanes import Lanes, collect
from reward_model.scores import Score

Part = TypeVar("Part")


class PendingScores:
    """Scores on their way from the device.

    Args:
        values: what they are made of, on the device; it is sent to the host at once, without waiting for it.
        read: makes the scores of `values` on the host.
    """

    def __init__(self, values: Tensor, read: Callable[[Tensor], list[Score]]) -> None:
        self._read = read
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            # Blocking: the thread that waits sleeps, rather than spin on a core that tokenisation could use.
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            # Into pinned memory, which torch allocates for a copy that nobody waits for.
            self._values = values.to("cpu", non_blocking=True)
            self._arrived.record(torch.cuda.current_stream(values.device))
        else:
            self._values = values.cpu()

    def wait_for_room(self) -> None:
        """Returns at once: a device that works by itself keeps what it is given until it gets to it."""

    def done(self) -> bool:
        """Whether `result` returns at once."""
        return self._arrived is None or bool(self._arrived.query())  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def result(self) -> list[Score]:
        """The scores, in the order of the inputs; waits for them.

        Raises:
            RuntimeError: the device failed, at whichever of its calls before.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._read(self._values)


class ScoresInLanes(Generic[Part]):
    """Scores whose parts a CPU's lanes compute.

    Args:
        lanes: which do.
        parts: as `lanes.start` returns them.
        read: makes the scores of what came out of them.
    """

    def __init__(self, lanes: Lanes, parts: list[Future[Part]], read: Callable[[list[Part]], list[Score]]) -> None:
        self._lanes = lanes
        self._parts = parts
        self._read = read
        self._scores: list[Score] | None = None

    def wait_for_room(self) -> None:
        """Waits until a lane has nothing to do."""
        self._lanes.wait_for_room()

    def done(self) -> bool:
        """Whether `result` returns or raises at once."""
        return all(part.done() for part in self._parts)

    @torch.inference_mode()
    def result(self) -> list[Score]:
        """The scores, in the order of the inputs; waits for them. For one thread.

        Raises:
            Exception: a part could not be computed; it is told once, and not kept.
        """
        if self._scores is None:
            self._scores = self._read(collect(self._parts))
        return self._scores
