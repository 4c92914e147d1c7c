"""A batcher over the stub scorer, with a model that can be held up, poisoned and looked into."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Self

from prometheus_client import CollectorRegistry

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.batcher import Batcher, Scored
from service.metrics import Metrics
from service.scorer import DeviceLost
from service.stub import Fault, StubScorer

#: Ids of inputs that the model below cannot score.
POISON, NAN, FATAL = 1_000_001, 1_000_002, 1_000_003


class Model:
    """A fault for the stub that keeps the model busy until it is let go, and remembers what reached it."""

    def __init__(self, *, open_at_once: bool = True) -> None:
        self.gate = threading.Event()
        self.busy = threading.Event()
        self.batches: list[list[list[int]]] = []
        if open_at_once:
            self.gate.set()

    def __call__(self, batch: Sequence[Rendered], scores: list[Score]) -> list[Score]:
        ids = [one.token_ids for one in batch]
        self.batches.append(ids)
        gate = self.gate
        self.busy.set()
        assert gate.wait(20)
        if any(POISON in one for one in ids):
            msg = "this batch cannot be computed"
            raise RuntimeError(msg)
        if any(FATAL in one for one in ids):
            raise DeviceLost
        return [
            Score(float("nan")) if NAN in one.token_ids else score for one, score in zip(batch, scores, strict=True)
        ]

    def hold_next(self) -> None:
        """Lets the batch that is being computed go, and holds the one after it."""
        passed, self.gate = self.gate, threading.Event()
        self.busy.clear()
        passed.set()

    @property
    def seen(self) -> list[list[int]]:
        return [ids for batch in self.batches for ids in batch]


class Service:
    """A started batcher over the stub, with its metrics."""

    def __init__(
        self,
        fault: Fault | None = None,
        *,
        batch: int = 100,
        queue: int = 10_000,
        scorer: type[StubScorer] = StubScorer,
        **stub: Any,
    ) -> None:
        self.registry = CollectorRegistry()
        self.scorer = scorer(fault=fault, **stub)
        self.batcher = Batcher(self.scorer, Metrics(self.registry), max_batch_tokens=batch, max_queue_tokens=queue)

    async def __aenter__(self) -> Self:
        self.batcher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.batcher.stop(drain_seconds=0)

    @property
    def thread(self) -> threading.Thread:
        return self.batcher._thread

    def right(self, inputs: Sequence[Rendered]) -> list[Score]:
        return [self.scorer.score(one) for one in inputs]

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"reward_{name}", labels)

    async def behind(self, model: Model, *waiting: Coroutine[Any, Any, Scored]) -> list[asyncio.Task[Scored]]:
        """Occupies the model with one input, then lets `waiting` requests queue up in their order behind it."""
        tasks = [asyncio.create_task(self.batcher.submit(request(999)))]
        await reach(model.busy.is_set)
        for one in waiting:
            tasks.append(asyncio.create_task(one))
            await asyncio.sleep(0)
        return tasks


def request(*seeds: int, tokens: int = 1) -> list[Rendered]:
    """One input for each seed, told apart by its first token."""
    return [Rendered(None, [seed] * tokens) for seed in seeds]


async def reach(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.001)


async def outcome(awaitable: Awaitable[Scored]) -> Scored | BaseException:
    """The answer, or what it failed with, cancellation included."""
    return (await asyncio.gather(awaitable, return_exceptions=True))[0]
