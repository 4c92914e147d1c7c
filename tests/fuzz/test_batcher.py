"""The batcher against a model of it in the plainest words, one step after the other, whatever the steps are.

No request is lost, answered twice, answered with another's scores, or left waiting; the gauges say what waits; and
nobody waits longer than `service.backlog` promises.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from batching import FATAL, NAN, POISON
from effort import times
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from stepping import HUGE, HUNGRY, Stepping

from reward_model.rendering import Rendered
from service.backlog import TURNS, count_tokens
from service.batcher import Scored
from service.errors import Broken, CannotCompute, ComputeError, DeadlineExceeded, Draining, NonFiniteScore, Overloaded
from service.isolation import Failure, Outcome

#: What is counted as a failure, and what the caller is told, by what an input holds.
GUILTY = {
    NAN: (Failure.NON_FINITE, NonFiniteScore),
    POISON: (Failure.FAULT, CannotCompute),
    HUGE: (Failure.OUT_OF_MEMORY, CannotCompute),
}
#: Tokens of the inputs of a request: a few of any size, or many.
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=5) | st.lists(st.integers(1, 3), min_size=5, max_size=30)
#: Which kinds of inputs a request has, and where: most have none.
FAULTS = st.just([]) | st.lists(
    st.tuples(st.sampled_from([NAN, POISON, HUNGRY, HUGE]), st.integers(0, 5)), min_size=1, max_size=3
)
Faults = list[tuple[int, int]]
UNLIMITED = 1_000_000
#: Seconds on the clock that is set by hand. The scorer thread has a real one, on which SOON never comes.
SOON, INSTANT = 1e4, 0.0005
DEADLINES = st.sampled_from([math.inf, math.inf, SOON, 2 * SOON])
PATIENCE = st.sampled_from([0.0, 0.75 * SOON, 5 * SOON])


@dataclass(eq=False)
class Asked:
    """A request as the model sees it.

    Attributes:
        patience: until when it waits in line, where it does not fit in at once.
        ahead: how many others waited when it came.
        formed: batches that had been formed by then.
        taken: how many of its inputs have left the queue.
        scored: how many have a score.
        end: what it was answered with, or with what kind of error; None while it is open.
        guilty: the input that is to blame for a CannotCompute or a NonFiniteScore.
        in_line: it has not been let in yet.
    """

    inputs: list[Rendered]
    deadline: float
    patience: float
    task: asyncio.Task[Scored]
    ahead: float
    formed: int
    taken: int = 0
    scored: int = 0
    end: type | None = None
    guilty: int | None = None
    in_line: bool = False

    @property
    def waiting(self) -> list[Rendered]:
        return [] if self.end or self.in_line else self.inputs[self.taken :]


class BatcherMachine(RuleBasedStateMachine):
    """What may happen to a batcher, in any order."""

    steps = 0

    @initialize(
        budget=st.integers(1, 40) | st.integers(2, 6),
        limit=st.sampled_from([20, 60, UNLIMITED]),
        largest=st.sampled_from([1, 2, 12]),
        scarce=st.booleans(),
        ahead=st.booleans(),
    )
    def begin(self, budget: int, limit: int, largest: int, scarce: bool, ahead: bool) -> None:
        self.real = Stepping(budget=budget, limit=limit, ahead=ahead)
        self.budget, self.limit, self.largest, self.scarce = budget, limit, largest, scarce
        self.asked: list[Asked] = []
        self.owner: dict[int, tuple[Asked, int]] = {}
        self.refusal: type[Exception] | None = None
        self.failures = dict.fromkeys(("non_finite", "oom", "fault", "deadline"), 0)
        self.admitted = self.cancelled = self.formed = self.delivered = self.longest = 0
        self.stopping: asyncio.Task[None] | None = None
        self.stops_at = math.inf
        self.racing = False

    # What happens

    @rule(requests=st.lists(st.tuples(SIZES, FAULTS, DEADLINES, PATIENCE), min_size=1, max_size=5))
    def requests_come(self, requests: list[tuple[list[int], Faults, float, float]]) -> None:
        for sizes, faults, seconds, patience in requests:
            self.start(sizes, faults, seconds, patience)
            self.real.settle()

    @rule()
    def requests_come_without_inputs_or_too_late(self) -> None:
        refusal = self.refused([])
        assert self.answer_now([]) == (Scored([], 0, 0.0, 0.0) if refusal is None else refusal)
        assert self.answer_now([Rendered(None, [1])], self.real.loop.now) is DeadlineExceeded
        self.failures["deadline"] += 1

    @rule(sizes=SIZES, ends=st.booleans())
    def a_deadline_passes_while_the_loop_is_busy(self, sizes: list[int], ends: bool) -> None:
        """Its timer has not fired yet; but what the model has not begun by then, it never does."""
        asked = self.start(sizes, [], INSTANT)
        self.real.rest()
        time.sleep(0.001)
        self.take_in()
        taken = asked.taken if asked is not None else 0
        if ends:
            self.let_go()
        assert asked is None or asked.taken == taken
        self.pass_time(0.001)

    @rule(batches=st.integers(1, 6))
    def batches_end(self, batches: int) -> None:
        for _ in range(batches):
            self.let_go()
            self.real.loop.turns()
        self.real.settle()

    @rule(which=st.integers(0, 30), ends=st.booleans())
    def a_caller_hangs_up(self, which: int, ends: bool) -> None:
        """Or does so in the very moment when a batch has ended and nobody knows yet."""
        if ends:
            self.let_go()
        if asked := self.open():
            self.hang_up(asked[which % len(asked)])
        self.real.settle()

    @rule(which=st.integers(0, 30))
    def a_caller_gives_up_at_the_deadline(self, which: int) -> None:
        """Which counts as that, whoever was faster. With a line, the order of all that is due then would matter."""
        bounded = [one for one in self.open() if one.deadline < self.stops_at]
        if bounded and not self.line():
            asked = bounded[which % len(bounded)]
            self.real.loop.now = asked.deadline
            assert asked.task.cancel()
            self.end([asked], asyncio.CancelledError)
            self.failures["deadline"] += 1
            self.end_late()
            self.real.settle()

    @rule(seconds=st.sampled_from([SOON / 2, SOON, 3 * SOON]), ends=st.booleans())
    def time_passes(self, seconds: float, ends: bool) -> None:
        if ends:
            self.let_go()
            self.real.settle()
        self.pass_time(seconds)

    @precondition(lambda self: self.limit == UNLIMITED)
    @rule(arrivals=st.lists(st.tuples(SIZES, FAULTS, st.integers(0, 3), st.booleans()), min_size=1, max_size=8))
    def many_things_happen_at_once(self, arrivals: list[tuple[list[int], Faults, int, bool]]) -> None:
        """The model computes while requests come, some to leave again: in whatever order the threads have it."""
        self.racing = True
        self.real.scorer.gate.set_open(wide=True)
        for sizes, faults, turns, leaves in arrivals:
            asked = self.start(sizes, faults)
            self.real.loop.turns(turns)
            if leaves and asked is not None and not asked.task.done():
                self.hang_up(asked)
        self.real.settle(racing=True)
        self.real.scorer.gate.set_open(wide=False)
        self.take_in()
        self.racing = False

    # Any rule is as likely as any other, and after the next three little can happen: hence the chances.

    @rule(sizes=SIZES, chance=st.integers(0, 9))
    def the_device_is_lost(self, sizes: list[int], chance: int) -> None:
        asked = self.start(sizes, [(FATAL, 0)]) if chance == 7 and self.refusal is None else None
        if asked is None:
            return
        self.real.settle()
        while self.real.batcher._thread.is_alive():
            self.real.scorer.gate.release()
            self.real.settle()
        self.take_in()
        self.refusal = Broken
        self.failures["fault"] += sum(len(one.inputs) for one in self.open())
        self.end(self.open(), Broken)

    @rule(chance=st.integers(0, 9))
    def a_drain_begins(self, chance: int) -> None:
        if chance == 7 and self.refusal is None:
            self.refusal = Draining
            self.stops_at = self.real.loop.now + 10 * SOON
            self.stopping = self.real.loop.create_task(self.real.batcher.stop(drain_seconds=10 * SOON))
            self.real.settle()

    @rule(chance=st.integers(0, 3))
    def the_drain_time_is_over(self, chance: int) -> None:
        if chance == 3 and self.stopping is not None and self.stops_at < math.inf:
            self.take_in()
            self.real.loop.now, self.stops_at = self.stops_at, math.inf
            self.end_late()
            self.end(self.open(), Draining)
            self.real.loop.turns()
            self.real.scorer.gate.set_open(wide=True)
            self.real.loop.run_until_complete(self.stopping)
            self.real.settle()

    # What must hold

    @invariant()
    def the_batcher_does_what_the_model_says(self) -> None:
        BatcherMachine.steps += 1
        self.real.rest()  # after a start, say, the thread may not yet have come to wait
        self.take_in()
        waiting = self.waiting()
        assert self.real.counted() == {
            "queue_sequences": len(waiting),
            "queue_tokens": count_tokens(waiting),
            "inputs_total": self.admitted,
            "cancelled_total": self.cancelled,
            **self.failures,
        }
        assert len(self.real.batcher._open) == len(self.open())
        if self.real.idle:
            assert not self.open(), "nobody works, and somebody waits, perhaps in line"
        assert (self.real.batcher.stalled_seconds > 0) == (not self.real.idle or self.refusal is Broken)
        for asked in self.asked:
            self.check_answer(asked)
        self.asked = self.open()

    def teardown(self) -> None:
        if not hasattr(self, "real"):
            return
        self.racing = True
        self.real.scorer.gate.set_open(wide=True)
        try:
            self.real.settle(racing=True)
            self.the_batcher_does_what_the_model_says()
            assert not self.asked, "everybody is answered in the end"
        finally:
            self.real.close()

    # The model

    def start(self, sizes: list[int], faults: Faults, seconds: float = math.inf, patience: float = 0.0) -> Asked | None:
        """Submits a request; None where it is refused, as it should be then."""
        self.take_in()
        number = 100 * (1 + len(self.owner))
        inputs = [Rendered(None, [number + i, *[7] * (min(size, self.largest) - 1)]) for i, size in enumerate(sizes)]
        for place, fault in {place % len(inputs): fault for fault, place in faults}.items():
            if fault != HUNGRY or self.scarce:
                inputs[place].token_ids.append(fault)
        deadline = self.real.loop.now + seconds
        refusal = self.refused(inputs)
        if refusal and not (refusal is Overloaded and patience):
            assert self.answer_now(inputs, deadline) is refusal
            return None
        task = self.submit(inputs, deadline, patience)
        self.real.loop.turns(1)
        if seconds == INSTANT and task.done():
            assert isinstance(task.exception(), Overloaded), "it would be late"
            return None
        ahead = math.inf if self.racing else sum(bool(one.waiting) for one in self.asked)
        patience += self.real.loop.now
        asked = Asked(inputs, deadline, patience, task, ahead, self.formed, in_line=refusal is not None)
        self.asked.append(asked)
        self.owner |= {number + i: (asked, i) for i in range(len(inputs))}
        self.admitted += 0 if asked.in_line else len(inputs)
        self.longest = max(self.longest, *(len(one.token_ids) for one in inputs), 0)
        return asked

    def submit(self, inputs: list[Rendered], deadline: float, patience: float = 0.0) -> asyncio.Task[Scored]:
        bound = None if deadline == math.inf else deadline
        return self.real.loop.create_task(self.real.batcher.submit(inputs, deadline=bound, patience=patience))

    def refused(self, inputs: Sequence[Rendered]) -> type[Exception] | None:
        """What a request is refused with, if it is: only where something waits can there be too much."""
        waiting = count_tokens(self.waiting()) + sum(count_tokens(one.inputs) for one in self.line())
        overloaded = Overloaded if inputs and waiting and waiting + count_tokens(inputs) > self.limit else None
        return self.refusal or overloaded

    def line(self) -> list[Asked]:
        return [asked for asked in self.open() if asked.in_line]

    def answer_now(self, inputs: list[Rendered], deadline: float = math.inf) -> object:
        """The answer of a request that should have one at once, or the kind of its error."""
        task = self.submit(inputs, deadline)
        self.real.loop.turns(2)
        error = task.exception()
        return task.result() if error is None else type(error)

    def open(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.end is None]

    def waiting(self) -> list[Rendered]:
        return [one for asked in self.asked for one in asked.waiting]

    def let_go(self) -> None:
        """Lets a batch end, if there is one; the event loop does not know of it yet."""
        if self.real.scorer.gate.holding:
            self.real.scorer.gate.release()
            self.real.rest()
            self.take_in()

    def hang_up(self, asked: Asked) -> None:
        assert asked.task.cancel()
        self.end([asked], asyncio.CancelledError)
        self.cancelled += 1

    def pass_time(self, seconds: float) -> None:
        self.real.loop.turns()
        self.take_in()
        if self.real.loop.now + seconds < self.stops_at:
            self.real.loop.now += seconds
            self.end_late()
        self.real.settle()

    def end_late(self) -> None:
        now = self.real.loop.now
        self.end([one for one in self.line() if one.patience <= now and one.patience < one.deadline], Overloaded)
        late = [one for one in self.open() if one.deadline <= now]
        self.failures["deadline"] += len(late)
        self.end(late, DeadlineExceeded)

    @staticmethod
    def end(requests: Sequence[Asked], how: type) -> None:
        for asked in requests:
            asked.end = how

    def take_in(self) -> None:
        """Looks at who was let in, at the batches that were formed, and at those whose results were handed out."""
        self.take_in_from_line()
        for batch in self.real.scorer.launches[self.formed :]:
            self.formed += 1
            assert len(batch) == 1 or count_tokens(batch) <= self.budget
            for one in batch:
                self.check_taken(one)
        for batch in self.real.batcher.delivered[self.delivered :]:
            self.delivered += 1
            for item, outcome in zip(batch.items, batch.outcomes, strict=True):
                self.take_in_outcome(item.rendered, outcome)

    def take_in_from_line(self) -> None:
        """Nobody in line is overtaken."""
        line = self.line()
        left = [request.inputs for request in self.real.batcher._admission._line]
        entered = [asked for asked in line if not any(asked.inputs is one for one in left)]
        assert entered == line[: len(entered)]
        for asked in entered:
            asked.in_line = False
            asked.ahead = math.inf  # how many waited then, nobody knows
            self.admitted += len(asked.inputs)

    def check_taken(self, one: Rendered) -> None:
        """An input may be taken once, in its turn, early enough, and only as long as somebody waits for it."""
        asked, index = self.owner[one.token_ids[0]]
        assert index == asked.taken
        assert asked.end is None or self.racing
        asked.taken += 1
        # After a shortage of memory batches are smaller for a while.
        if index == 0 and not self.scarce and self.longest <= max(1, self.budget // TURNS):
            assert self.formed - asked.formed <= 2 * asked.ahead + 1, "served later than promised"

    def take_in_outcome(self, one: Rendered, outcome: Outcome) -> None:
        asked, index = self.owner[one.token_ids[0]]
        failure, error = GUILTY.get(one.token_ids[-1], (None, None))
        assert outcome == (failure or self.real.scorer.score(one))
        if failure is not None:
            self.failures[failure.value] += 1
        if asked.end is None:
            asked.scored += failure is None
            asked.end = error or (Scored if asked.scored == len(asked.inputs) else None)
            asked.guilty = index

    def check_answer(self, asked: Asked) -> None:
        assert asked.task.done() == (asked.end is not None)
        if asked.end is asyncio.CancelledError:
            assert asked.task.cancelled()
        elif asked.end is Scored:
            assert asked.task.result().scores == [self.real.scorer.score(one) for one in asked.inputs]
            assert asked.task.result().computed_tokens == count_tokens(asked.inputs)
        elif asked.end is not None:
            error = asked.task.exception()
            assert type(error) is asked.end
            assert not isinstance(error, ComputeError) or error.index == asked.guilty


def test_the_batcher_does_what_its_model_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1)  # thousands of failures, each with its trace
    chosen = settings(
        max_examples=times(12, 600), stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    BatcherMachine.steps = 0
    run_state_machine_as_test(BatcherMachine, settings=chosen)
    print(f"{BatcherMachine.steps} steps")
    assert BatcherMachine.steps >= times(100, 10_000)
