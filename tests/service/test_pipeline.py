"""A device that works by itself always has its next batch; what is ready is handed over; nobody pays for another."""

import asyncio
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future

import pytest
from batching import FATAL, NAN, POISON, Model, Service, outcome, reach, request

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.batcher import Scored
from service.errors import Broken, CannotCompute, Draining, NonFiniteScore
from service.stub import Computed, StubScorer

GUILTY = pytest.mark.parametrize(("token", "error"), [(POISON, CannotCompute), (NAN, NonFiniteScore)])


class Watched(Computed):
    """A batch of one input that notes when its result is asked for."""

    def __init__(self, computed: Computed, number: int, log: list[tuple[str, int]]) -> None:
        super().__init__(computed.scores)
        self.number, self.log = number, log

    def result(self) -> list[Score]:
        self.log.append(("result", self.number))
        return super().result()


class Gpu(StubScorer):
    """An asynchronous stub that notes the order of calls."""

    def __init__(self, **stub: object) -> None:
        super().__init__(asynchronous=True, **stub)  # type: ignore[arg-type]
        self.log: list[tuple[str, int]] = []

    def launch(self, batch: Sequence[Rendered]) -> Computed:
        number = batch[0].token_ids[0]
        self.log.append(("launch", number))
        return Watched(super().launch(batch), number, self.log)


def two_in_flight(model: Model, **service: object) -> Service:
    """A service whose device is held up and takes inputs one by one."""
    return Service(model, batch=1, scorer=Gpu, **service)  # type: ignore[arg-type]


def log_of(service: Service) -> list[tuple[str, int]]:
    assert isinstance(service.scorer, Gpu)
    return service.scorer.log


class Later(Computed):
    """A batch beside which there is room when it is told so."""

    def __init__(self, scores: Future[list[Score]], room: threading.Event) -> None:
        super().__init__(scores)
        self.room = room

    def wait_for_room(self) -> None:
        assert self.room.wait(20)


class Lanes(StubScorer):
    """An asynchronous stub that has room for another batch when it is told so."""

    def __init__(self, **stub: object) -> None:
        super().__init__(asynchronous=True, **stub)  # type: ignore[arg-type]
        self.room = threading.Event()

    def launch(self, batch: Sequence[Rendered]) -> Computed:
        return Later(super().launch(batch).scores, self.room)


def test_a_batch_is_not_closed_before_there_is_room_for_it() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=100, scorer=Lanes) as service:
            assert isinstance(service.scorer, Lanes)
            tasks = [asyncio.create_task(service.batcher.submit(request(0)))]
            await reach(lambda: len(model.batches) == 1)
            for i in (1, 2):
                tasks.append(asyncio.create_task(service.batcher.submit(request(i))))
                await asyncio.sleep(0.02)
            service.scorer.room.set()
            await reach(lambda: service.value("queue_sequences") == 0)
            assert not tasks[0].done()
            model.gate.set()
            assert [(await task).scores for task in tasks] == [service.right(request(i)) for i in range(3)]
            assert [len(batch) for batch in model.batches] == [1, 2]

    asyncio.run(scenario())


def test_the_next_batch_is_launched_before_the_result_of_the_one_before_is_asked_for_and_no_third() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with two_in_flight(model) as service:
            inputs = request(*range(5))
            task = asyncio.create_task(service.batcher.submit(inputs))
            await reach(lambda: len(log_of(service)) == 3)
            await asyncio.sleep(0.02)
            assert log_of(service) == [("launch", 0), ("launch", 1), ("result", 0)]
            model.gate.set()
            assert (await task).scores == service.right(inputs)
            for name in ("launch", "result"):
                assert [number for call, number in log_of(service) if call == name] == list(range(5))

    asyncio.run(scenario())


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_is_done_is_handed_over_while_the_next_batch_is_computed(asynchronous: bool) -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=1, asynchronous=asynchronous) as service:
            first, *others = await service.behind(model, *(service.batcher.submit(request(i)) for i in range(3)))
            for i in range(3):
                model.hold_next()
                await reach(model.busy.is_set)
                async with asyncio.timeout(5):
                    assert (await (others[i - 1] if i else first)).scores == service.right(request(i - 1 if i else 999))
                assert not any(task.done() for task in others[i:])
            model.gate.set()
            await others[2]

    asyncio.run(scenario())


def test_what_is_done_is_handed_over_where_nothing_follows() -> None:
    async def scenario() -> None:
        async with Service(asynchronous=True) as service:
            async with asyncio.timeout(5):
                for i in range(20):
                    assert (await service.batcher.submit(request(i))).scores == service.right(request(i))

    asyncio.run(scenario())


@GUILTY
@pytest.mark.parametrize("guilty", [0, 1])
def test_a_fault_in_one_of_two_batches_in_flight_hurts_nobody_else(
    guilty: int, token: int, error: type[Exception]
) -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=6, asynchronous=True) as service:
            requests = [request(10 * i, 10 * i + 1, 10 * i + 2, 10 * i + 3) for i in range(4)]
            requests[guilty][1].token_ids[0] = token
            tasks = await service.behind(model, *(service.batcher.submit(one) for one in requests))
            model.gate.set()
            for i, inputs in enumerate(requests):
                answer = await outcome(tasks[1 + i])
                if i == guilty:
                    assert isinstance(answer, error)
                else:
                    assert isinstance(answer, Scored)
                    assert answer.scores == service.right(inputs)
            assert service.batcher.stalled_seconds == 0
            assert sum(service.value("failures_total", reason=why) or 0 for why in ("fault", "non_finite")) == 1

    asyncio.run(scenario())


def test_a_batch_in_flight_is_answered_before_the_one_in_front_of_it_is_searched_for_the_guilty() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=8, asynchronous=True) as service:
            bad, good = request(POISON, tokens=8), request(1, tokens=8)
            tasks = await service.behind(model, service.batcher.submit(bad), service.batcher.submit(good))
            for _ in range(3):
                model.hold_next()
                await reach(model.busy.is_set)
            assert [ids[0][0] for ids in model.batches] == [999, POISON, 1, POISON]
            async with asyncio.timeout(5):
                assert (await tasks[2]).scores == service.right(good)
            assert not tasks[1].done()
            model.gate.set()
            assert isinstance(await outcome(tasks[1]), CannotCompute)

    asyncio.run(scenario())


def test_a_launch_that_runs_out_of_memory_is_split_and_the_batch_before_it_goes_first() -> None:
    class Small(StubScorer):
        def launch(self, batch: Sequence[Rendered]) -> Computed:
            if len(batch) > 2:
                raise MemoryError
            return super().launch(batch)

    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=5, scorer=Small, asynchronous=True) as service:
            inputs = [*request(1, tokens=5), *request(*range(20, 25))]
            task = asyncio.create_task(service.batcher.submit(inputs))
            await reach(model.busy.is_set)
            await asyncio.sleep(0.02)
            model.gate.set()
            assert (await task).scores == service.right(inputs)
            assert [[ids[0] for ids in batch] for batch in model.batches] == [[1], [20, 21], [22], [23, 24]]
            assert service.value("failures_total", reason="oom") == 0

    asyncio.run(scenario())


def test_when_the_device_is_lost_everyone_in_flight_and_behind_is_told() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=1, asynchronous=True) as service:
            tasks = await service.behind(model, *(service.batcher.submit(request(i)) for i in (FATAL, 2, 3)))
            model.gate.set()
            answers = [await outcome(task) for task in tasks]
            assert [type(one) for one in answers] == [Scored, Broken, Broken, Broken]

    asyncio.run(scenario())


def test_a_batch_that_was_launched_early_counts_its_wait_for_the_device_as_queue_not_as_forward() -> None:
    async def scenario() -> None:
        async with Service(inputs_per_second=20, batch=1, asynchronous=True) as service:
            started = time.monotonic()
            answers = await asyncio.gather(*(service.batcher.submit(request(i)) for i in range(4)))
            together = await service.batcher.submit(request(*range(10, 14)))
            passed = time.monotonic() - started
            assert all(one.forward_seconds > 0.045 for one in answers)
            assert all(one.queue_seconds > 0.045 * i for i, one in enumerate(answers))
            assert together.forward_seconds > 4 * 0.045
            # Counted from its launch, every batch but the first would seem to have taken twice as long.
            assert sum(one.forward_seconds for one in [*answers, together]) <= passed

    asyncio.run(scenario())


def test_a_device_that_hangs_is_seen_also_while_its_next_batch_waits() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with two_in_flight(model) as service:
            task = asyncio.create_task(service.batcher.submit(request(1, 2)))
            await reach(lambda: service.batcher.stalled_seconds > 0.05)
            model.hold_next()
            await reach(model.busy.is_set)
            await reach(lambda: 0 < service.batcher.stalled_seconds < 0.05)
            await reach(lambda: service.batcher.stalled_seconds > 0.05)
            model.gate.set()
            await task
            await reach(lambda: service.batcher.stalled_seconds == 0)

    asyncio.run(scenario())


def test_drain_finishes_what_is_in_flight() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with two_in_flight(model) as service:
            task = asyncio.create_task(service.batcher.submit(request(1, 2, 3)))
            await reach(lambda: len(log_of(service)) == 3)
            stopping = asyncio.create_task(service.batcher.stop(drain_seconds=10))
            await asyncio.sleep(0)
            model.gate.set()
            assert (await task).scores == service.right(request(1, 2, 3))
            await stopping
            assert not service.thread.is_alive()

    asyncio.run(scenario())


def test_the_end_of_the_drain_is_told_to_those_in_flight_and_nothing_more_is_launched() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with two_in_flight(model) as service:
            task = asyncio.create_task(service.batcher.submit(request(1, 2, 3)))
            await reach(lambda: len(log_of(service)) == 3)
            stopping = asyncio.create_task(service.batcher.stop(drain_seconds=0.01))
            assert isinstance(await outcome(task), Draining)
            model.gate.set()
            await stopping
            assert not service.thread.is_alive()
            assert model.seen == [[1], [2]]

    asyncio.run(scenario())


def test_an_answered_request_is_not_kept_while_the_device_idles() -> None:
    class Inputs(list[Rendered]):
        """A list that can be watched."""

    async def scenario() -> None:
        async with Service(batch=1, asynchronous=True) as service:
            inputs = Inputs(request(1, 2, 3))
            watched = weakref.ref(inputs)
            await service.batcher.submit(inputs)
            del inputs
            await reach(lambda: watched() is None)

    asyncio.run(scenario())


def test_the_stub_computes_batches_one_after_the_other_in_a_thread_of_its_own() -> None:
    threads: list[int] = []

    def note(_: Sequence[Rendered], scores: list[Score]) -> list[Score]:
        threads.append(threading.get_ident())
        return scores

    stub = StubScorer(fault=note, asynchronous=True, inputs_per_second=50)
    first, second = stub.launch(request(1)), stub.launch(request(2))
    assert not first.done()
    assert second.result() == [stub.score(request(2)[0])]
    assert first.done()
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads
