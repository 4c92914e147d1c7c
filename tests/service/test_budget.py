"""After memory ran out batches are smaller for a while, and what was computed twice is soon computed once again."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from batching import Service, request
from prometheus_client import CollectorRegistry

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service import budget as module
from service.budget import BatchBudget
from service.errors import CannotCompute
from service.metrics import Metrics
from service.stub import Fault


class Memory:
    """A device that has room for so many inputs in a batch, and counts its runs."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.runs: list[int] = []

    def __call__(self, batch: Sequence[Rendered], scores: list[Score]) -> list[Score]:
        self.runs.append(len(batch))
        if len(batch) > self.room:
            raise MemoryError
        return scores


async def score(service: Service, inputs: int, tokens: int = 10) -> None:
    wanted = request(*range(inputs), tokens=tokens)
    assert (await service.batcher.submit(wanted)).scores == service.right(wanted)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_after_memory_ran_out_batches_fit_and_nothing_is_computed_twice(asynchronous: bool) -> None:
    async def scenario() -> None:
        memory = Memory(3)
        async with Service(memory, batch=100, asynchronous=asynchronous) as service:
            assert service.value("batch_budget_tokens") == 100
            await score(service, 40)
            assert service.value("batch_budget_tokens") == 25
            assert service.value("failures_total", reason="oom") == 0
            memory.runs.clear()
            await score(service, 20)
            assert memory.runs == [2] * 10

    asyncio.run(scenario())


def test_an_input_that_is_too_big_alone_leaves_the_batches_of_all_others_as_they_are() -> None:
    async def scenario() -> None:
        async with Service(Memory(0), batch=100) as service:
            with pytest.raises(CannotCompute):
                await score(service, 4)
            assert service.value("batch_budget_tokens") == 100

    asyncio.run(scenario())


def test_a_batch_that_fails_for_another_reason_leaves_them_as_well() -> None:
    async def scenario(fault: Fault) -> None:
        async with Service(fault, batch=100) as service:
            await score(service, 4)
            assert service.value("batch_budget_tokens") == 100

    def crowded(batch: Sequence[Rendered], scores: list[Score]) -> list[Score]:
        if len(batch) > 1:
            msg = "not memory"
            raise RuntimeError(msg)
        return scores

    asyncio.run(scenario(crowded))


def test_the_budget_comes_back_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1000.0, 1000.0, 1000.0, 1000.0, 1029.0, 1030.0, 1030.0, 1059.0, 1060.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(times)))
    registry = CollectorRegistry()
    budget = BatchBudget(100, Metrics(registry))
    seen = []
    budget.ran_out(100)
    budget.ran_out(100)  # was launched before the first one failed
    budget.ran_out(50)
    for _ in range(5):
        budget.recover()
        seen.append(budget.tokens)
    assert seen == [25, 25, 50, 50, 100]
    assert registry.get_sample_value("reward_batch_budget_tokens") == 100


def test_the_budget_never_falls_below_a_sixteenth() -> None:
    for full, least in ((160, 10), (2, 1)):
        budget = BatchBudget(full, Metrics(CollectorRegistry()))
        for _ in range(10):
            budget.ran_out(budget.tokens)
        assert budget.tokens == least
