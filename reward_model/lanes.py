"""Lanes: groups of a CPU's cores, usually of one, each of which computes a part of a batch by itself.

Where all cores share every operation instead, they wait for each other dozens of times in a layer, and whatever takes
one of them away for a moment (a request that comes in) holds up all. Knows threads and calls, not what these compute.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

#: More would wait for the interpreter, of which there is one.
MOST = 4


def count() -> int:
    """How many lanes there are of the caller's cores (`torch.get_num_threads()`), none of which is left over."""
    threads = torch.get_num_threads()
    return max(lanes for lanes in range(1, MOST + 1) if threads % lanes == 0)


@dataclass(eq=False, slots=True)
class _Job:
    """A call.

    Attributes:
        with_all: it has all cores, and nothing else runs beside it; else a lane of them.
    """

    call: Callable[[], Any]
    answer: Future[Any]
    with_all: bool


class Lanes:
    """A thread for each lane and one with all cores, which do what there is to do in the order of its coming.

    Args:
        number: of lanes.
        threads: of torch, for all of them together.
    """

    def __init__(self, number: int, threads: int) -> None:
        self._number = number
        lock = threading.Lock()
        #: There is something to do, or to be done by others than before; there may be room. Both under one lock, apart
        #: so that a short input, which its caller computes, wakes no thread that finds nothing to do.
        self._work, self._room = threading.Condition(lock), threading.Condition(lock)
        self._waiting: deque[_Job] = deque()
        self._running = 0
        self._all_taken = False
        ready = threading.Barrier(number + 2)
        shares = {f"lane {place}": threads // number for place in range(number)} | {"all lanes": threads}
        try:
            for name, share in shares.items():
                # Daemons: a process that ends must not wait for a model that hangs.
                serve = partial(self._serve, share, ready, with_all=name == "all lanes")
                threading.Thread(target=serve, name=name, daemon=True).start()
            ready.wait()
        except BaseException:
            ready.abort()
            raise
        finally:
            # Each has set this for itself, but threads to come would take it over.
            torch.set_num_threads(threads)

    def start(
        self, function: Callable[[Item], Result], items: Sequence[Item], *, short: bool = False
    ) -> list[Future[Result]]:
        """Begins `function` of each item, in inference mode, after what was begun before.

        Several items are computed in lanes. One has all cores; where nothing else runs it is computed by this very
        call, without the way to another thread and back.

        Args:
            function: of an item.
            items: one or more.
            short: one item takes the last free lane rather than wait until all are free.

        Returns:
            For each item its result, or what `function` raised.

        Raises:
            Exception: `function` raised it within this call.
        """
        with self._work:
            free = self._number - self._running if not (self._waiting or self._all_taken) else 0
            here = len(items) == 1 and free == self._number
            jobs = [_Job(partial(function, item), Future(), with_all=len(items) == 1) for item in items]
            if here:
                self._begin(jobs[0])
            else:
                jobs[0].with_all &= not (short and free == 1)
                self._waiting.extend(jobs)
                self._work.notify_all()
        answers = [job.answer for job in jobs]
        if here:
            try:
                answers[0].set_result(_computed(jobs[0].call))
            finally:
                self._end()
        return answers

    def wait_for_room(self) -> None:
        """Waits until a lane has nothing to do."""
        with self._room:
            self._room.wait_for(lambda: not (self._waiting or self._all_taken or self._running == self._number))

    def _serve(self, threads: int, ready: threading.Barrier, *, with_all: bool) -> None:
        torch.get_num_threads()  # by its first question a thread takes over what is set for the process; so not later
        torch.set_num_threads(threads)
        with suppress(threading.BrokenBarrierError):
            ready.wait()
        while not ready.broken:
            with self._work:
                self._work.wait_for(partial(self._is_next, with_all=with_all))
                job = self._waiting.popleft()
                self._begin(job)
                self._tell()
            try:
                job.answer.set_result(_computed(job.call))
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the one who waits
                job.answer.set_exception(error)
            # Not to be kept in memory until the next one comes. An error knows this frame, and through it would itself.
            del job
            self._end()

    def _is_next(self, *, with_all: bool) -> bool:
        if not self._waiting or self._waiting[0].with_all != with_all:
            return False
        return not (self._running if with_all else self._all_taken)

    def _begin(self, job: _Job) -> None:
        self._running += 1
        self._all_taken = job.with_all

    def _end(self) -> None:
        with self._work:
            self._running -= 1
            self._all_taken = False
            self._tell()

    def _tell(self) -> None:
        self._room.notify_all()
        if self._waiting:
            self._work.notify_all()


def _computed(call: Callable[[], Any]) -> Any:
    with torch.inference_mode():
        return call()


def collect(answers: list[Future[Result]]) -> list[Result]:
    """Waits for all results.

    Args:
        answers: is empty afterwards: with its error one would keep the memory that the next try needs.

    Raises:
        Exception: what was raised for the first item that failed; all others have ended by then.
    """
    wait(answers)
    answers.reverse()
    results = []
    while answers:
        try:
            results.append(answers.pop().result())
        except BaseException:
            answers.clear()
            raise
    return results


_starting = threading.Lock()
_started: dict[tuple[int, int], Lanes] = {}
#: Threads do not come along into a forked process.
os.register_at_fork(after_in_child=_started.clear)


def of_caller() -> Lanes:
    """Those of the caller's cores; started by the first who asks."""
    key = count(), torch.get_num_threads()
    with _starting:
        if key not in _started:
            _started[key] = Lanes(*key)
        return _started[key]
