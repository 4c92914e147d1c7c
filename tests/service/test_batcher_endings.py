"""Requests that end early, and a batcher that ends: nobody gets another's answer, and nobody waits in vain."""

import asyncio
import threading
import weakref
from math import inf

import pytest
from batching import FATAL, Model, Service, outcome, reach, request

from reward_model.rendering import Rendered
from service.batcher import Scored
from service.errors import Broken, DeadlineExceeded, Draining, Overloaded


@pytest.mark.parametrize("k", range(5))
def test_when_the_kth_of_n_is_cancelled_while_waiting_the_others_scores_stay_theirs(k: int) -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model) as service:
            requests = [request(i, i + 100) for i in range(5)]
            tasks = await service.behind(model, *(service.batcher.submit(one) for one in requests))
            tasks[1 + k].cancel()
            await asyncio.sleep(0)
            assert service.value("queue_sequences") == 8
            model.gate.set()
            for i, (task, inputs) in enumerate(zip(tasks[1:], requests, strict=True)):
                answer = await outcome(task)
                if i == k:
                    assert isinstance(answer, asyncio.CancelledError)
                else:
                    assert isinstance(answer, Scored)
                    assert answer.scores == service.right(inputs)
            assert [k] not in model.seen
            assert service.value("cancelled_total") == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("k", range(5))
def test_when_the_kth_of_n_is_cancelled_inside_a_batch_the_others_scores_stay_theirs(k: int) -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model) as service:
            requests = [request(i, i + 100) for i in range(5)]
            tasks = await service.behind(model, *(service.batcher.submit(one) for one in requests))
            model.hold_next()
            await reach(model.busy.is_set)
            tasks[1 + k].cancel()
            await asyncio.sleep(0)
            model.gate.set()
            answers = [await outcome(task) for task in tasks[1:]]
            assert [isinstance(one, asyncio.CancelledError) for one in answers] == [i == k for i in range(5)]
            scores = [one.scores for one in answers if isinstance(one, Scored)]
            assert scores == [service.right(one) for i, one in enumerate(requests) if i != k]

    asyncio.run(scenario())


def test_a_cancelled_request_gives_its_place_in_the_queue_back_at_once() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, queue=100) as service:
            tasks = await service.behind(model, service.batcher.submit(request(1, tokens=100)))
            with pytest.raises(Overloaded):
                await service.batcher.submit(request(2))
            tasks[1].cancel()
            await asyncio.sleep(0)
            again = asyncio.create_task(service.batcher.submit(request(2, tokens=100)))
            model.gate.set()
            assert (await again).scores == service.right(request(2, tokens=100))

    asyncio.run(scenario())


def test_what_has_expired_never_reaches_the_model() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model) as service:
            deadline = asyncio.get_running_loop().time() + 0.02
            waiting = service.batcher.submit(request(1), deadline=deadline), service.batcher.submit(request(2))
            tasks = await service.behind(model, *waiting)
            assert isinstance(await outcome(tasks[1]), DeadlineExceeded)
            assert service.value("queue_tokens") == 1
            model.gate.set()
            assert (await tasks[2]).scores == service.right(request(2))
            assert model.seen == [[999], [2]]
            assert service.value("failures_total", reason="deadline") == 1
            assert service.value("cancelled_total") == 0

    asyncio.run(scenario())


def test_what_expires_while_the_event_loop_is_held_up_never_reaches_the_model() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model) as service:
            deadline = asyncio.get_running_loop().time() + 0.02
            tasks = await service.behind(model, service.batcher.submit(request(1), deadline=deadline))
            threading.Event().wait(0.05)
            model.gate.set()
            threading.Event().wait(0.05)
            assert isinstance(await outcome(tasks[1]), DeadlineExceeded)
            assert model.seen == [[999]]
            assert service.value("queue_tokens") == 0

    asyncio.run(scenario())


def test_a_deadline_can_pass_while_the_model_is_busy_with_the_request() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model) as service:
            deadline = asyncio.get_running_loop().time() + 0.02
            with pytest.raises(DeadlineExceeded):
                await service.batcher.submit(request(1), deadline=deadline)
            model.gate.set()
            assert (await service.batcher.submit(request(2))).scores == service.right(request(2))

    asyncio.run(scenario())


def test_a_deadline_that_has_passed_is_refused_at_once() -> None:
    async def scenario() -> None:
        model = Model()
        async with Service(model) as service:
            with pytest.raises(DeadlineExceeded):
                await service.batcher.submit(request(1), deadline=asyncio.get_running_loop().time())
            assert model.batches == []
            assert service.value("failures_total", reason="deadline") == 1
            assert service.value("inputs_total") == 0

    asyncio.run(scenario())


def test_a_deadline_that_is_kept_leaves_no_timer_behind() -> None:
    async def scenario() -> None:
        async with Service() as service:
            deadline = asyncio.get_running_loop().time() + 0.3
            answer = await service.batcher.submit(request(1), deadline=deadline)
            assert answer.scores == service.right(request(1))
            await asyncio.sleep(0.31)
            assert service.value("failures_total", reason="deadline") == 0

    asyncio.run(scenario())


def test_an_answered_request_is_not_kept_until_its_deadline() -> None:
    class Inputs(list[Rendered]):
        """A list that can be watched."""

    async def scenario() -> None:
        async with Service() as service:
            inputs = Inputs(request(1, 2))
            watched = weakref.ref(inputs)
            await service.batcher.submit(inputs, deadline=asyncio.get_running_loop().time() + 60)
            del inputs
            await reach(lambda: watched() is None)

    asyncio.run(scenario())


def test_a_caller_that_times_out_on_the_same_deadline_counts_as_a_deadline_not_as_a_hang_up() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model) as service:
            deadline = asyncio.get_running_loop().time() + 0.02
            with pytest.raises((TimeoutError, DeadlineExceeded)):
                async with asyncio.timeout_at(deadline):
                    await service.batcher.submit(request(1), deadline=deadline)
            assert service.value("failures_total", reason="deadline") == 1
            assert service.value("cancelled_total") == 0
            model.gate.set()

    asyncio.run(scenario())


def test_when_the_model_is_lost_everyone_is_told_and_nobody_waits() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model) as service:
            tasks = await service.behind(model, *(service.batcher.submit(request(i)) for i in (1, FATAL, 2)))
            model.gate.set()
            answers = [await outcome(task) for task in tasks]
            assert isinstance(answers[0], Scored)
            assert [type(one) for one in answers[1:]] == [Broken] * 3
            with pytest.raises(Broken):
                await service.batcher.submit(request(3))
            assert service.batcher.stalled_seconds == inf
            assert service.value("queue_tokens") == 0

    asyncio.run(scenario())


def test_what_was_answered_in_the_moment_the_model_was_lost_is_no_failure() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model) as service:
            tasks = await service.behind(model, service.batcher.submit(request(1, FATAL)))
            model.gate.set()
            service.thread.join(10)  # the event loop, which stands still meanwhile, hears of both at once
            answers = [await outcome(task) for task in tasks]
            assert [type(one) for one in answers] == [Scored, Broken]
            assert service.value("failures_total", reason="fault") == 2

    asyncio.run(scenario())


def test_a_model_that_hangs_is_seen_and_an_idle_one_is_not_suspected() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model) as service:
            assert service.batcher.stalled_seconds == 0
            task = asyncio.create_task(service.batcher.submit(request(1)))
            await reach(lambda: service.batcher.stalled_seconds > 0.02)
            model.gate.set()
            await task
            await reach(lambda: service.batcher.stalled_seconds == 0)

    asyncio.run(scenario())


def test_drain_finishes_what_was_admitted_and_admits_nothing_new() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        service = Service(model)
        async with service:
            requests = [request(i) for i in range(5)]
            tasks = await service.behind(model, *(service.batcher.submit(one) for one in requests))
            stopping = asyncio.create_task(service.batcher.stop(drain_seconds=10))
            await asyncio.sleep(0)
            with pytest.raises(Draining):
                await service.batcher.submit(request(7))
            model.gate.set()
            assert [(await task).scores for task in tasks[1:]] == [service.right(one) for one in requests]
            await stopping
            assert not service.thread.is_alive()

    asyncio.run(scenario())


def test_what_is_not_done_by_the_end_of_the_drain_is_told_so() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        service = Service(model)
        service.batcher.start()
        tasks = await service.behind(model, *(service.batcher.submit(request(i)) for i in range(3)))
        stopping = asyncio.create_task(service.batcher.stop(drain_seconds=0.01))
        answers = [await outcome(task) for task in tasks]
        assert [type(one) for one in answers] == [Draining] * 4
        model.gate.set()
        await stopping
        assert model.seen == [[999]]
        assert service.value("queue_tokens") == 0
        assert not service.thread.is_alive()

    asyncio.run(scenario())


def test_stopping_an_idle_batcher_takes_no_time_and_can_be_repeated() -> None:
    async def scenario() -> None:
        async with Service() as service:
            async with asyncio.timeout(2):
                await service.batcher.stop(drain_seconds=60)
                await service.batcher.stop(drain_seconds=60)
            with pytest.raises(Draining):
                await service.batcher.submit(request(1))

    asyncio.run(scenario())


def test_a_model_that_never_returns_does_not_keep_the_service_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.batcher.JOIN_SECONDS", 0.05)
    model = Model(open_at_once=False)
    service = Service(model)

    async def scenario() -> None:
        service.batcher.start()
        task = (await service.behind(model))[0]
        await service.batcher.stop(drain_seconds=0)
        assert isinstance(await outcome(task), Draining)

    asyncio.run(scenario())
    assert service.thread.is_alive()
    assert service.thread.daemon, "it ends with the process at the latest"
    model.gate.set()
    service.thread.join(10)
    assert not service.thread.is_alive()


def test_the_rest_of_a_large_request_whose_client_has_gone_never_reaches_the_model() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=10) as service:
            large = asyncio.create_task(service.batcher.submit(request(*range(100))))
            await reach(model.busy.is_set)
            large.cancel()
            assert isinstance(await outcome(large), asyncio.CancelledError)
            assert service.value("queue_tokens") == 0
            model.gate.set()
            assert (await service.batcher.submit(request(1000))).scores == service.right(request(1000))
            assert [len(batch) for batch in model.batches] == [10, 1]

    asyncio.run(scenario())
