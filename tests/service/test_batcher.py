"""Many requests share batches, and each gets its own answer, whatever is in the others."""

import asyncio
from collections.abc import Sequence

import pytest
from batching import NAN, POISON, Model, Service, outcome, reach, request

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.batcher import Scored
from service.errors import CannotCompute, NonFiniteScore, Overloaded


def test_each_request_gets_the_scores_of_its_own_inputs_in_order() -> None:
    async def scenario() -> None:
        async with Service() as service:
            requests = [request(i, i + 1000, i + 2000) for i in range(50)]
            answers = await asyncio.gather(*(service.batcher.submit(one) for one in requests))
            assert [one.scores for one in answers] == [service.right(one) for one in requests]
            assert all(one.computed_tokens == 3 for one in answers)

    asyncio.run(scenario())


def test_what_waits_while_the_model_is_busy_becomes_one_batch() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model) as service:
            tasks = await service.behind(model, *(service.batcher.submit(request(i)) for i in range(20)))
            model.gate.set()
            await asyncio.gather(*tasks)
            assert [len(batch) for batch in model.batches] == [1, 20]
            assert service.value("batch_sequences_count") == 2
            assert service.value("tokens_total", kind="computed") == 21

    asyncio.run(scenario())


def test_a_batch_keeps_to_its_budget_of_tokens_and_small_requests_to_the_order_of_arrival() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=10) as service:
            sizes = [4, 4, 4, 5, 3, 1, 5, 2]
            waiting = (service.batcher.submit(request(i, tokens=size)) for i, size in enumerate(sizes))
            tasks = await service.behind(model, *waiting)
            model.gate.set()
            await asyncio.gather(*tasks)
            assert [[len(one) for one in batch] for batch in model.batches] == [[1], [4, 4], [4, 5], [3, 1, 5], [2]]
            assert [ids[0] for ids in model.seen] == [999, *range(8)]

    asyncio.run(scenario())


def test_a_large_request_does_not_keep_a_small_one_waiting_until_it_is_done() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=10) as service:
            big, small = request(*range(40)), request(100, 101, tokens=2)
            tasks = await service.behind(model, service.batcher.submit(big), service.batcher.submit(small))
            for _ in range(2):
                model.hold_next()
                await reach(model.busy.is_set)
            assert (await tasks[2]).scores == service.right(small)
            assert not tasks[1].done()
            model.gate.set()
            assert (await tasks[1]).scores == service.right(big)
            assert [ids[0] for ids in model.batches[1]] == [0, 1, 2, 3, 4, 100, 101, 5]
            assert [ids[0] for ids in model.seen if ids[0] < 100] == list(range(40))

    asyncio.run(scenario())


def test_identical_inputs_are_in_the_batch_of_the_first_and_cost_nothing() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=10) as service:
            same = [request(7, tokens=4) for _ in range(9)]
            tasks = await service.behind(model, *(service.batcher.submit(one) for one in same))
            model.gate.set()
            answers = [await task for task in tasks[1:]]
            assert [len(batch) for batch in model.batches] == [1, 9]
            assert [one.computed_tokens for one in answers] == [4, *[0] * 8]
            assert len({one.scores[0].value for one in answers}) == 1
            assert service.value("tokens_total", kind="input") == 1 + 9 * 4
            assert service.value("tokens_total", kind="computed") == 1 + 4

    asyncio.run(scenario())


def test_responses_to_one_prompt_fill_a_batch_by_what_they_add_across_requests_too() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=160, shares_prefixes=True) as service:
            prompt = list(range(60))
            responses = [[Rendered(None, [*prompt, 100 + i, 101 + i])] for i in range(40)]
            tasks = await service.behind(model, *(service.batcher.submit(one) for one in responses))
            model.gate.set()
            answers = [await task for task in tasks[1:]]
            assert [len(batch) for batch in model.batches] == [1, 40]
            assert [one.computed_tokens for one in answers] == [62, *[2] * 39]
            assert service.value("tokens_total", kind="computed") == 1 + 62 + 39 * 2

    asyncio.run(scenario())


def test_an_input_larger_than_a_batch_gets_one_to_itself() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=10) as service:
            big = [*request(1), *request(2, tokens=50), *request(3)]
            tasks = await service.behind(model, service.batcher.submit(big))
            model.gate.set()
            assert (await tasks[1]).scores == service.right(big)
            assert [len(batch) for batch in model.batches] == [1, 1, 1, 1]

    asyncio.run(scenario())


def test_a_request_larger_than_a_batch_spans_several_and_shares_the_last() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model, batch=10) as service:
            big, small = request(*range(25)), request(100, 101)
            tasks = await service.behind(model, service.batcher.submit(big), service.batcher.submit(small))
            model.gate.set()
            assert (await tasks[1]).scores == service.right(big)
            assert (await tasks[2]).scores == service.right(small)
            assert [len(batch) for batch in model.batches] == [1, 10, 10, 7]

    asyncio.run(scenario())


def test_a_request_without_inputs_has_no_scores() -> None:
    async def scenario() -> None:
        model = Model()
        async with Service(model) as service:
            assert await service.batcher.submit([]) == Scored([], 0, 0.0, 0.0)
            assert model.batches == []

    asyncio.run(scenario())


def test_waiting_and_computing_are_timed_apart() -> None:
    async def scenario() -> None:
        async with Service(inputs_per_second=20, batch=1) as service:
            first, second = await asyncio.gather(
                service.batcher.submit(request(1)), service.batcher.submit(request(2, 3))
            )
            assert first.forward_seconds > 0.04
            assert second.queue_seconds > first.queue_seconds + 0.04
            assert second.forward_seconds > 0.08
            assert service.value("stage_duration_seconds_count", stage="queue") == 2
            assert service.value("stage_duration_seconds_count", stage="forward") == 2

    asyncio.run(scenario())


def test_overload_is_refused_with_a_time_to_come_back() -> None:
    async def scenario() -> None:
        model = Model()
        async with Service(model, batch=100, queue=1000, tokens_per_second=1000) as service:
            await service.batcher.submit(request(0, tokens=100))
            model.hold_next()
            tasks = await service.behind(model, *(service.batcher.submit(request(i, tokens=500)) for i in range(2)))
            with pytest.raises(Overloaded) as small:
                await service.batcher.submit(request(2))
            with pytest.raises(Overloaded) as big:
                await service.batcher.submit(request(2, tokens=5000))
            assert small.value.retry_after == 1
            # Not before the queue is empty: 1,000 tokens at a little under 1,000 a second.
            assert (big.value.retry_after or 0) >= 2
            assert service.value("queue_tokens") == 1000
            assert service.value("inputs_total") == 4
            model.gate.set()
            await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_a_request_into_an_empty_queue_is_admitted_whatever_its_size() -> None:
    async def scenario() -> None:
        async with Service(queue=10) as service:
            big = request(*range(50))
            assert (await service.batcher.submit(big)).scores == service.right(big)

    asyncio.run(scenario())


def test_a_poisonous_input_fails_alone() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model) as service:
            requests = [request(1, 2), request(3, POISON, 4), request(5), request(6, 7)]
            tasks = await service.behind(model, *(service.batcher.submit(one) for one in requests))
            model.gate.set()
            answers = [await outcome(task) for task in tasks[1:]]
            poisoned = answers.pop(1)
            assert isinstance(poisoned, CannotCompute)
            assert poisoned.index == 1
            assert [one.scores for one in answers if isinstance(one, Scored)] == [
                service.right(requests[i]) for i in (0, 2, 3)
            ]
            assert service.value("failures_total", reason="fault") == 1
            assert service.batcher.stalled_seconds == 0

    asyncio.run(scenario())


def test_a_score_that_is_not_finite_fails_alone() -> None:
    async def scenario() -> None:
        model = Model(open_at_once=False)
        async with Service(model) as service:
            requests = [request(1, 2), request(3, 4, NAN), request(5)]
            tasks = await service.behind(model, *(service.batcher.submit(one) for one in requests))
            model.gate.set()
            first, second, third = [await outcome(task) for task in tasks[1:]]
            assert isinstance(second, NonFiniteScore)
            assert second.index == 2
            assert isinstance(first, Scored)
            assert isinstance(third, Scored)
            assert first.scores + third.scores == service.right([*requests[0], *requests[2]])
            assert service.value("failures_total", reason="non_finite") == 1

    asyncio.run(scenario())


def test_of_several_guilty_inputs_the_first_is_named() -> None:
    async def scenario() -> None:
        async with Service(Model()) as service:
            with pytest.raises(NonFiniteScore) as raised:
                await service.batcher.submit(request(1, NAN, POISON, NAN))
            assert raised.value.index == 1
            assert service.value("failures_total", reason="non_finite") == 2

    asyncio.run(scenario())


def test_after_one_input_has_failed_the_rest_of_its_request_is_not_computed() -> None:
    async def scenario() -> None:
        model = Model()
        async with Service(model, batch=1, inputs_per_second=100) as service:
            with pytest.raises(NonFiniteScore):
                await service.batcher.submit(request(NAN, *range(100)))
            await service.batcher.submit(request(200))
            assert len(model.batches) < 50

    asyncio.run(scenario())


def test_a_batch_that_needs_too_much_memory_is_split() -> None:
    def small_batches_only(batch: Sequence[Rendered], scores: list[Score]) -> list[Score]:
        if len(batch) > 3:
            raise MemoryError
        return scores

    async def scenario() -> None:
        async with Service(small_batches_only) as service:
            inputs = request(*range(40))
            assert (await service.batcher.submit(inputs)).scores == service.right(inputs)
            assert service.value("failures_total", reason="oom") == 0

    asyncio.run(scenario())
