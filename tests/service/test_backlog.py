"""What waits is handed out fairly: within the bound, completely, in order, and never over the budget."""

import asyncio
import math
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from reward_model.meter import Meter, RepeatMeter, SharingMeter
from reward_model.rendering import Rendered
from service.backlog import TURNS, Backlog, Item, Request
from service.budget import BatchBudget
from service.metrics import Metrics

METERS = st.sampled_from([RepeatMeter, SharingMeter])
#: Token counts of the inputs of each request, and how many batches are taken before the next one arrives.
TRAFFIC = st.lists(
    st.tuples(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 3)), min_size=1, max_size=12
)
_loop = asyncio.new_event_loop()
_loop.close()


def backlog(budget: int, meter: Callable[[], Meter] = RepeatMeter) -> Backlog:
    metrics = Metrics(CollectorRegistry())
    return Backlog(metrics, budget=BatchBudget(budget, metrics), meter=meter)


def waiting(inputs: list[Rendered]) -> Request:
    return Request(inputs, asyncio.Future(loop=_loop), math.inf)


def different(sizes: list[int], number: int) -> Request:
    """Inputs that share nothing with one another, nor with those of a request of another number."""
    return waiting([Rendered(None, [100 * number + i, *[7] * (size - 1)]) for i, size in enumerate(sizes)])


def drained(queue: Backlog) -> Iterator[list[Item]]:
    while batch := queue.take(wait=False):
        yield batch


def added(batch: list[Item], meter: Meter) -> list[int]:
    return [meter.add(item.rendered) for item in batch]


class Service:
    """Requests that arrive between batches, and what was taken of them, in its order."""

    def __init__(self, queue: Backlog, meter: Callable[[], Meter] = RepeatMeter) -> None:
        self.queue = queue
        self.meter = meter
        #: The request, the index of the input, and what it added to its batch.
        self.taken: list[tuple[Request, int, int]] = []
        self.batches: list[int] = []
        self.arrivals: dict[Request, int] = {}

    def arrive(self, request: Request) -> None:
        self.arrivals[request] = len(self.taken)
        self.queue.add(request)

    def take(self) -> bool:
        batch = self.queue.take(wait=False)
        costs = added(batch, self.meter())
        self.taken += [(item.request, item.index, tokens) for item, tokens in zip(batch, costs, strict=True)]
        self.batches += [sum(costs)] if batch else []
        return bool(batch)

    def serve(self, traffic: list[tuple[list[int], int]]) -> None:
        for number, (sizes, batches) in enumerate(traffic):
            self.arrive(different(sizes, number))
            for _ in range(batches):
                self.take()
        while self.take():
            pass


@settings(max_examples=300, deadline=None)
@given(traffic=TRAFFIC, budget=st.integers(1, 100))
def test_every_input_is_taken_within_the_bound_whatever_else_waits(
    traffic: list[tuple[list[int], int]], budget: int
) -> None:
    service = Service(backlog(budget))
    service.serve(traffic)
    quantum = max(1, budget // TURNS)
    for request, arrival in service.arrivals.items():
        own = 0
        others = dict.fromkeys(service.arrivals, 0)
        for taken, _, tokens in service.taken[arrival:]:
            if taken is not request:
                others[taken] += tokens
                continue
            own += tokens
            rounds = -(-own // quantum)
            for other, before in others.items():
                longest = max(len(one.token_ids) for one in other.inputs)
                assert before <= rounds * quantum + longest - 1


@settings(max_examples=300, deadline=None)
@given(traffic=TRAFFIC, budget=st.integers(1, 100), meter=METERS)
def test_nothing_is_lost_or_taken_twice_and_the_inputs_of_a_request_stay_in_order(
    traffic: list[tuple[list[int], int]], budget: int, meter: Callable[[], Meter]
) -> None:
    service = Service(backlog(budget, meter), meter)
    service.serve(traffic)
    for request in service.arrivals:
        assert [index for taken, index, _ in service.taken if taken is request] == list(range(len(request.inputs)))
    assert service.queue.tokens == 0


@settings(max_examples=300, deadline=None)
@given(
    requests=st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), min_size=1, max_size=8), min_size=1, max_size=8
    ),
    budget=st.integers(1, 100),
    meter=METERS,
)
def test_a_batch_adds_no_more_than_its_budget_unless_it_is_one_input(
    requests: list[list[tuple[int, int]]], budget: int, meter: Callable[[], Meter]
) -> None:
    queue = backlog(budget, meter)
    for inputs in requests:
        # Few different tokens, so that inputs repeat and share prefixes.
        queue.add(waiting([Rendered(None, [token] * size) for token, size in inputs]))
    for batch in drained(queue):
        assert len(batch) == 1 or sum(added(batch, meter())) <= budget


@settings(max_examples=200, deadline=None)
@given(
    ahead=st.lists(st.lists(st.integers(1, 10), min_size=1, max_size=20), max_size=6),
    later=st.lists(st.lists(st.integers(1, 10), min_size=1, max_size=20), max_size=6),
    batches=st.integers(0, 3),
)
def test_a_request_behind_n_others_is_first_served_in_batch_2n_plus_1_or_before(
    ahead: list[list[int]], later: list[list[int]], batches: int
) -> None:
    numbers = count()
    service = Service(backlog(20))
    for sizes in ahead:
        service.arrive(different(sizes, next(numbers)))
    for _ in range(batches):
        service.take()
    mine = different([10, 10], next(numbers))
    service.arrive(mine)
    for sizes in later:
        service.arrive(different(sizes, next(numbers)))
    first = 0
    while mine.taken == 0:
        service.take()
        first += 1
    assert first <= 2 * len(ahead) + 1


@pytest.mark.parametrize("short_first", [True, False])
def test_neither_a_stream_of_long_inputs_nor_one_of_short_ones_starves_the_other(short_first: bool) -> None:
    numbers = count()
    service = Service(backlog(100))
    long, short = different([400], next(numbers)), different([5], next(numbers))
    for request in [short, long] if short_first else [long, short]:
        service.arrive(request)
    # Ten clients of each kind, who send the next request as soon as the one before is taken.
    sizes = [[400]] * 10 + [[5]] * 10
    clients = [different(size, next(numbers)) for size in sizes]
    for client in clients:
        service.arrive(client)
    for _ in range(200):
        service.take()
        for i, client in enumerate(clients):
            if client.taken == len(client.inputs):
                clients[i] = different(sizes[i], next(numbers))
                service.arrive(clients[i])
    places = {taken: sum(tokens for _, _, tokens in service.taken[:i]) for i, (taken, *_) in enumerate(service.taken)}
    assert places[short] <= 11 * 50, "the others' first round"
    # Eight rounds of 50 tokens, in which each long one may have 50 and each short client one request of 5.
    assert places[long] <= 8 * (11 * 50 + 11 * 5) + 400


@pytest.mark.parametrize("meter", [RepeatMeter, SharingMeter])
def test_an_input_larger_than_a_batch_gets_one_to_itself_in_its_turn(meter: Callable[[], Meter]) -> None:
    queue = backlog(10, meter)
    for number, sizes in enumerate([[3, 50, 3], [4, 4], [51]]):
        queue.add(different(sizes, number))
    sizes = [[len(item.rendered.token_ids) for item in batch] for batch in drained(queue)]
    assert sizes == [[3, 4], [4], [50], [51], [3]]


def test_identical_inputs_of_different_requests_share_a_batch() -> None:
    queue = backlog(10)
    for _ in range(20):
        queue.add(waiting([Rendered(None, [1] * 5), Rendered(None, [2] * 5)]))
    assert [len(batch) for batch in drained(queue)] == [40]


def test_what_was_discarded_is_not_taken_and_does_not_disturb_the_turns() -> None:
    queue = backlog(4)
    first, gone, last = (different([1] * 6, number) for number in range(3))
    for request in (first, gone, last):
        queue.add(request)
    assert [item.request for item in queue.take()] == [first, first, gone, gone]
    queue.discard(gone)
    assert queue.tokens == 4 + 6
    rest = [[item.request for item in batch] for batch in drained(queue)]
    assert rest == [[last, last, first, first], [last, last, first, first], [last, last]]


def test_a_closed_backlog_hands_out_nothing() -> None:
    queue = backlog(4)
    queue.add(different([1], 0))
    queue.close()
    assert queue.take() == queue.take(wait=False) == []
