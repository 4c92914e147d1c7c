"""What can lie between a client and a service: a TCP gate that delays, drops, or answers in the service's place."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

#: Hangs up after the request has arrived.
DROP = b""
_CHUNK = 2**16


@dataclass(slots=True)
class Gate:
    """A listener that lets connections through.

    Attributes:
        url: where it listens.
        acts: what becomes of the next connections instead: raw bytes are their answer, after which they are closed.
        delay: seconds that each piece of a request waits.
        heads: of the requests on connections that were not let through, and of the first on each that was.
        open: connections that the client has not closed.
        most: of them at once.
    """

    target: str
    url: str = ""
    acts: deque[bytes] = field(default_factory=deque)
    delay: Callable[[], float] = lambda: 0.0
    heads: list[dict[str, str]] = field(default_factory=list)
    open: int = 0
    most: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(_fields(head))
            if self.acts:
                writer.write(self.acts.popleft())
                await writer.drain()
            else:
                await self._through(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _through(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = urlsplit(self.target)
        back, forth = await asyncio.open_connection(there.hostname, there.port)
        forth.write(head)
        answers = asyncio.create_task(_pipe(back, writer, lambda: 0.0))
        try:
            await _pipe(reader, forth, self.delay)
        finally:
            forth.close()
            answers.cancel()
            with suppress(asyncio.CancelledError):
                await answers


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: Callable[[], float]) -> None:
    with suppress(ConnectionError):
        while piece := await reader.read(_CHUNK):
            await asyncio.sleep(delay())
            writer.write(piece)


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")[1:]
    pairs = (line.partition(": ") for line in lines if line)
    return {name.lower(): value for name, _, value in pairs}


@asynccontextmanager
async def gate(target: str) -> AsyncIterator[Gate]:
    """A gate in front of the service at `target`."""
    made = Gate(target)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        for _ in range(500):
            if not made.open:
                break
            await asyncio.sleep(0.01)
