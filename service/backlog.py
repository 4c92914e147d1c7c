"""What waits for the model, handed out as batches of a limited number of tokens, to every request its share.

Filled from the event loop, emptied from the scorer thread. Knows neither the model nor why a request ends.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reward_model.meter import Meter
from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.budget import BatchBudget
from service.errors import ComputeError
from service.metrics import Metrics

#: Turns that fill a batch: fewer share more of the prefixes within a request, more let short requests in sooner.
TURNS = 2


@dataclass(frozen=True, slots=True)
class Scored:
    """The answer to one submission.

    Attributes:
        scores: one per input, in order.
        computed_tokens: what the inputs added to their batches.
        queue_seconds: until the model began with the first of them.
        forward_seconds: of all batches that they were part of.
    """

    scores: list[Score]
    computed_tokens: int
    queue_seconds: float
    forward_seconds: float


@dataclass(eq=False, slots=True)
class Request:
    """Inputs that are answered together; each result goes to the place of its input and nowhere else.

    Attributes:
        inputs: one or more.
        answer: done when all inputs have a score or one failed, or when caller or deadline ended it.
        expires: time.monotonic() from which on nobody wants the answer.
        taken: how many inputs have left the backlog; the backlog's own.
        left: tokens of the others; the backlog's own.
        credit: tokens that it may still add to batches in its turn; the backlog's own.
    """

    inputs: Sequence[Rendered]
    answer: asyncio.Future[Scored]
    expires: float
    submitted: float = field(default_factory=time.monotonic)
    taken: int = 0
    left: int = field(init=False)
    credit: int = 0
    _scores: dict[int, Score] = field(default_factory=dict)
    _queue_seconds: float | None = None
    _forward_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Counts once what is asked for again and again."""
        self.left = count_tokens(self.inputs)

    def batch_ended(self, started: float, seconds: float) -> None:
        """Notes a batch that some of the inputs were part of; called before their `resolve`."""
        if self._queue_seconds is None:
            self._queue_seconds = started - self.submitted
        self._forward_seconds += seconds

    def resolve(self, index: int, outcome: Score | ComputeError) -> None:
        """Takes in what became of input `index`; an answer that is done already stays as it is."""
        if self.answer.done():
            return
        if isinstance(outcome, ComputeError):
            self.answer.set_exception(outcome)
            return
        self._scores[index] = outcome
        if len(self._scores) == len(self.inputs):
            self.answer.set_result(self._scored())

    def _scored(self) -> Scored:
        assert self._queue_seconds is not None
        return Scored(
            scores=[self._scores[index] for index in range(len(self.inputs))],
            computed_tokens=count_tokens(self.inputs) - sum(score.reused_tokens for score in self._scores.values()),
            queue_seconds=self._queue_seconds,
            forward_seconds=self._forward_seconds,
        )


@dataclass(frozen=True, slots=True)
class Item:
    """One input of one request, on its way through the model."""

    request: Request
    index: int

    @property
    def rendered(self) -> Rendered:
        """The input itself."""
        return self.request.inputs[self.index]


class Backlog:
    """What waits, by request; fair between requests by deficit round robin.

    The requests take turns. In its turn a request may add a quantum of tokens to batches, half a batch, and what it
    has saved of earlier turns; so a large one is spread over batches, and an input longer than a quantum is saved up
    for. Batches are cut from this order wherever they are full. What an input costs is what it adds to its batch:
    nothing where it is identical to one before, and only the rest where a prefix is shared.

    So in each round every other request adds at most a quantum and what it had saved, which is less than its longest
    input. An input is taken in round ceil(t / quantum) at the latest, t being the tokens of its request up to and with
    it: a short request waits for one round, whatever the others hold, and a long input for as many as it has quanta,
    whatever arrives meanwhile. Counted in batches: where no input is longer than a quantum, a request that comes after
    n others is first served in batch 2n + 1 or before. Shreedhar & Varghese 1995, "Efficient fair queueing using
    deficit round robin".

    Args:
        metrics: is told what waits.
        budget: of tokens that inputs add to one batch; one input alone may have more.
        meter: makes what counts them, for each batch.
    """

    def __init__(self, metrics: Metrics, *, budget: BatchBudget, meter: Callable[[], Meter]) -> None:
        self._metrics = metrics
        self._budget = budget
        self._meter = meter
        self._changed = threading.Condition()
        # The first has its turn. Any can leave at once: an abandoned one does not hold memory until then.
        self._requests: OrderedDict[Request, None] = OrderedDict()
        self._sequences = 0
        self._tokens = 0
        self._closed = False

    @property
    def budget(self) -> int:
        """Tokens that inputs add to one batch."""
        return self._budget.tokens

    @property
    def _quantum(self) -> int:
        return max(1, self.budget // TURNS)

    @property
    def tokens(self) -> int:
        """Tokens that wait."""
        return self._tokens

    def add(self, request: Request) -> None:
        """Puts `request` at the end."""
        with self._changed:
            request.credit = self._quantum
            self._requests[request] = None
            self._count(len(request.inputs), request.left)
            self._changed.notify()

    def ahead(self, tokens: int) -> int:
        """How many of the tokens that wait come before the last of a new request of `tokens`, at most."""
        quantum = self._quantum
        later = quantum * ((tokens - 1) // quantum)
        with self._changed:
            return sum(min(one.left, one.credit + later) for one in self._requests)

    def discard(self, request: Request) -> None:
        """Removes what is left of `request`, if anything is."""
        with self._changed:
            self._remove(request)

    def take(self, *, wait: bool = True) -> list[Item]:
        """Takes the next batch.

        Args:
            wait: until there is one.

        Returns:
            Its items; none where nothing waits, and none once the backlog is closed.
        """
        with self._changed:
            while not self._closed:
                batch = self._next_batch()
                if batch or not wait:
                    return batch
                self._changed.wait()
            return []

    def close(self) -> None:
        """Hands out nothing any more and lets the taker go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next_batch(self) -> list[Item]:
        batch: list[Item] = []
        self._budget.recover()
        meter, room = self._meter(), self.budget
        #: What the next input of a request would add to this batch, where it was too much for a turn.
        costs: dict[Request, int] = {}
        now = time.monotonic()
        while self._requests:
            request = next(iter(self._requests))
            if request.expires <= now:
                # Its timer on the event loop answers it.
                self._remove(request)
                continue
            if costs.get(request, 0) > request.credit:
                self._pass(request)
                continue
            limit = min(request.credit, room) if batch else request.credit
            item = Item(request, request.taken)
            added = meter.add(item.rendered, limit)
            if added <= limit:
                batch.append(item)
                room -= added
                self._taken(request, added)
                costs.clear()
            elif added > request.credit:
                costs[request] = added
                self._pass(request)
            else:
                break
        self._count(-len(batch), -sum(len(item.rendered.token_ids) for item in batch))
        return batch

    def _pass(self, request: Request) -> None:
        """Ends the turn of `request`, which saves up for its next input."""
        request.credit += self._quantum
        self._requests.move_to_end(request)

    def _taken(self, request: Request, added: int) -> None:
        """Notes that the next input of `request` is in a batch."""
        request.left -= len(request.inputs[request.taken].token_ids)
        request.taken += 1
        request.credit -= added
        if request.taken == len(request.inputs):
            del self._requests[request]

    def _remove(self, request: Request) -> None:
        if request not in self._requests:
            return
        del self._requests[request]
        self._count(request.taken - len(request.inputs), -request.left)

    def _count(self, sequences: int, tokens: int) -> None:
        self._sequences += sequences
        self._tokens += tokens
        self._metrics.observe_queue(self._sequences, self._tokens)


def count_tokens(inputs: Sequence[Rendered]) -> int:
    """Tokens of all `inputs` together."""
    return sum(len(one.token_ids) for one in inputs)
