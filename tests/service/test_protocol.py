"""What comes over a socket that is no plain request: upgrades, pipelines, halves of connections, heads without end."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from serving import listening

from service import protocol
from service.stub import StubScorer

BODY = json.dumps({"inputs": [{"text": "a"}]}).encode()
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
SIZED = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:], b""))
LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def url() -> Iterator[str]:
    with listening() as (found, _):
        yield found


@pytest.fixture
def slow() -> Iterator[str]:
    """A service that takes a fifth of a second for an input."""
    with listening(StubScorer(inputs_per_second=5)) as (found, _):
        yield found


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


def ask(url: str, *parts: bytes) -> bytes:
    """The same on a connection of its own."""
    with connection(url) as connected:
        return answer(connected, *parts)


def requests(url: str) -> dict[str, int]:
    """How many requests for scores were counted, by status."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    prefix = 'reward_request_duration_seconds_count{route="/score",status="'
    return {line[len(prefix) :][:3]: int(float(line.split()[1])) for line in lines if line.startswith(prefix)}


@pytest.mark.parametrize(
    "parts",
    [
        [head(SIZED, UPGRADE) + BODY],
        [head(SIZED, UPGRADE), BODY],
        [head(SIZED, UPGRADE) + BODY[:5], BODY[5:]],
        [head(CHUNKED, UPGRADE) + CHUNKS],
        [head(CHUNKED, UPGRADE), CHUNKS[:9], CHUNKS[9:]],
    ],
    ids=["at once", "head and body", "body in two", "chunked at once", "chunks in two"],
)
def test_an_offer_to_upgrade_is_ignored_and_the_body_is_read(url: str, parts: list[bytes]) -> None:
    received = ask(url, *parts)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b'"scores":' in received
    assert b"connection: close" in received


def test_what_follows_the_body_of_an_offer_to_upgrade_is_not_taken_for_its_part(url: str) -> None:
    received = ask(url, head(SIZED, UPGRADE) + BODY + head(SIZED) + BODY)
    assert received.count(b'"scores":') == 1
    assert requests(url) == {"200": 1}


def test_an_offer_to_upgrade_without_a_body_leaves_the_connection_usable(url: str) -> None:
    received = ask(url, LIVE + UPGRADE + b"\r\n" + LIVE + b"Connection: close\r\n\r\n")
    assert received.count(b"live\n") == 2


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    texts = [json.dumps({"inputs": [{"text": "word " * i}]}).encode() for i in (3, 1, 2)]
    pipeline = b"".join(head(b"Content-Length: %d\r\n" % len(text)) + text for text in texts)
    received = ask(url, pipeline + LIVE + b"Connection: close\r\n\r\n")
    assert re.findall(rb'"num_tokens":\[(\d+)\]', received) == [b"5", b"3", b"4"]
    assert received.endswith(b"live\n")


def test_a_pipeline_whose_client_hangs_up_is_no_error_of_the_service(slow: str) -> None:
    with connection(slow) as connected:
        connected.sendall((head(SIZED) + BODY) * 3)
        time.sleep(0.02)
    time.sleep(0.3)
    assert requests(slow) == {"499": 1}, "the others were never begun"


def test_a_client_that_closes_its_half_is_taken_to_have_hung_up(slow: str) -> None:
    with connection(slow) as connected:
        connected.sendall(head(SIZED) + BODY)
        connected.shutdown(socket.SHUT_WR)
        assert answer(connected) == b""
    time.sleep(0.3)
    assert requests(slow) == {"499": 1}


def test_headers_without_end_are_refused(url: str) -> None:
    line = b"X-Filler: " + b"a" * 1000 + b"\r\n"
    with connection(url) as connected:
        connected.sendall(LIVE)
        with pytest.raises(ConnectionError):  # noqa: PT012 - which send it is depends on what is on its way
            for _ in range(1000):
                connected.sendall(line)
                time.sleep(0.0005)
    assert httpx.get(f"{url}/livez").status_code == 200


def test_headers_of_a_reasonable_size_are_taken_even_in_small_pieces(url: str) -> None:
    line = b"X-Filler: " + b"a" * 1000 + b"\r\n"
    received = ask(url, LIVE, *[line] * 30, b"Connection: close\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTT", LIVE])
def test_whoever_does_not_ask_in_time_is_hung_up_on(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    with listening() as (url, _), connection(url) as connected:
        started = time.monotonic()
        assert answer(connected, sent) == b""
        assert 0.15 < time.monotonic() - started < 3


def test_a_slow_body_and_a_quiet_connection_between_requests_are_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    with listening() as (url, _), connection(url) as connected:
        connected.sendall(head(SIZED) + BODY[:5])
        time.sleep(0.3)
        assert answer(connected, BODY[5:], until=b'"computed_tokens"')
        time.sleep(0.3)
        assert answer(connected, LIVE + b"Connection: close\r\n\r\n").endswith(b"live\n")
