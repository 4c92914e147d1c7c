"""Random arrivals, sizes, hang-ups, deadlines and faults: every answer is the right one and nothing is lost."""

import asyncio
from typing import Any

from batching import NAN, POISON, Model, Service, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_model.rendering import Rendered
from service.batcher import Scored
from service.errors import CannotCompute, DeadlineExceeded, NonFiniteScore, Overloaded

ARRIVALS = st.lists(
    st.tuples(
        st.lists(st.integers(1, 12), min_size=1, max_size=6),  # tokens of each input
        st.integers(0, 3),  # turns of the event loop before it arrives
        st.sampled_from([None, None, None, 0, 1, 3]),  # turns until its caller gives up
        st.sampled_from([None, None, 0.0005, 0.003]),  # seconds until its deadline
        st.sampled_from([None, None, None, None, POISON, NAN]),  # what its last input holds
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(
    arrivals=ARRIVALS,
    budget=st.integers(1, 30),
    queue=st.sampled_from([20, 100, 10_000]),
    asynchronous=st.booleans(),
)
def test_whatever_happens_every_answer_is_the_right_one_and_nothing_is_lost(
    arrivals: list[tuple[list[int], int, int | None, float | None, int | None]],
    budget: int,
    queue: int,
    asynchronous: bool,
) -> None:
    async def one(service: Service, inputs: list[Rendered], give_up: int | None, seconds: float | None) -> object:
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        task = asyncio.create_task(service.batcher.submit(inputs, deadline=deadline))
        for _ in range(give_up or 0):
            await asyncio.sleep(0)
        if give_up is not None:
            task.cancel()
        return await outcome(task)

    async def scenario() -> None:
        model = Model()
        stub = {"tokens_per_second": 200_000, "asynchronous": asynchronous}
        async with Service(model, batch=budget, queue=queue, **stub) as service:
            requests, running = [], []
            for number, (sizes, turns, give_up, seconds, fault) in enumerate(arrivals):
                inputs = [Rendered(None, [100 * number + i, *[7] * (size - 1)]) for i, size in enumerate(sizes)]
                if fault is not None:
                    inputs[-1].token_ids.append(fault)
                requests.append(inputs)
                for _ in range(turns):
                    await asyncio.sleep(0)
                running.append(asyncio.create_task(one(service, inputs, give_up, seconds)))
            async with asyncio.timeout(20):
                answers = await asyncio.gather(*running)
            check_answers(service, arrivals, requests, answers)
            check_books(service, model, budget, arrivals, answers)

    asyncio.run(scenario())


def check_answers(service: Service, arrivals: list[Any], requests: list[list[Rendered]], answers: list[object]) -> None:
    for (_, _, give_up, seconds, fault), inputs, answer in zip(arrivals, requests, answers, strict=True):
        if isinstance(answer, Scored):
            assert fault is None
            assert answer.scores == service.right(inputs)
        elif isinstance(answer, CannotCompute | NonFiniteScore):
            assert fault == (POISON if isinstance(answer, CannotCompute) else NAN)
            assert answer.index == len(inputs) - 1
        elif isinstance(answer, DeadlineExceeded):
            assert seconds is not None
        elif isinstance(answer, asyncio.CancelledError):
            assert give_up is not None
        else:
            assert isinstance(answer, Overloaded), repr(answer)


def check_books(service: Service, model: Model, budget: int, arrivals: list[Any], answers: list[object]) -> None:
    for batch in model.batches:
        assert len(batch) == 1 or sum(map(len, batch)) <= budget
    if all(fault is None for *_, fault in arrivals):  # else a batch may have been run again
        firsts = [ids[0] for ids in model.seen]
        assert len(set(firsts)) == len(firsts), "nothing is computed twice"
        for number in range(len(answers)):
            own = [first for first in firsts if first // 100 == number]
            assert own == sorted(own), "a request's inputs are taken in their order"
    assert service.value("queue_sequences") == 0
    assert service.value("queue_tokens") == 0
    late = sum(isinstance(one, DeadlineExceeded) for one in answers)
    cancelled = sum(isinstance(one, asyncio.CancelledError) for one in answers)
    assert (service.value("failures_total", reason="deadline") or 0) >= late
    assert (service.value("cancelled_total") or 0) <= cancelled
    assert service.batcher._open == set()
