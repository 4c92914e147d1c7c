"""The scorer thread's work: batches out of the backlog, through the model, and on to whoever wants their outcomes.

    take -> launch -> wait for the result -> done

A device that works by itself gets its next batch before the result of the one before is asked for, so that it never
waits for the host; what is ready is handed on first. A GPU has room for it at once, a CPU when the first of its lanes
is done. Elsewhere a launch returns with the result. Knows neither the event loop nor what becomes of outcomes.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.backlog import Backlog, Item, count_tokens
from service.budget import BatchBudget
from service.isolation import Failure, Launched, Outcome, launch_isolated, result_of, run_isolated
from service.metrics import Metrics
from service.scorer import Scorer
from service.speed import Speed

#: Batches that are launched and not handed on: the one that the device computes and the one that it does next.
IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """What came out of one batch.

    Attributes:
        items: its inputs.
        outcomes: one for each.
        started: time.monotonic() when the model began with it.
        seconds: that the model was busy with it and not with the one before.
    """

    items: list[Item]
    outcomes: list[Outcome]
    started: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch that has been launched, and the tokens that it might have had."""

    items: list[Item]
    inputs: list[Rendered]
    budget: int
    launched_at: float
    launched: Launched

    def done(self) -> bool:
        return isinstance(self.launched, Failure) or self.launched.done()

    def wait_for_room(self) -> None:
        if not isinstance(self.launched, Failure):
            self.launched.wait_for_room()


class Pipeline:
    """Keeps the model busy with what waits. `serve` is one thread's, `busy_since` and `computing` may be read by any.

    Args:
        scorer: the model; called by `serve` only.
        backlog: what waits.
        budget: of its batches; is told when memory runs out.
        metrics: is told of every batch.
        speed: is told of every batch.
        done: called with every batch, in the order of their launches but where one is searched for what failed.
    """

    def __init__(
        self,
        scorer: Scorer,
        backlog: Backlog,
        budget: BatchBudget,
        metrics: Metrics,
        speed: Speed,
        done: Callable[[Batch], None],
    ) -> None:
        self._scorer = scorer
        self._backlog = backlog
        self._budget = budget
        self._metrics = metrics
        self._speed = speed
        self._done = done
        self._flights: deque[_Flight] = deque()
        self._last_ended = 0.0
        #: time.monotonic() when the model began with what it is busy with; None when idle.
        self.busy_since: float | None = None
        #: Tokens of what it is busy with.
        self.computing = 0

    def serve(self) -> None:
        """Batch after batch, until the backlog is closed and what was launched is done.

        Raises:
            DeviceLost: nothing can be computed any more.
        """
        while self._step():
            pass

    def _step(self) -> bool:
        """Launches a batch or ends one; false once there will be none. Nothing of either is held while waiting on."""
        flights = self._flights
        if flights and len(flights) < IN_FLIGHT:
            flights[0].wait_for_room()
        if flights and (len(flights) == IN_FLIGHT or flights[0].done()):
            self._end(flights.popleft())
        elif items := self._backlog.take(wait=not flights):
            if flights and flights[0].done():
                # A launch may return with its result, and what is done does not wait for that.
                self._end(flights.popleft())
            flights.append(self._launch(items))
        elif flights:
            self._end(flights.popleft())
        else:
            return False
        return True

    def _launch(self, items: list[Item]) -> _Flight:
        inputs = [item.rendered for item in items]
        started = time.monotonic()
        if not self._flights:
            self.busy_since = started
        self.computing += count_tokens(inputs)
        launched = launch_isolated(self._scorer.launch, inputs)
        return _Flight(items, inputs, self._budget.tokens, started, launched)

    def _end(self, flight: _Flight) -> None:
        """Waits for the outcomes and hands them on."""
        result = result_of(flight.launched, flight.inputs)
        outcomes = run_isolated(self._run_again, flight.inputs, result)
        if result is Failure.OUT_OF_MEMORY and Failure.OUT_OF_MEMORY not in outcomes:
            # Its parts were computed, so it was too big. An input that is too big alone says nothing about batches.
            self._budget.ran_out(min(flight.budget, count_tokens(flight.inputs)))
        ended = time.monotonic()
        self.busy_since = ended if self._flights else None
        # A batch that was launched early counts from the end of the one before it: each second once, for `Speed`.
        started = min(ended, max(flight.launched_at, self._last_ended))
        self._last_ended = ended
        self.computing -= count_tokens(flight.inputs)
        self._observe(flight.inputs, outcomes, ended - started)
        self._done(Batch(flight.items, outcomes, started, ended - started))

    def _run_again(self, inputs: Sequence[Rendered]) -> list[Score]:
        """Runs a part of a batch that failed; what is on the device already comes first there, so here too."""
        while self._flights:
            self._end(self._flights.popleft())
        # Each run by its own clock: a search for a guilty input is no model that hangs.
        self.busy_since = time.monotonic()
        return self._scorer.run(inputs)

    def _observe(self, inputs: Sequence[Rendered], outcomes: Sequence[Outcome], seconds: float) -> None:
        reused = [one.reused_tokens if isinstance(one, Score) else 0 for one in outcomes]
        computed = [one for one, tokens in zip(inputs, reused, strict=True) if tokens < len(one.token_ids)]
        tokens = count_tokens(inputs)
        self._speed.add(tokens, seconds)
        self._metrics.observe_batch(len(inputs), tokens - sum(reused), self._scorer.padding(computed))
