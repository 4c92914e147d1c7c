"""A load client for HTTP/1.1 that costs far less than what it measures: each connection sends, waits, sends again.

Knows as much of HTTP as a benchmark needs: keep-alive, Content-Length, and that anything but 200 ends the run.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import accumulate, cycle, islice
from statistics import quantiles
from typing import cast

_LENGTH = b"content-length:"


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of requests came to.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: seconds, one for each request.
    """

    seconds: float
    latencies: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: int) -> float:
        """Seconds within which `percent` of 100 requests were answered."""
        return quantiles(self.latencies, n=100)[percent - 1]


def post(path: str, body: bytes) -> bytes:
    """A whole request."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def closed_loop(port: int, requests: Sequence[bytes], *, connections: int, count: int) -> Load:
    """Sends `count` of `requests`, over and over, from as many connections at once.

    Args:
        port: of a server on this machine.
        requests: as `post` makes them.
        connections: each has one request under way, and sends its next when it is answered.
        count: of requests in all.

    Raises:
        RuntimeError: something was not answered with 200, or a connection was lost.
    """
    todo = islice(cycle(requests), count)
    latencies: list[float] = []

    def answered(connection: _Connection, sent: float) -> None:
        now = time.perf_counter()
        latencies.append(now - sent)
        _send_next(connection, todo, now)

    async with _connected(port, connections, answered) as opened:
        started = time.perf_counter()
        for connection in opened:
            _send_next(connection, todo, started)
        await asyncio.gather(*(connection.done for connection in opened))
        return Load(time.perf_counter() - started, tuple(latencies))


def _send_next(connection: "_Connection", todo: Iterator[bytes], now: float) -> None:
    request = next(todo, None)
    if request is None:
        connection.done.set_result(None)
    else:
        connection.send(request, now)


async def open_loop(
    port: int, requests: Sequence[bytes], *, rate: float, count: int, connections: int = 512, seed: int = 0
) -> Load:
    """Sends `count` of `requests` when they are due, whether or not earlier ones have been answered.

    Latencies count from when a request was due, so that a server that falls behind cannot hide it by slowing down the
    client (coordinated omission).

    Args:
        port: of a server on this machine.
        requests: as `post` makes them, over and over.
        rate: requests a second, of a Poisson process.
        count: of requests in all.
        connections: requests under way at once; what is due beyond that waits for a free one.
        seed: of the arrivals.

    Raises:
        RuntimeError: something was not answered with 200, or a connection was lost.
    """
    gaps = random.Random(seed)
    arrivals = accumulate(gaps.expovariate(rate) for _ in range(count))
    crowd = _Crowd(count)
    async with _connected(port, connections, crowd.answered, crowd.send) as opened:
        crowd.opened, crowd.idle = opened, opened[:]
        started = time.perf_counter()
        for request, arrival in zip(cycle(requests), arrivals, strict=False):
            due = started + arrival
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            crowd.send(request, due)
        ends = [crowd.finished, *(connection.done for connection in opened)]
        for end in (await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED))[0]:
            end.result()
        return Load(time.perf_counter() - started, tuple(crowd.latencies))


class _Crowd:
    """Connections that send what is due, and requests that wait for one."""

    def __init__(self, count: int) -> None:
        self.latencies: list[float] = []
        self.opened: list[_Connection] = []
        self.idle: list[_Connection] = []
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: deque[tuple[bytes, float]] = deque()
        self._count = count

    def send(self, request: bytes, due: float) -> None:
        # Servers close connections that have been idle for long; the last to become idle is the first to be used.
        while self.idle and self.idle[-1].closed:
            self.idle.pop()
        if self.idle:
            self.idle.pop().send(request, due)
        elif all(connection.closed for connection in self.opened):
            self.fail("the server has closed every connection")
        else:
            self._waiting.append((request, due))

    def fail(self, reason: str) -> None:
        if not self.finished.done():
            self.finished.set_exception(RuntimeError(reason))

    def answered(self, connection: "_Connection", due: float) -> None:
        self.latencies.append(time.perf_counter() - due)
        self.idle.append(connection)
        if self._waiting:
            self.send(*self._waiting.popleft())
        if len(self.latencies) == self._count:
            self.finished.set_result(None)


@asynccontextmanager
async def _connected(
    port: int, count: int, answered: "Answered", again: "Again | None" = None
) -> AsyncIterator[list["_Connection"]]:
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: _Connection(answered, again), "127.0.0.1", port) for _ in range(count)
    ]
    try:
        yield [connection for _, connection in opened]
    finally:
        for transport, connection in opened:
            connection.done.cancel()
            transport.close()


class _Connection(asyncio.Protocol):
    def __init__(self, answered: "Answered", again: "Again | None") -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answered = answered
        self._again = again
        self._request = self._received = b""
        self._since = 0.0
        self._busy = False
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without inheriting from it

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if not self._busy or self.done.done():
            return
        if self._again is not None and not self._received:
            # The server closed it for idleness while the request was on its way: any client would send that again.
            self._again(self._request, self._since)
        else:
            self.done.set_exception(RuntimeError(f"connection lost: {exc}"))

    def send(self, request: bytes, since: float) -> None:
        self._request, self._since, self._busy = request, since, True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < _content_length(head):
            return
        self._received, self._busy = b"", False
        if head.startswith(b"HTTP/1.1 200 "):
            self._answered(self, self._since)
        else:
            self.done.set_exception(RuntimeError((head + found + body).decode(errors="replace")))


#: Is called with a connection whose request was answered, and since when that request had been waiting.
Answered = Callable[[_Connection, float], None]
#: Is called with a request that got no answer because its connection was closed, and since when it had been waiting.
Again = Callable[[bytes, float], None]


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(_LENGTH)
    return int(rest.partition(b"\r\n")[0])
