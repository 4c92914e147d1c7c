"""A load client for HTTP/1.1 that costs far less than what it measures: each connection sends, waits, sends again.

Knows as much of HTTP as a benchmark needs: keep-alive, Content-Length, and that anything but 200 ends the run.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
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
    loop = asyncio.get_running_loop()
    todo = islice(cycle(requests), count)
    latencies: list[float] = []
    opened = [
        await loop.create_connection(lambda: _Connection(todo, latencies), "127.0.0.1", port)
        for _ in range(connections)
    ]
    started = time.perf_counter()
    try:
        for _, connection in opened:
            connection.send_next()
        await asyncio.gather(*(connection.done for _, connection in opened))
        return Load(time.perf_counter() - started, tuple(latencies))
    finally:
        for transport, connection in opened:
            connection.done.cancel()
            transport.close()


class _Connection(asyncio.Protocol):
    def __init__(self, todo: Iterator[bytes], latencies: list[float]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._todo = todo
        self._latencies = latencies
        self._received = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without inheriting from it

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"connection lost: {exc}"))

    def send_next(self) -> None:
        request = next(self._todo, None)
        if request is None:
            self.done.set_result(None)
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < _content_length(head):
            return
        self._latencies.append(time.perf_counter() - self._sent)
        self._received = b""
        if head.startswith(b"HTTP/1.1 200 "):
            self.send_next()
        else:
            self.done.set_exception(RuntimeError((head + found + body).decode(errors="replace")))


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(_LENGTH)
    return int(rest.partition(b"\r\n")[0])
