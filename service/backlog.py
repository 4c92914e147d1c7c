"""What waits for the model: requests in their order, handed out as batches of a limited number of tokens.

Filled from the event loop, emptied from the scorer thread. Knows neither the model nor why a request ends.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.errors import ComputeError
from service.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Scored:
    """The answer to one submission.

    Attributes:
        scores: one per input, in order.
        computed_tokens: what the inputs added to their batches.
        queue_seconds: until the first of them was taken into a batch.
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
    """

    inputs: Sequence[Rendered]
    answer: asyncio.Future[Scored]
    expires: float
    submitted: float = field(default_factory=time.monotonic)
    taken: int = 0
    _scores: dict[int, Score] = field(default_factory=dict)
    _queue_seconds: float | None = None
    _forward_seconds: float = 0.0

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
            computed_tokens=count_tokens([one for i, one in enumerate(self.inputs) if not self._scores[i].shared]),
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
    """A first-in-first-out queue of inputs that counts tokens.

    Args:
        metrics: is told what waits.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._changed = threading.Condition()
        # Ordered, and any request can leave at once: an abandoned one does not hold memory until its turn.
        self._requests: OrderedDict[Request, None] = OrderedDict()
        self._sequences = 0
        self._tokens = 0
        self._closed = False

    @property
    def tokens(self) -> int:
        """Tokens that wait."""
        return self._tokens

    def add(self, request: Request) -> None:
        """Puts `request` at the end."""
        with self._changed:
            self._requests[request] = None
            self._count(len(request.inputs), count_tokens(request.inputs))
            self._changed.notify()

    def discard(self, request: Request) -> None:
        """Removes what is left of `request`, if anything is."""
        with self._changed:
            self._remove(request)

    def take(self, budget: int) -> list[Item]:
        """Waits until there is work, then takes the next batch.

        Args:
            budget: tokens of a batch; one input alone may have more.

        Returns:
            One or more items; none once the backlog is closed.
        """
        with self._changed:
            while not self._closed:
                if batch := self._next_batch(budget):
                    return batch
                self._changed.wait()
            return []

    def close(self) -> None:
        """Hands out nothing any more and lets the taker go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next_batch(self, budget: int) -> list[Item]:
        batch: list[Item] = []
        room = budget
        now = time.monotonic()
        while self._requests:
            request = next(iter(self._requests))
            if request.expires <= now:
                # Its timer on the event loop answers it.
                self._remove(request)
                continue
            room = self._take_from(request, batch, room)
            if request.taken < len(request.inputs):
                break
            del self._requests[request]
        self._count(-len(batch), -sum(len(item.rendered.token_ids) for item in batch))
        return batch

    @staticmethod
    def _take_from(request: Request, batch: list[Item], room: int) -> int:
        """Moves inputs of `request` to `batch` while there is room; returns the room that is left."""
        while request.taken < len(request.inputs):
            size = len(request.inputs[request.taken].token_ids)
            if batch and size > room:
                break
            batch.append(Item(request, request.taken))
            request.taken += 1
            room -= size
        return room

    def _remove(self, request: Request) -> None:
        if request not in self._requests:
            return
        del self._requests[request]
        waiting = request.inputs[request.taken :]
        self._count(-len(waiting), -count_tokens(waiting))

    def _count(self, sequences: int, tokens: int) -> None:
        self._sequences += sequences
        self._tokens += tokens
        self._metrics.observe_queue(self._sequences, self._tokens)


def count_tokens(inputs: Sequence[Rendered]) -> int:
    """Tokens of all `inputs` together."""
    return sum(len(one.token_ids) for one in inputs)
