"""A client that keeps its connection open from request to request, and hangs up when it is told to.

Knows HTTP/1.1 as far as a service answers with Content-Length; not what is asked.
"""

import asyncio
import enum
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Moment(enum.Enum):
    """When a client hangs up."""

    BEFORE_THE_BODY = "before the body"
    MID_BODY = "mid-body"
    WAITING = "while waiting"


@dataclass(slots=True)
class Connection:
    """One socket; has one request under way at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    closed: bool = field(default=False)

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connects to a server on this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def get(self, path: str) -> Answer:
        """Asks for `path`."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return await self._answer()

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Sends `body` as JSON and waits for the answer.

        Raises:
            ConnectionError, IncompleteReadError: the server has closed the connection.
        """
        self.writer.write(_head(path, body, headers) + body)
        return await self._answer()

    async def abandon(
        self, path: str, body: bytes, headers: dict[str, str], moment: Moment, seconds: float
    ) -> Answer | None:
        """Begins the same, and hangs up at `moment` or `seconds` later; returns an answer that came before."""
        sent = {Moment.BEFORE_THE_BODY: 0, Moment.MID_BODY: len(body) // 2, Moment.WAITING: len(body)}[moment]
        self.writer.write(_head(path, body, headers) + body[:sent])
        try:
            async with asyncio.timeout(seconds):
                return await self._answer()
        except TimeoutError:
            return None

    def close(self, *, reset: bool = False) -> None:
        """Hangs up; with `reset`, as a process that dies does it."""
        self.closed = True
        if reset:
            self.writer.transport.abort()
        else:
            self.writer.close()

    async def _answer(self) -> Answer:
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        # Some proxies' own answers end with the connection.
        length = headers.get("content-length")
        body = await self.reader.read() if length is None else await self.reader.readexactly(int(length))
        if headers.get("connection") == "close" or length is None:
            self.close()
        return Answer(int(status.split(" ")[1]), headers, body)


class Crowd:
    """Connections, as many as are needed at once; each request takes one that is free."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[Connection] = []

    async def ask(self, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Sends one request."""
        connection = self._free.pop() if self._free else await Connection.open(self._port)
        try:
            answer = await connection.post(path, body, headers)
        except BaseException:
            connection.close()
            raise
        if not connection.closed:
            self._free.append(connection)
        return answer

    def close(self) -> None:
        """Closes them all."""
        for connection in self._free:
            connection.close()


def _head(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    fixed = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\n{fixed}{more}\r\n".encode()
