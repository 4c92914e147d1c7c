"""Lanes: groups of a CPU's cores, usually of one, each of which computes a part of a batch by itself.

Where all cores share every operation instead, they wait for each other dozens of times in a layer, and whatever takes
one of them away for a moment (a request that comes in) holds up all. Knows threads and tokens, not models.
"""

import heapq
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from itertools import accumulate, pairwise
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

from reward_model.prefixes import in_order

Item = TypeVar("Item")
Result = TypeVar("Result")

#: More would wait for the interpreter, of which there is one.
MOST = 4
#: What sharing every operation leaves of the cores: two were 1.5 times one (a sequence of 260 tokens, MiniLM size).
SHARED = 0.75
#: Tokens below which a batch is not divided: each lane goes through the whole model, and Python lets one go at a time.
#: Measured at MiniLM size on two cores, divided against shared: 0.8 to 1.1 at 768 tokens, 1.0 to 1.3 at 2,048.
FEWEST_TOKENS = 1024
#: How far from equal parts a row may be cut, in shares of a part.
NEAR = 0.2


def count() -> int:
    """How many lanes there are of the caller's cores (`torch.get_num_threads()`), none of which is left over."""
    threads = torch.get_num_threads()
    return max(lanes for lanes in range(1, MOST + 1) if threads % lanes == 0)


def parts(sequences: Sequence[Sequence[int]], *, shares_prefixes: bool) -> list[list[int]]:
    """Divides a batch into parts that `each` computes at the same time; into one where that is faster.

    Args:
        sequences: token ids.
        shares_prefixes: whether what several of them begin with is computed once in each part.

    Returns:
        Indices of `sequences`; where prefixes are shared, in their order.
    """
    lanes = count()
    lengths = [len(sequence) for sequence in sequences]
    if lanes == 1 or len(sequences) < lanes or sum(lengths) < FEWEST_TOKENS:
        return [list(range(len(sequences)))]
    if not shares_prefixes:
        return divide(lengths, lanes)
    order, common = in_order(sequences)
    own = [lengths[i] - shared for i, shared in zip(order, common, strict=True)]
    return [sorted(order[i] for i in part) for part in cut(own, common, lanes)]


def divide(sizes: Sequence[int], lanes: int) -> list[list[int]]:
    """Divides work among `lanes`; all in one part where that would leave too many idle for too long.

    Args:
        sizes: of each piece of work, which is never divided.

    Returns:
        Indices of `sizes`, the largest pieces of each part first.
    """
    everything = list(range(len(sizes)))
    divided: list[list[int]] = [[] for _ in range(lanes)]
    loads = [(0, lane) for lane in range(lanes)]
    # The largest first, each to the part that has least (Graham 1969, doi:10.1137/0117039).
    for i in sorted(everything, key=sizes.__getitem__, reverse=True):
        load, lane = loads[0]
        divided[lane].append(i)
        heapq.heapreplace(loads, (load + sizes[i], lane))
    if max(load for load, _ in loads) * SHARED * lanes > sum(sizes):
        return [everything]
    return divided


def cut(own: Sequence[int], common: Sequence[int], lanes: int) -> list[range]:
    """Divides a row of work among `lanes` where neighbours share some of it, which a cut between them does twice.

    Args:
        own: of each piece, what it does not share with the one before it.
        common: of each piece, what it shares with the one before it.

    Returns:
        Consecutive parts of the row; all in one where cuts would cost more than they bring.
    """
    total, ends = sum(own), list(accumulate(own))
    bounds = [0]
    for lane in range(1, lanes):
        middle = total * lane / lanes
        near = [i for i in range(bounds[-1] + 1, len(own)) if abs(ends[i - 1] - middle) <= NEAR * total / lanes]
        if not near:
            return [range(len(own))]
        bounds.append(min(near, key=lambda i: (common[i], abs(ends[i - 1] - middle))))
    ranges = [range(a, b) for a, b in pairwise([*bounds, len(own)])]
    if max(common[one[0]] + sum(own[i] for i in one) for one in ranges) * SHARED * lanes > total:
        return [range(len(own))]
    return ranges


def each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`function` of each item, in order: of one item here and with all cores, of several in lanes, in inference mode.

    Raises:
        Exception: what `function` raised for the first item that failed; all others have ended by then.
    """
    if len(items) == 1:
        return [function(items[0])]
    work = _lanes(count(), torch.get_num_threads())
    answers: deque[Future[Result]] = deque()
    for item in items:
        answers.append(Future())
        work.put((partial(function, item), answers[-1]))
    wait(answers)
    results = []
    while answers:
        # Nothing here keeps an answer: with its error it would keep the memory that the next try needs.
        results.append(answers.popleft().result())
    return results


_Work = SimpleQueue[tuple[Callable[[], Any], Future[Any]]]
_starting = threading.Lock()
_started: dict[tuple[int, int], _Work] = {}
#: Threads do not come along into a forked process.
os.register_at_fork(after_in_child=_started.clear)


def _lanes(lanes: int, threads: int) -> _Work:
    """Where so many lanes of so many threads take work from; they are started by the first who asks."""
    with _starting:
        if (lanes, threads) not in _started:
            _started[lanes, threads] = _start(lanes, threads)
        return _started[lanes, threads]


def _start(lanes: int, threads: int) -> _Work:
    work: _Work = SimpleQueue()
    ready = threading.Barrier(lanes + 1)
    try:
        for place in range(lanes):
            # Daemons: a process that ends must not wait for a model that hangs.
            arguments = (work, threads // lanes, ready)
            threading.Thread(target=_serve, args=arguments, name=f"lane {place}", daemon=True).start()
        ready.wait()
    except BaseException:
        ready.abort()
        raise
    finally:
        # Each lane has set this for itself, but threads to come would take it over.
        torch.set_num_threads(threads)
    return work


def _serve(work: _Work, threads: int, ready: threading.Barrier) -> None:
    torch.get_num_threads()  # by its first question a thread takes over what is set for the process; so not later
    torch.set_num_threads(threads)
    with suppress(threading.BrokenBarrierError):
        ready.wait()
    while not ready.broken:
        function, answer = work.get()
        try:
            with torch.inference_mode():
                answer.set_result(function())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the one who waits
            answer.set_exception(error)
        del function, answer  # not to be kept in memory until the next one comes
