"""Who is let into the backlog, who is refused, and who waits in line for it.

What waits is bounded in tokens, and in time: a request that could not be done by its deadline is refused at once,
while its caller can still go elsewhere, and the model does nothing in vain. Knows what waits and how fast it goes,
not what is waiting.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from service.backlog import Backlog, Request
from service.errors import Overloaded
from service.metrics import Metrics
from service.speed import Speed

#: Requests that stand in line at most; their inputs are in memory already.
LINE = 256
#: Of the time until a deadline, what the work in front may take: the rest is for what the estimate does not know.
SHARE = 0.8


class Admission:
    """The door of the backlog. Used from the event loop only.

    Args:
        backlog: what is behind it.
        speed: of the model.
        computing: tokens that the model is busy with now.
        metrics: is told of what is let in.
        max_queue_tokens: that may wait; a request alone in the queue may have more.
    """

    def __init__(
        self, backlog: Backlog, speed: Speed, computing: Callable[[], int], metrics: Metrics, max_queue_tokens: int
    ) -> None:
        self._backlog = backlog
        self._speed = speed
        self._computing = computing
        self._metrics = metrics
        self._max_queue_tokens = max_queue_tokens
        self._line: OrderedDict[Request, asyncio.TimerHandle] = OrderedDict()

    def refusal(self, tokens: int, expires: float) -> Overloaded | None:
        """Why so many tokens cannot be let in, with the time after which they could; None: they can.

        Args:
            tokens: of a new request.
            expires: time.monotonic() from which on nobody wants its answer.
        """
        return self._refusal(tokens, expires, sum(one.left for one in self._line))

    def enter(self, request: Request, *, patience: float = 0.0) -> None:
        """Lets `request` in, now or within `patience` seconds; when these are over, its answer is Overloaded.

        Nobody in line is overtaken by what would not have fitted beside them.

        Raises:
            Overloaded: it does not fit in, and there is no patience or no room in the line.
        """
        refusal = self.refusal(request.left, request.expires)
        if refusal is None:
            self._admit(request)
        elif patience > 0 and len(self._line) < LINE:
            self._line[request] = asyncio.get_running_loop().call_later(patience, self._lose_patience, request)
        else:
            raise refusal

    def leave(self, request: Request) -> None:
        """Takes out whatever is left of `request`, in line or behind the door."""
        if timer := self._line.pop(request, None):
            timer.cancel()
        self._backlog.discard(request)
        self.advance()

    def advance(self) -> None:
        """Lets in, one after the other, those in line that fit now; called when something has been done."""
        while self._line:
            request = next(iter(self._line))
            if not request.answer.done() and self._refusal(request.left, request.expires, 0) is not None:
                return
            self._line.pop(request).cancel()
            if not request.answer.done():
                self._admit(request)

    def _admit(self, request: Request) -> None:
        self._metrics.observe_admitted(len(request.inputs), request.left)
        self._backlog.add(request)

    def _lose_patience(self, request: Request) -> None:
        refusal = self._refusal(request.left, request.expires, 0) or Overloaded()
        if not request.answer.done():
            request.answer.set_exception(refusal)

    def _refusal(self, tokens: int, expires: float, in_line: int) -> Overloaded | None:
        waiting = self._backlog.tokens + in_line
        excess = max(waiting + tokens - self._max_queue_tokens, self._late(tokens, expires, waiting))
        # Alone in the queue a request of any size and any deadline is let in, or it could never be.
        excess = min(waiting, excess)
        return Overloaded(retry_after=self._speed.seconds_for(excess)) if excess > 0 else None

    def _late(self, tokens: int, expires: float, waiting: int) -> int:
        """Tokens too many in front of new ones for their deadline; 0 or less if it will be kept."""
        able = SHARE * self._speed.tokens_in(expires - time.monotonic())
        # What comes behind it and shares its last batch has to be computed before it is answered.
        behind = min(waiting, self._backlog.budget)
        rest = self._computing() + tokens + behind
        if waiting + rest <= able:
            return 0
        # Not all that waits comes first, as requests take turns; to find that out takes a look at each of them.
        return math.ceil(min(waiting, self._backlog.ahead(tokens)) + rest - able)
