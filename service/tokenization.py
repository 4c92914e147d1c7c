"""Threads that turn records into tokens, so that the event loop never waits for a tokenizer.

Knows neither templates nor HTTP: it runs a function over items and says which item failed.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

from reward_model.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Items of one job: enough to be worth the hand-over, few enough to spread a big request over all threads.
CHUNK = 64


class ItemError(Exception):
    """An InputError (its cause) and the index of the item it came from."""

    def __init__(self, index: int, error: InputError) -> None:
        super().__init__(str(error))
        self.index = index
        self.error = error


class TokenizerPool:
    """A few threads; most requests are one job.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="tokenizer")

    async def call(self, function: Callable[[], Result]) -> Result:
        """Runs `function` in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    async def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`function` of each item, in order; when the caller is cancelled, the rest is left undone.

        Raises:
            ItemError: `function` raised an InputError; the first such item, whatever finished first.
        """
        abandoned = threading.Event()
        chunks = [range(start, min(start + CHUNK, len(items))) for start in range(0, len(items), CHUNK)]
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(self._executor, _run, function, items, chunk, abandoned) for chunk in chunks]
        try:
            # Awaited in order, so that the first failing item is the one that is reported.
            return list(chain.from_iterable([await job for job in jobs]))
        finally:
            abandoned.set()
            for job in jobs:
                if not job.cancel() and not job.cancelled():
                    job.exception()  # looked at, or asyncio complains about it

    def close(self) -> None:
        """Starts nothing more; a job that is running ends by itself, and nobody waits for it."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _run(
    function: Callable[[Item], Result], items: Sequence[Item], chunk: range, abandoned: threading.Event
) -> list[Result]:
    results = []
    for index in chunk:
        if abandoned.is_set():
            break
        try:
            results.append(function(items[index]))
        except InputError as error:
            raise ItemError(index, error) from error
    return results
