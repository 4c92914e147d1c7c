"""Plain sockets to a service, and what it has of them."""

import gc
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx

from service.protocol import Protocol

LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
CLOSE = b"Connection: close\r\n"


@contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), 5) as connected:
        yield connected


def head(*headers: bytes) -> bytes:
    lines = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return lines + b"".join(headers) + b"\r\n"


def answer(connected: socket.socket, *parts: bytes, until: bytes | None = None) -> bytes:
    """What comes back for `parts`, sent one after the other, up to `until` or to the end of the connection."""
    for part in parts:
        connected.sendall(part)
        time.sleep(0.02)
    received = b""
    while until is None or until not in received:
        piece = connected.recv(65536)
        if not piece:
            return received
        received += piece
    return received


def eventually(holds: Callable[[], bool]) -> None:
    """Waits until it does, for up to ten seconds."""
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def connections() -> int:
    """How many the servers of this process have in memory."""
    gc.collect()
    return sum(type(thing) is Protocol for thing in gc.get_objects())


def requests(url: str, route: str = "/score") -> dict[str, int]:
    """How many requests for `route` were counted, by status."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    prefix = f'reward_request_duration_seconds_count{{route="{route}",status="'
    return {line[len(prefix) :][:3]: int(float(line.split()[1])) for line in lines if line.startswith(prefix)}
