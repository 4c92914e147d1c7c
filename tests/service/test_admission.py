"""What is let in is done in time; the rest is told at once, or waits in line, in its order and not for ever."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from batching import Model, Service, outcome, reach, request

from service import admission
from service.batcher import Scored
from service.errors import DeadlineExceeded, Draining, Overloaded


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def measured(model: Model, service: Service) -> None:
    """Lets the model show its speed, and holds it up from the next batch on."""
    await service.batcher.submit(request(0, tokens=100))
    model.hold_next()


def orders(model: Model) -> list[int]:
    return [ids[0] for ids in model.seen]


def test_what_could_not_be_done_by_its_deadline_is_refused_and_told_when_it_could() -> None:
    async def scenario() -> None:
        model = Model()
        async with Service(model, batch=100, tokens_per_second=1000) as service:
            await measured(model, service)
            tasks = await service.behind(model, *(service.batcher.submit(request(i, tokens=100)) for i in range(30)))
            with pytest.raises(Overloaded) as refused:
                await service.batcher.submit(request(50, tokens=100), deadline=soon(2))
            # 3,201 tokens and the rest of a batch at a thousand a second, of which 2 s are for 1,600.
            assert refused.value.retry_after == 2
            tasks.append(asyncio.create_task(service.batcher.submit(request(51, tokens=100), deadline=soon(20))))
            await asyncio.sleep(0)
            assert service.value("queue_sequences") == 31
            for task in tasks:
                task.cancel()
            model.gate.set()

    asyncio.run(scenario())


def test_a_short_request_is_not_refused_for_a_long_one_that_it_need_not_wait_for() -> None:
    async def scenario() -> None:
        model = Model()
        async with Service(model, batch=100, tokens_per_second=10_000) as service:
            await measured(model, service)
            await service.behind(model, service.batcher.submit(request(*range(200), tokens=40)))
            short = asyncio.create_task(service.batcher.submit(request(1000, tokens=10), deadline=soon(0.5)))
            model.gate.set()
            assert (await short).scores == service.right(request(1000, tokens=10))
            assert len(model.seen) < 100

    asyncio.run(scenario())


def test_where_nothing_waits_any_deadline_is_given_a_chance() -> None:
    async def scenario() -> None:
        async with Service(tokens_per_second=1000) as service:
            await service.batcher.submit(request(1, tokens=10))
            with pytest.raises(DeadlineExceeded):
                await service.batcher.submit(request(2, tokens=200), deadline=soon(0.05))

    asyncio.run(scenario())


def test_who_waits_in_line_is_let_in_in_order_and_nobody_overtakes() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=200, queue=100) as service:
            tasks = await service.behind(model, service.batcher.submit(request(1, tokens=90)))
            tasks += [
                asyncio.create_task(service.batcher.submit(request(i, tokens=tokens), patience=5))
                for i, tokens in ((2, 80), (3, 5), (4, 60))
            ]
            await asyncio.sleep(0)
            assert service.value("queue_tokens") == 90
            with pytest.raises(Overloaded):
                await service.batcher.submit(request(5, tokens=5))
            model.gate.set()
            answers = await asyncio.gather(*tasks)
            assert all(isinstance(one, Scored) for one in answers)
            assert orders(model) == [999, 1, 2, 3, 4]
            assert service.value("inputs_total") == 5

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("given", "error"),
    [({"patience": 0.03}, Overloaded), ({"patience": 5.0, "deadline": 0.03}, DeadlineExceeded)],
)
def test_nobody_waits_in_line_for_longer_than_he_wants(given: dict[str, float], error: type[Exception]) -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, queue=100) as service:
            await service.behind(model, service.batcher.submit(request(1, tokens=100)))
            started = time.monotonic()
            deadline = soon(given["deadline"]) if "deadline" in given else None
            with pytest.raises(error):
                await service.batcher.submit(request(2), patience=given["patience"], deadline=deadline)
            assert 0.02 < time.monotonic() - started < 2
            model.gate.set()
            await reach(lambda: service.value("queue_tokens") == 0)
            assert 2 not in orders(model)

    asyncio.run(scenario())


def test_a_full_line_takes_nobody_more_and_one_who_leaves_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, queue=100) as service:
            await service.behind(model, service.batcher.submit(request(1, tokens=100)))
            line = [asyncio.create_task(service.batcher.submit(request(i), patience=5)) for i in (2, 3)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await service.batcher.submit(request(4), patience=5)
            line[0].cancel()
            await asyncio.sleep(0)
            line.append(asyncio.create_task(service.batcher.submit(request(5), patience=5)))
            await asyncio.sleep(0)
            model.gate.set()
            ends = [await outcome(task) for task in line]
            assert [type(end) for end in ends] == [asyncio.CancelledError, Scored, Scored]
            assert [first for first in orders(model) if first in {2, 3, 4, 5}] == [3, 5]

    monkeypatch.setattr(admission, "LINE", 2)
    asyncio.run(scenario())


def test_the_end_of_the_service_ends_the_line() -> None:
    async def scenario() -> Sequence[BaseException | Scored]:
        model = Model(open_at_once=False)
        async with Service(model, queue=100) as service:
            tasks = await service.behind(model, service.batcher.submit(request(1, tokens=100)))
            tasks += [asyncio.create_task(service.batcher.submit(request(i), patience=60)) for i in (2, 3)]
            await asyncio.sleep(0)
            stopping = asyncio.create_task(service.batcher.stop(drain_seconds=0))
            ends = [await outcome(task) for task in tasks[1:]]
            model.gate.set()
            await stopping
            return ends

    assert [type(end) for end in asyncio.run(scenario())] == [Draining] * 3
