"""A batcher that moves one step at a time: its model waits to be let go, its clock stands still until it is set."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from batching import FATAL, NAN, POISON
from prometheus_client import CollectorRegistry

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.batcher import Batcher
from service.metrics import Metrics
from service.pipeline import Batch
from service.scorer import DeviceLost
from service.stub import StubScorer

#: Ids of inputs that need so much memory that they can be computed only alone, or not at all.
HUNGRY, HUGE = 1_000_004, 1_000_005


class Gate:
    """Lets the scorer thread through once for each `release`, or whenever it comes while `open`."""

    def __init__(self) -> None:
        self.open = False
        self.holding = False
        self._permits = 0
        self._changed = threading.Condition()

    def enter(self) -> None:
        """In the scorer thread: waits to be let through."""
        with self._changed:
            self.holding = not (self.open or self._permits)
            assert self._changed.wait_for(lambda: self.open or self._permits, 20)
            self._permits -= not self.open

    def release(self) -> None:
        with self._changed:
            self.holding = False
            self._permits += 1
            self._changed.notify_all()

    def set_open(self, *, wide: bool) -> None:
        with self._changed:
            self.open = wide
            self._permits = 0
            self.holding = self.holding and not wide
            self._changed.notify_all()


class Launched:
    """A batch on a device: its result is there once the gate lets it through."""

    def __init__(self, gate: Gate, compute: Callable[[], list[Score]]) -> None:
        self._gate = gate
        self._compute = compute

    def wait_for_room(self) -> None:
        """There is some at once."""

    def done(self) -> bool:
        return self._gate.open

    def result(self) -> list[Score]:
        self._gate.enter()
        return self._compute()


class SteppedScorer(StubScorer):
    """Scores a batch when the gate lets it; knows how inputs fail, and remembers what was launched.

    Args:
        ahead: as on a GPU, a launch returns at once, or is out of memory at once; only its result waits, or fails.
    """

    def __init__(self, *, ahead: bool) -> None:
        super().__init__(fault=_fail)
        self.gate = Gate()
        self.launches: list[list[Rendered]] = []
        self._ahead = ahead

    def launch(self, batch: Sequence[Rendered]) -> Any:
        self.launches.append(list(batch))
        if self._ahead:
            _allocate(batch)
            return Launched(self.gate, lambda: self.run(batch))
        self.gate.enter()
        return super().launch(batch)

    def run(self, batch: Sequence[Rendered]) -> list[Score]:
        """Also once more, after a failure: no step of its own."""
        return super().launch(batch).result()


def _ids(batch: Sequence[Rendered]) -> set[int]:
    return {token_id for one in batch for token_id in one.token_ids}


def _allocate(batch: Sequence[Rendered]) -> None:
    if HUGE in _ids(batch) or (HUNGRY in _ids(batch) and len(batch) > 1):
        raise MemoryError


def _fail(batch: Sequence[Rendered], scores: list[Score]) -> list[Score]:
    if FATAL in _ids(batch):
        raise DeviceLost
    _allocate(batch)
    if POISON in _ids(batch):
        msg = "this batch cannot be computed"
        raise RuntimeError(msg)
    return [Score(float("nan")) if NAN in one.token_ids else s for one, s in zip(batch, scores, strict=True)]


class WatchedBatcher(Batcher):
    """Remembers which batches it delivered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.delivered: list[Batch] = []

    def _deliver(self, batch: Batch) -> None:
        self.delivered.append(batch)
        super()._deliver(batch)


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time is set by hand, and which runs only as far as it is told to."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def turns(self, count: int = 8) -> None:
        """Runs whatever is due, and what follows from it."""
        self.run_until_complete(_turns(count))


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Stepping:
    """A started batcher, moved by hand."""

    def __init__(self, *, budget: int, limit: int, ahead: bool) -> None:
        self.loop = Clock()
        self.registry = CollectorRegistry()
        self.scorer = SteppedScorer(ahead=ahead)
        metrics = Metrics(self.registry)
        self.batcher = WatchedBatcher(self.scorer, metrics, max_batch_tokens=budget, max_queue_tokens=limit)
        self.loop.call_soon(self.batcher.start)
        self.loop.turns()

    @property
    def idle(self) -> bool:
        """The scorer thread waits for work, or has ended."""
        return bool(self.batcher._backlog._changed._waiters) or not self.batcher._thread.is_alive()

    def rest(self, *, racing: bool = False) -> None:
        """Waits until the scorer thread goes no further by itself.

        Args:
            racing: the event loop runs meanwhile.
        """
        until = time.monotonic() + 20
        while not (self.idle or self.scorer.gate.holding):
            assert time.monotonic() < until, "the scorer thread hangs"
            if racing:
                self.loop.turns(1)
            else:
                time.sleep(0.0001)

    def settle(self, *, racing: bool = False) -> None:
        """`rest`, and lets the event loop hear of what has happened, until nothing more comes of it."""
        launches = -1
        while launches != len(self.scorer.launches):
            launches = len(self.scorer.launches)
            self.rest(racing=racing)
            self.loop.turns()
            self.rest()

    def counted(self) -> dict[str, float]:
        """What the metrics say; for failures, by reason."""
        names = [f"reward_{name}" for name in ("queue_sequences", "queue_tokens", "inputs", "cancelled", "failures")]
        families = self.registry.restricted_registry([*names, *(f"{name}_total" for name in names)]).collect()
        samples = [sample for family in families for sample in family.samples]
        return {sample.labels.get("reason", sample.name.removeprefix("reward_")): sample.value for sample in samples}

    def close(self) -> None:
        self.scorer.gate.set_open(wide=True)
        self.loop.run_until_complete(self.batcher.stop(drain_seconds=0))
        assert not self.batcher._thread.is_alive()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
