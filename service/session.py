"""One request that does work: let in, read, tokenised, scored; ended early by its deadline or a hang-up.

What all scoring routes share, native or foreign. Knows no route's shapes.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Self, TypeVar

from starlette.requests import Request

from reward_model.errors import SpecialTokenInContent, TooLong
from reward_model.records import Prompt, Record
from reward_model.rendering import Rendered
from service import body, characters
from service.batcher import Scored
from service.errors import ComputeError, DeadlineExceeded, Draining, InvalidRequest, TooLarge
from service.places import LocatedError, Place, as_input, as_response
from service.runtime import Engine, Runtime
from service.schemas import SECONDS, Body
from service.structure import MAX_REQUEST_TOKENS
from service.tokenization import ItemError
from service.trace import Trace

Model = TypeVar("Model", bound=Body)
Item = TypeVar("Item")
#: A prompt and the responses to it.
Group = tuple[Prompt, Sequence[str]]

#: What is answered sooner is not watched for a hang-up: that would be a tenth of all that a small request costs.
PATIENCE_SECONDS = 0.05
#: float() would take "1_0" for ten, and "infinity" for a number.
_SECONDS = re.compile(SECONDS)


def _timeout(request: Request, longest: float) -> float:
    if "x-request-timeout" not in request.headers:
        return longest
    sent = request.headers.getlist("x-request-timeout")
    if len(sent) > 1:
        raise InvalidRequest([("X-Request-Timeout", "must be sent once")])
    if not _SECONDS.fullmatch(sent[0]):
        raise InvalidRequest([("X-Request-Timeout", "must be a positive number of seconds, such as 1.5")])
    return min(float(sent[0]), longest)


class Session:
    """The work of one request: `async with Session(request) as work` lets it in and bounds it.

    Attributes:
        engine: what does it.
        trace: what is noted down about it.

    Raises:
        Loading, Draining: it is not let in.
        InvalidRequest: its deadline makes no sense.
        DeadlineExceeded: its deadline has passed.
        ClientGone: the client hung up.
    """

    def __init__(self, request: Request) -> None:
        runtime = request.app.state.runtime
        assert isinstance(runtime, Runtime)
        self.engine: Engine = runtime.engine()
        self.trace = Trace.of(request.scope)
        self._request = request
        self._runtime = runtime
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + _timeout(request, runtime.settings.timeout_seconds)
        self._held = 0
        self._watcher: asyncio.Task[None] | None = None
        self._ended: type[Exception] | None = None
        self._submitted = False

    async def __aenter__(self) -> Self:
        """Lets the request in. From here on it ends when its deadline passes, from `read` on when the client hangs up.

        Written out, not put together from asyncio.timeout and generators: each of them costs as much as validation.
        """
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._admission = self._runtime.lifecycle.request(partial(self._end, Draining))
        self._admission.__enter__()
        self._timer = self._loop.call_at(self._deadline, self._end, DeadlineExceeded)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Lets go of what the request held."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        self._runtime.bodies.give_back(self._held)
        self._admission.__exit__(None, None, None)
        # Somebody else may have cancelled us as well, the server at its end: then that goes on.
        if self._ended is not None and self._task.uncancel() == 0 and isinstance(error, asyncio.CancelledError):
            if self._ended is DeadlineExceeded and not self._submitted:
                self._runtime.metrics.observe_failure("deadline")  # after that, the batcher has counted it
            raise self._ended from None

    def _end(self, why: type[Exception]) -> None:
        """Ends what is inside, once: `__aexit__` raises `why`."""
        if self._ended is None:
            self._ended = why
            self._task.cancel()

    def observe_margins(self, margins: Sequence[float]) -> None:
        """Counts what comparisons came to: best reward minus runner-up's, one for each."""
        self._runtime.metrics.observe_margins(margins)

    async def read(self, model: type[Model], *, to_score: bool = True) -> Model:
        """The request's body; from here on a hang-up ends the work.

        Args:
            model: what it must be.
            to_score: what it holds will be scored, without waiting in line: where no score could be had, it is
                refused before it is looked at.

        Raises:
            Overloaded: there is too much waiting already.
        """
        settings = self._runtime.settings
        body.check_headers(self._request.headers, settings.max_body_bytes)
        raw = await body.read(self._request.receive, settings.max_body_bytes, self._take)
        self._timer.cancel()
        patience = self._loop.time() + PATIENCE_SECONDS
        self._timer = self._loop.call_at(min(patience, self._deadline), self._begin_to_watch)
        if to_score:
            self.engine.batcher.check(self._deadline)
        if len(raw) <= body.INLINE_BYTES:
            return body.parse(model, raw, settings.max_inputs)
        return await self._runtime.tokenizers.call(lambda: body.parse(model, raw, settings.max_inputs))

    async def render(
        self, records: Sequence[Record], *, truncate: bool, locate: Callable[[int], Place] = as_input
    ) -> list[Rendered]:
        """Tokenises `records`.

        Raises:
            LocatedError: one cannot be, or is longer than any that makes sense.
            TooLarge: they have more tokens than one request may.
        """
        characters.check(map(characters.of_record, records), self.engine.scorer.info.max_length, locate)
        render = self.engine.scorer.render
        try:
            return await self._tokenize(lambda record: [render(record, truncate=truncate)], records)
        except ItemError as failed:
            raise LocatedError(failed.error, locate(failed.index)) from failed

    async def render_groups(
        self,
        groups: Sequence[Group],
        *,
        truncate: bool,
        locate: Callable[[int, int | None], Place] = as_response,
    ) -> list[Rendered]:
        """Tokenises the responses of all `groups`, one after the other; each group's prompt is cut once.

        Raises:
            LocatedError: one cannot be.
            TooLarge: they have more tokens, or far more text, than one request may.
        """
        max_length, total = self.engine.scorer.info.max_length, 0
        for index, (prompt, responses) in enumerate(groups):
            shared = characters.of_prompt(prompt)
            counts = [shared + len(response) for response in responses]
            characters.check(counts, max_length, partial(locate, index))
            total += sum(counts)
        characters.check_sum(total, max_length)
        render = self.engine.scorer.render_group
        try:
            return await self._tokenize(lambda group: render(*group, truncate=truncate), groups)
        except ItemError as failed:
            response = failed.error.response if isinstance(failed.error, TooLong) else None
            raise LocatedError(failed.error, locate(failed.index, response)) from failed

    async def texts(self, rendered: Sequence[Rendered]) -> list[str | None]:
        """Their texts, some of which have to be decoded, off the event loop."""
        return await self._runtime.tokenizers.map(lambda one: one.text, rendered)

    async def score(
        self, inputs: Sequence[Rendered], locate: Callable[[int], Place] = as_input, *, patience: float = 0.0
    ) -> Scored:
        """Scores `inputs`, all or none; see `Batcher.submit` for `patience`.

        Raises:
            LocatedError: one cannot be computed, or its score is not finite.
            Overloaded: there is too much waiting already.
            DeadlineExceeded: it would come too late.
        """
        self._submitted = True
        try:
            scored = await self.engine.batcher.submit(inputs, deadline=self._deadline, patience=patience)
        except ComputeError as error:
            raise LocatedError(error, locate(error.index)) from error
        self.trace.queue, self.trace.forward = scored.queue_seconds, scored.forward_seconds
        return scored

    async def _tokenize(self, render: Callable[[Item], list[Rendered]], items: Sequence[Item]) -> list[Rendered]:
        refuse = self._runtime.settings.reject_special_tokens

        def checked(item: Item) -> list[Rendered]:
            rendered = render(item)
            if refuse and any(one.special_in_content for one in rendered):
                msg = "a message contains the text of a special token, which is refused here"
                raise SpecialTokenInContent(msg)
            return rendered

        started = time.perf_counter()
        rendered = list(chain.from_iterable(await self._runtime.tokenizers.map(checked, items)))
        self.trace.tokenize = time.perf_counter() - started
        self.trace.inputs = len(rendered)
        self._runtime.metrics.observe_rendered(rendered, self.trace.tokenize)
        num_tokens = sum(len(one.token_ids) for one in rendered)
        if num_tokens > MAX_REQUEST_TOKENS:
            msg = f"{num_tokens} tokens in one request, the limit is {MAX_REQUEST_TOKENS}: send several"
            raise TooLarge(msg, num_tokens=num_tokens, limit=MAX_REQUEST_TOKENS)
        return rendered

    def _take(self, size: int) -> None:
        self._runtime.bodies.take(size)
        self._held += size

    def _begin_to_watch(self) -> None:
        self._timer = self._loop.call_at(self._deadline, self._end, DeadlineExceeded)
        self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._end(body.ClientGone)
