"""From many requests to few batches and back: admission, deadlines, the scorer thread, drain.

    1. `submit` (event loop) admits a request, or refuses it, and adds it to the backlog.
    2. The scorer thread (`pipeline`) takes the next batch the moment the model has room for it: of whatever waits,
       from every request its share, up to a budget of tokens. There is no timer.
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
from functools import partial

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.admission import Admission
from service.backlog import Backlog, Request, Scored
from service.budget import BatchBudget
from service.errors import (
    Broken,
    CannotCompute,
    ComputeError,
    DeadlineExceeded,
    Draining,
    NonFiniteScore,
    ServiceError,
)
from service.isolation import Failure, Outcome
from service.metrics import Metrics
from service.pipeline import Batch, Pipeline
from service.scorer import Scorer
from service.speed import Speed

__all__ = ["Batcher", "Scored"]

#: Seconds that a running batch gets to end when the service stops; its results are of no use any more.
JOIN_SECONDS = 5.0

log = logging.getLogger(__name__)


class Batcher:
    """Shares one model among all requests. Its methods belong to the event loop it was started on.

    Args:
        scorer: the model; run in one thread only.
        metrics: where to count.
        max_batch_tokens: tokens to compute in one batch; one input alone may have more.
        max_queue_tokens: tokens that may wait; a request alone in the queue may have more.
        on_broken: called once if the model is lost, after everybody who waited has been told.
    """

    def __init__(
        self,
        scorer: Scorer,
        metrics: Metrics,
        *,
        max_batch_tokens: int,
        max_queue_tokens: int,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._metrics = metrics
        self._on_broken = on_broken
        budget = BatchBudget(max_batch_tokens, metrics)
        self._backlog = Backlog(metrics, budget=budget, meter=scorer.meter)
        speed = Speed()
        self._pipeline = Pipeline(scorer, self._backlog, budget, metrics, speed, self._hand_over_batch)
        self._admission = Admission(self._backlog, speed, lambda: self._pipeline.computing, metrics, max_queue_tokens)
        self._thread = threading.Thread(target=self._serve, name="scorer", daemon=True)
        self._open: set[Request] = set()
        self._refusal: type[Draining | Broken] | None = None

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
        since = self._pipeline.busy_since
        return 0.0 if since is None else time.monotonic() - since

    def check(self, deadline: float) -> None:
        """Raises Overloaded where not a single token would be let in; asked before anything is parsed for it.

        Args:
            deadline: as in `submit`.
        """
        if refusal := self._admission.refusal(1, time.monotonic() + deadline - self._loop.time()):
            raise refusal

    async def submit(
        self, inputs: Sequence[Rendered], *, deadline: float | None = None, patience: float = 0.0
    ) -> Scored:
        """Scores `inputs`, all or none.

        Args:
            inputs: in any number; a request larger than a batch spans several.
            deadline: loop.time() after which the answer is of no use.
            patience: seconds for which it may wait in line until it is let in, for callers that could not be told to
                try again; default: it is let in or refused at once.

        Raises:
            Overloaded: too much waits already, for the queue or for the deadline; says when to try again.
            Draining: the batcher is being stopped.
            Broken: the model is lost.
            DeadlineExceeded: the deadline has passed; what had not reached the model never will.
            NonFiniteScore, CannotCompute: of the first guilty input.
        """
        now = self._loop.time()
        if deadline is not None and deadline <= now:
            self._metrics.observe_failure("deadline")
            raise DeadlineExceeded
        if self._refusal is not None:
            raise self._refusal
        if not inputs:
            return Scored([], 0, 0.0, 0.0)
        # The scorer thread may not ask the loop for its time, so the deadline moves to a clock of its own.
        expires = math.inf if deadline is None else time.monotonic() + deadline - now
        request = Request(inputs, self._loop.create_future(), expires)
        self._admission.enter(request, patience=patience)
        timer = None if deadline is None else self._loop.call_at(deadline, _fail, request, DeadlineExceeded)
        self._open.add(request)
        self._idle.clear()
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

    def _leave(self, request: Request) -> None:
        self._admission.leave(request)
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
            self._pipeline.serve()
        except Exception:  # whatever it was: without this thread every request would wait forever
            log.critical("the scorer thread has ended: the process must be restarted", exc_info=True)
            self._hand_over(self._break)

    def _hand_over_batch(self, batch: Batch) -> None:
        self._hand_over(partial(self._deliver, batch))

    def _hand_over(self, callback: Callable[[], None]) -> None:
        """Has the event loop call `callback`, if there still is a loop."""
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            log.info("the event loop has ended before the scorer thread")

    def _deliver(self, batch: Batch) -> None:
        for request in {item.request for item in batch.items}:
            request.batch_ended(batch.started, batch.seconds)
        for item, outcome in zip(batch.items, batch.outcomes, strict=True):
            item.request.resolve(item.index, self._told(item.index, outcome))
        self._admission.advance()

    def _told(self, index: int, outcome: Outcome) -> Score | ComputeError:
        """What the caller is told of an outcome."""
        if isinstance(outcome, Score):
            return outcome
        self._metrics.observe_failure(outcome.value)
        return NonFiniteScore(index) if outcome is Failure.NON_FINITE else CannotCompute(index)

    def _break(self) -> None:
        self._refusal = Broken
        # One that has just been answered is open until its task goes on.
        left = [request for request in self._open if not request.answer.done()]
        self._metrics.observe_failure("fault", sum(len(request.inputs) for request in left))
        self._backlog.close()
        self._fail_open(Broken)
        self._on_broken()


def _fail(request: Request, kind: type[ServiceError]) -> None:
    if not request.answer.done():
        request.answer.set_exception(kind())
