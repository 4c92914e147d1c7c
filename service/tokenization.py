"""Threads that turn records into tokens, so that the event loop never waits for a tokenizer.

A hand-over to a thread and back costs as much as a short text does. So a thread takes whatever waits, as long as that
is quickly done, and hands it back together: under load many small requests share one hand-over, and reach the
batcher together. Measured with single samples of 700 characters at 32 clients (benchmarks/overhead.py), that is 15 %
of all CPU time of the service less than one hand-over for each, and less than tokenising on the event loop.

Knows neither templates nor HTTP: it runs a function over items and says which item failed.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from reward_model.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Items of one job: few enough to spread a big request over all threads.
CHUNK = 64
#: After that long a thread hands back what it has: longer, and the first of its jobs would wait for the last.
RUN_SECONDS = 0.005

#: Says whether nobody waits for the result any more.
GivenUp = Callable[[], bool]
Run = Callable[[GivenUp], Any]


class ItemError(Exception):
    """An InputError (its cause) and the index of the item it came from."""

    def __init__(self, index: int, error: InputError) -> None:
        super().__init__(str(error))
        self.index = index
        self.error = error


@dataclass(eq=False, slots=True)
class _Job:
    """Something to do in a thread, and where its result goes."""

    run: Run
    answer: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Done:
    job: _Job
    result: Any
    error: Exception | None = None

    def tell(self) -> None:
        if self.job.answer.done():
            return
        if self.error is not None:
            self.job.answer.set_exception(self.error)
        else:
            self.job.answer.set_result(self.result)


@dataclass(eq=False, slots=True)
class _Shift:
    """A thread at work.

    Attributes:
        relief: fires when it takes longer than it should.
        held_up: it has taken longer than that, and no longer counts among those that take what waits.
        done: what nobody has been told of.
    """

    relief: asyncio.TimerHandle | None = None
    held_up: bool = False
    done: deque[_Done] = field(default_factory=deque)

    def tell(self) -> None:
        """Tells of what is done so far."""
        while self.done:
            self.done.popleft().tell()


class TokenizerPool:
    """A few threads; most requests are one job. Its methods belong to one event loop.

    Args:
        threads: how many at most; more than one work only where one falls behind.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="tokenizer")
        #: Whole requests, and pieces of larger ones.
        self._small: deque[_Job] = deque()
        self._large: deque[_Job] = deque()
        self._shifts: set[_Shift] = set()

    async def call(self, function: Callable[[], Result]) -> Result:
        """Runs `function`, which may take long, in one of the threads."""
        (answer,) = self._submit([lambda _: function()], self._large)
        result: Result = await answer
        return result

    async def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`function` of each item, in order; when the caller is cancelled, the rest is left undone.

        Raises:
            ItemError: `function` raised an InputError; the first such item, whatever finished first.
        """
        chunks = [range(start, min(start + CHUNK, len(items))) for start in range(0, len(items), CHUNK)]
        runs = [partial(_run, function, items, chunk) for chunk in chunks]
        answers = self._submit(runs, self._small if len(runs) == 1 else self._large)
        try:
            # Awaited in order, so that the first failing item is the one that is reported.
            return list(chain.from_iterable([await answer for answer in answers]))
        finally:
            for answer in answers:
                if not answer.cancel() and not answer.cancelled():
                    answer.exception()  # looked at, or asyncio complains about it

    def close(self) -> None:
        """Starts nothing more; a job that is running ends by itself, and nobody waits for it."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        for waiting in (self._small, self._large):
            while job := _pop(waiting):
                job.answer.cancel()

    def _submit(self, runs: Sequence[Run], waiting: deque[_Job]) -> list[asyncio.Future[Any]]:
        loop = asyncio.get_running_loop()
        jobs = [_Job(run, loop.create_future()) for run in runs]
        waiting.extend(jobs)
        self._employ(len(jobs), loop)
        return [job.answer for job in jobs]

    def _employ(self, threads: int, loop: asyncio.AbstractEventLoop) -> None:
        """Sees to it that so many threads work, or all there are."""
        held_up = sum(shift.held_up for shift in self._shifts)
        for _ in range(min(threads, self._threads - held_up) - (len(self._shifts) - held_up)):
            shift = _Shift()
            self._shifts.add(shift)
            shift.relief = loop.call_later(2 * RUN_SECONDS, self._relieve, loop, shift)
            self._executor.submit(self._work, loop, shift)

    def _relieve(self, loop: asyncio.AbstractEventLoop, shift: "_Shift") -> None:
        """A thread is held up by something long, for which nothing else waits: neither what is done nor what comes."""
        shift.held_up = True
        shift.tell()
        self._employ(len(self._small) + len(self._large), loop)

    def _work(self, loop: asyncio.AbstractEventLoop, shift: "_Shift") -> None:
        """In a thread: some small jobs, then one that is part of something large, so that neither kind waits long."""
        until = time.perf_counter() + RUN_SECONDS
        while time.perf_counter() < until and (job := _pop(self._small)):
            shift.done += _do(job)
        if job := _pop(self._large):
            shift.done += _do(job)
        loop.call_soon_threadsafe(self._deliver, loop, shift)

    def _deliver(self, loop: asyncio.AbstractEventLoop, shift: "_Shift") -> None:
        assert shift.relief is not None
        shift.relief.cancel()
        self._shifts.discard(shift)
        self._employ(len(self._small) + len(self._large), loop)
        shift.tell()


def _pop(waiting: deque[_Job]) -> _Job | None:
    try:
        return waiting.popleft()
    except IndexError:  # also where another thread was faster
        return None


def _do(job: _Job) -> list[_Done]:
    if job.answer.cancelled():
        return []
    try:
        return [_Done(job, job.run(job.answer.cancelled))]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is for the one who waits
        return [_Done(job, None, error)]


def _run(function: Callable[[Item], Result], items: Sequence[Item], chunk: range, given_up: GivenUp) -> list[Result]:
    results = []
    for index in chunk:
        if given_up():
            break
        try:
            results.append(function(items[index]))
        except InputError as error:
            raise ItemError(index, error) from error
    return results
