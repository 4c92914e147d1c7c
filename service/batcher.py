"""From many requests to few batches and back: admission, deadlines, the scorer thread, drain.

    1. `submit` (event loop) admits a request, or refuses it, and adds it to the backlog.
    2. The scorer thread takes the next batch the moment the model is free: whatever waits, up to a budget of
       tokens. There is no timer, and what is taken is decided as late as possible.
    3. It runs the batch; an input that cannot be computed fails alone.
    4. The results go back to the event loop in one hand-over, each to its place in its request.

Knows neither HTTP nor tensors.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.backlog import Backlog, Item, Request, Scored, count_tokens
from service.errors import (
    Broken,
    CannotCompute,
    ComputeError,
    DeadlineExceeded,
    Draining,
    NonFiniteScore,
    Overloaded,
    ServiceError,
)
from service.isolation import Failure, Outcome, run_isolated
from service.metrics import Metrics
from service.scorer import Scorer

__all__ = ["Batcher", "Scored"]

#: Seconds that a running batch gets to end when the service stops; its results are of no use any more.
JOIN_SECONDS = 5.0
#: Longest that a caller is told to stay away.
MAX_RETRY_AFTER = 60
#: Weight of the past against one more batch in the estimate of tokens a second.
MEMORY = 0.9

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What came out of one run of the model."""

    items: list[Item]
    outcomes: list[Outcome]
    started: float
    seconds: float


class Batcher:
    """Shares one model among all requests. Its methods belong to the event loop it was started on.

    Args:
        scorer: the model; run in one thread only.
        metrics: where to count.
        max_batch_tokens: tokens of one batch; one input alone may have more.
        max_queue_tokens: tokens that may wait; a request alone in the queue may have more.
    """

    def __init__(self, scorer: Scorer, metrics: Metrics, *, max_batch_tokens: int, max_queue_tokens: int) -> None:
        self._scorer = scorer
        self._metrics = metrics
        self._max_batch_tokens = max_batch_tokens
        self._max_queue_tokens = max_queue_tokens
        self._backlog = Backlog(metrics)
        self._speed = _Speed()
        self._thread = threading.Thread(target=self._serve, name="scorer", daemon=True)
        self._open: set[Request] = set()
        self._refusal: type[Draining | Broken] | None = None
        self._running_since: float | None = None

    def start(self) -> None:
        """Starts the scorer thread; called once, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread.start()

    @property
    def stalled_seconds(self) -> float:
        """How long the model has been busy with one run: 0 when idle, infinite when it is lost."""
        if self._refusal is Broken:
            return math.inf
        since = self._running_since
        return 0.0 if since is None else time.monotonic() - since

    async def submit(self, inputs: Sequence[Rendered], *, deadline: float | None = None) -> Scored:
        """Scores `inputs`, all or none.

        Args:
            inputs: in any number; a request larger than a batch spans several.
            deadline: loop.time() after which the answer is of no use.

        Raises:
            Overloaded: too much waits already; says when to try again.
            Draining: the batcher is being stopped.
            Broken: the model is lost.
            DeadlineExceeded: the deadline has passed; what had not reached the model never will.
            NonFiniteScore, CannotCompute: of the first guilty input.
        """
        now = self._loop.time()
        if deadline is not None and deadline <= now:
            self._metrics.observe_failure("deadline")
            raise DeadlineExceeded
        self._admit(inputs)
        if not inputs:
            return Scored([], 0, 0.0, 0.0)
        # The scorer thread may not ask the loop for its time, so the deadline moves to a clock of its own.
        expires = math.inf if deadline is None else time.monotonic() + deadline - now
        request = Request(inputs, self._loop.create_future(), expires)
        timer = None if deadline is None else self._loop.call_at(deadline, _fail, request, DeadlineExceeded)
        self._enter(request)
        try:
            scored = await request.answer
        except (DeadlineExceeded, asyncio.CancelledError) as error:
            self._observe_end(error, deadline)
            raise
        finally:
            self._leave(request)
            if timer is not None:
                timer.cancel()
        values = [score.value for score in scored.scores]
        self._metrics.observe_scored(values, scored.queue_seconds, scored.forward_seconds)
        return scored

    async def stop(self, *, drain_seconds: float) -> None:
        """Admits nothing new, goes on for up to `drain_seconds`, fails what is left then, ends the thread."""
        self._refusal = self._refusal or Draining
        try:
            async with asyncio.timeout(drain_seconds):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d requests were not done within the drain time", len(self._open))
        # The backlog first: nothing may be taken from it for requests that have failed.
        self._backlog.close()
        self._fail_open(Draining)
        await asyncio.to_thread(self._thread.join, JOIN_SECONDS)
        if self._thread.is_alive():
            log.error("the model is still busy after %.0f s and is left behind", JOIN_SECONDS)

    def _admit(self, inputs: Sequence[Rendered]) -> None:
        """Counts a request in, or raises why it stays out."""
        if self._refusal is not None:
            raise self._refusal
        tokens = count_tokens(inputs)
        waiting = self._backlog.tokens
        excess = min(waiting, waiting + tokens - self._max_queue_tokens)
        # Alone in the queue a request of any size is let in, or it could never be.
        if excess > 0:
            raise Overloaded(retry_after=self._speed.seconds_for(excess))
        self._metrics.observe_admitted(len(inputs), tokens)

    def _enter(self, request: Request) -> None:
        self._open.add(request)
        self._idle.clear()
        self._backlog.add(request)

    def _leave(self, request: Request) -> None:
        self._backlog.discard(request)
        self._open.discard(request)
        if not self._open:
            self._idle.set()
        if request.answer.done() and not request.answer.cancelled():
            # A caller cancelled just as the answer failed never looks at it, which asyncio would report.
            request.answer.exception()

    def _observe_end(self, error: BaseException, deadline: float | None) -> None:
        # The caller may run a timer on the same deadline, which then ends the request by cancelling it.
        late = deadline is not None and self._loop.time() >= deadline
        if late or isinstance(error, DeadlineExceeded):
            self._metrics.observe_failure("deadline")
        else:
            self._metrics.observe_cancelled()

    def _fail_open(self, kind: type[ServiceError]) -> None:
        for request in self._open:
            _fail(request, kind)

    def _serve(self) -> None:
        """The scorer thread: batch after batch until the backlog is closed."""
        try:
            while self._serve_next():
                pass
        except Exception:  # whatever it was: without this thread every request would wait forever
            log.critical("the scorer thread has ended: the process must be restarted", exc_info=True)
            self._hand_over(self._break)

    def _serve_next(self) -> bool:
        """Waits for a batch and runs it; false once there will be none. Nothing of it is held while waiting on."""
        items = self._backlog.take(self._max_batch_tokens)
        if items:
            self._hand_over(partial(self._deliver, self._run(items)))
        return bool(items)

    def _hand_over(self, callback: Callable[[], None]) -> None:
        """Has the event loop call `callback`, if there still is a loop."""
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            log.info("the event loop has ended before the scorer thread")

    def _run(self, items: list[Item]) -> _Batch:
        inputs = [item.rendered for item in items]
        tokens = count_tokens(inputs)
        started = time.monotonic()
        outcomes = run_isolated(self._forward, inputs)
        seconds = time.monotonic() - started
        self._speed.add(tokens, seconds)
        computed = [one for one, outcome in zip(inputs, outcomes, strict=True) if not _shared(outcome)]
        self._metrics.observe_batch(len(items), count_tokens(computed), self._scorer.padding(computed))
        return _Batch(items, outcomes, started, seconds)

    def _forward(self, inputs: Sequence[Rendered]) -> list[Score]:
        """One run of the model, by the clock."""
        self._running_since = time.monotonic()
        try:
            return self._scorer.run(inputs)
        finally:
            self._running_since = None

    def _deliver(self, batch: _Batch) -> None:
        for request in {item.request for item in batch.items}:
            request.batch_ended(batch.started, batch.seconds)
        for item, outcome in zip(batch.items, batch.outcomes, strict=True):
            item.request.resolve(item.index, self._told(item.index, outcome))

    def _told(self, index: int, outcome: Outcome) -> Score | ComputeError:
        """What the caller is told of an outcome."""
        if isinstance(outcome, Score):
            return outcome
        self._metrics.observe_failure(outcome.value)
        return NonFiniteScore(index) if outcome is Failure.NON_FINITE else CannotCompute(index)

    def _break(self) -> None:
        self._refusal = Broken
        self._metrics.observe_failure("fault", sum(len(request.inputs) for request in self._open))
        self._backlog.close()
        self._fail_open(Broken)


class _Speed:
    """Estimate of tokens a second; recent batches weigh most. Written by one thread, read by another."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0
        self._estimate: float | None = None

    def add(self, tokens: int, seconds: float) -> None:
        """Takes in one batch."""
        self._tokens = MEMORY * self._tokens + tokens
        self._seconds = MEMORY * self._seconds + seconds
        self._estimate = self._tokens / max(self._seconds, 1e-9)

    def seconds_for(self, tokens: int) -> int:
        """How long `tokens` take, in whole seconds; at least one, also where nothing is known yet."""
        if self._estimate is None:
            return 1
        return max(1, min(MAX_RETRY_AFTER, math.ceil(tokens / self._estimate)))


def _fail(request: Request, kind: type[ServiceError]) -> None:
    if not request.answer.done():
        request.answer.set_exception(kind())


def _shared(outcome: Outcome) -> bool:
    return isinstance(outcome, Score) and outcome.shared
