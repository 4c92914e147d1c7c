"""Answers that nobody reads, or reads slowly."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest
from serving import listening
from sockets import CLOSE, LIVE, answer, connections, eventually, head, requests

from service import server, unread


@contextmanager
def long_answer(url: str, *headers: bytes) -> Iterator[socket.socket]:
    """A connection on which more has been asked for than the kernel takes for a client of a small buffer."""
    where = urlsplit(url)
    body = json.dumps({"inputs": [{"text": "word " * 500}] * 1000}).encode()
    with socket.socket() as connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        connected.settimeout(5)
        connected.connect((where.hostname, where.port))
        asked = head(b"Content-Length: %d\r\n" % len(body), *headers).replace(b"/score", b"/render")
        connected.sendall(asked + body)
        yield connected


def is_whole(connected: socket.socket, pause: float = 0) -> bool:
    """Whether an answer comes to its end, read a little at a time with a `pause` in seconds after each."""
    received = b""
    with suppress(ConnectionError):
        while piece := connected.recv(2**17):
            received += piece
            time.sleep(pause)
    length = re.search(rb"content-length: (\d+)", received)
    assert length is not None
    return len(received.partition(b"\r\n\r\n")[2]) == int(length[1])


@pytest.mark.parametrize("headers", [[], [CLOSE]], ids=["kept alive", "closed"])
def test_an_answer_that_is_never_read_is_given_up(headers: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.1)
    monkeypatch.setattr(unread, "READ_SECONDS", 0.3)
    before = connections()
    with listening() as (url, _), long_answer(url, *headers) as connected:
        eventually(lambda: requests(url, "/render") == {"200": 1})
        eventually(lambda: connections() <= before)
        assert not is_whole(connected)


def test_an_answer_that_is_read_slowly_is_sent_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.1)
    monkeypatch.setattr(unread, "READ_SECONDS", 1.0)
    with listening() as (url, _), long_answer(url) as connected:
        started = time.monotonic()
        assert is_whole(connected, pause=0.03)
    assert time.monotonic() - started > 1, "longer than an answer may wait"


def test_nobody_is_idle_who_is_still_reading_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.2)
    with listening() as (url, _), long_answer(url) as connected:
        eventually(lambda: requests(url, "/render") == {"200": 1})
        time.sleep(0.5)
        connected.sendall(LIVE + CLOSE + b"\r\n")
        received = answer(connected)
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.endswith(b"live\n")
