"""What comes over a socket that is no plain request: upgrades, pipelines, halves of connections, heads without end."""

import json
import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
from serving import listening
from sockets import CLOSE, LIVE, answer, connection, connections, eventually, head, requests

from service import protocol, server
from service.stub import StubScorer

BODY = json.dumps({"inputs": [{"text": "a"}]}).encode()
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
SIZED = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:], b""))
NOWHERE = b"POST /nowhere HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def url() -> Iterator[str]:
    with listening() as (found, _):
        yield found


@pytest.fixture
def slow() -> Iterator[str]:
    """A service that takes a fifth of a second for an input."""
    with listening(StubScorer(inputs_per_second=5)) as (found, _):
        yield found


def answer_to_endless(connected: socket.socket, piece: bytes) -> bytes:
    """What comes back, up to the end of the connection, when `piece` is sent again and again until something does."""
    with suppress(ConnectionError):
        for _ in range(2**24 // len(piece)):  # more than all buffers on the way hold
            if select.select([connected], [], [], 0)[0]:
                break
            connected.sendall(piece)
        else:
            pytest.fail("16 MiB were taken")
    received = b""
    with suppress(ConnectionError):
        while some := connected.recv(65536):
            received += some
    return received


def is_hung_up_on(connected: socket.socket, meanwhile: bytes) -> bool:
    """Whether the connection ends within three seconds, although `meanwhile` is sent again and again."""
    until = time.monotonic() + 3
    try:
        while time.monotonic() < until:
            connected.sendall(meanwhile)
            if select.select([connected], [], [], 0.02)[0]:
                return connected.recv(1) == b""
    except ConnectionError:
        return True
    return False


def ask(url: str, *parts: bytes) -> bytes:
    """The same on a connection of its own."""
    with connection(url) as connected:
        return answer(connected, *parts)


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
    received = ask(url, LIVE + UPGRADE + b"\r\n" + LIVE + CLOSE + b"\r\n")
    assert received.count(b"live\n") == 2


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    texts = [json.dumps({"inputs": [{"text": "word " * i}]}).encode() for i in (3, 1, 2)]
    pipeline = b"".join(head(b"Content-Length: %d\r\n" % len(text)) + text for text in texts)
    received = ask(url, pipeline + LIVE + CLOSE + b"\r\n")
    assert re.findall(rb'"num_tokens":\[(\d+)\]', received) == [b"5", b"3", b"4"]
    assert received.endswith(b"live\n")


def test_a_pipeline_whose_client_hangs_up_is_no_error_of_the_service(slow: str) -> None:
    with connection(slow) as connected:
        connected.sendall((head(SIZED) + BODY) * 3)
        time.sleep(0.02)
    eventually(lambda: requests(slow) == {"499": 1})
    assert ask(slow, head(SIZED, CLOSE) + BODY).startswith(b"HTTP/1.1 200 ")
    assert requests(slow) == {"499": 1, "200": 1}, "the others were never begun"


def test_a_client_that_closes_its_half_is_taken_to_have_hung_up(slow: str) -> None:
    with connection(slow) as connected:
        connected.sendall(head(SIZED) + BODY)
        connected.shutdown(socket.SHUT_WR)
        assert answer(connected) == b""
    eventually(lambda: requests(slow) == {"499": 1})


@pytest.mark.parametrize("wrong", [b"\0\r\n\r\n", head(CHUNKED) + b"zz\r\n"], ids=["head", "body"])
def test_what_is_wrong_is_refused_when_its_turn_comes(slow: str, wrong: bytes) -> None:
    received = ask(slow, (head(SIZED) + BODY) * 2 + wrong, b"more of it")
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"200", b"200", b"400"]
    assert requests(slow) == {"200": 2}


def test_a_request_whose_body_is_wrong_has_one_answer(url: str) -> None:
    assert re.findall(rb"HTTP/1\.1 (\d+)", ask(url, head(CHUNKED), b"zz\r\n")) == [b"400"]
    assert re.findall(rb"HTTP/1\.1 (\d+)", ask(url, NOWHERE + CHUNKED + b"\r\n", b"zz\r\n")) == [b"404"]


def test_headers_without_end_are_refused(url: str) -> None:
    with connection(url) as connected:
        connected.sendall(LIVE)
        received = answer_to_endless(connected, b"X-Filler: " + b"a" * 1000 + b"\r\n")
    assert received.startswith(b"HTTP/1.1 431 ")
    assert httpx.get(f"{url}/livez").status_code == 200


@pytest.mark.parametrize("line", [b"a: b\r\n" * 100, b"a" * 1000], ids=["many", "one"])
def test_trailers_without_end_are_refused(url: str, line: bytes) -> None:
    with connection(url) as connected:
        connected.sendall(head(CHUNKED) + CHUNKS[:-2] + b"a: ")
        assert answer_to_endless(connected, line).startswith(b"HTTP/1.1 431 ")
    with connection(url) as connected:
        answer(connected, NOWHERE + CHUNKED + b"\r\n", b"0\r\na: ", until=b"}")
        assert answer_to_endless(connected, line) == b"", "one answer was given"


def test_trailers_are_not_taken_for_headers(url: str) -> None:
    trailed = head(CHUNKED) + CHUNKS[:-2] + b"X-Request-Id: trailer\r\nExpect: 100-continue\r\n\r\n"
    received = ask(url, trailed + LIVE + CLOSE + b"\r\n")
    assert received.count(b"HTTP/1.1 200 ") == 2
    assert b"trailer" not in received


def test_a_body_does_not_count_as_the_head_that_follows_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_HEAD_BYTES", 1000)
    body = BODY + b" " * 2000
    whole = head(b"Content-Length: %d\r\n" % len(body)) + body
    received = ask(url, whole[:30], whole[30:] + LIVE, CLOSE + b"\r\n")
    assert received.count(b"HTTP/1.1 200 ") == 2


def test_headers_of_a_reasonable_size_are_taken_even_in_small_pieces(url: str) -> None:
    line = b"X-Filler: " + b"a" * 1000 + b"\r\n"
    received = ask(url, LIVE, *[line] * 30, CLOSE + b"\r\n")
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
        assert answer(connected, LIVE + CLOSE + b"\r\n").endswith(b"live\n")


def test_a_late_head_does_not_end_the_request_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    with listening(StubScorer(inputs_per_second=2)) as (url, _):
        received = ask(url, head(SIZED) + BODY + LIVE)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("asked", "until", "meanwhile"),
    [
        (LIVE + b"\r\n", b"live\n", b"\r\n"),
        (NOWHERE + b"Content-Length: 1000000000\r\n\r\n", b"}", b"x"),
        (NOWHERE + CHUNKED + b"\r\n0\r\n", b"}", b"a: b\r\n"),
    ],
    ids=["blank lines", "the rest of a body", "trailers"],
)
def test_only_a_request_keeps_an_idle_connection_open(
    asked: bytes, until: bytes, meanwhile: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.2)
    with listening() as (url, _), connection(url) as connected:
        answer(connected, asked, until=until)
        assert is_hung_up_on(connected, meanwhile)


def test_a_request_that_begins_while_another_is_answered_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.5)
    many = json.dumps({"inputs": [{"text": "a"}] * 20}).encode()
    with listening(StubScorer(inputs_per_second=20)) as (url, _), connection(url) as connected:
        answer(connected, head(SIZED) + BODY + b"POST /score", until=b'"computed_tokens"')
        rest = head(b"Content-Length: %d\r\n" % len(many), CLOSE).removeprefix(b"POST /score")
        assert b" 200 " in answer(connected, rest + many)


def test_a_connection_that_is_reset_is_forgotten_at_once(url: str) -> None:
    before = connections()
    with connection(url) as connected:
        answer(connected, LIVE + b"\r\n", until=b"live\n")
        assert connections() == before + 1
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: connections() == before)


def test_a_client_of_http_1_0_is_not_told_to_continue() -> None:
    body = b'{"inputs": [{"text": "a"}]}'
    asked = head(b"Expect: 100-continue\r\n", b"Content-Length: %d\r\n" % len(body))
    with listening() as (url, _), connection(url) as connected:
        received = answer(connected, asked.replace(b"HTTP/1.1", b"HTTP/1.0") + body)
    assert b"100 Continue" not in received
    assert b"200 OK" in received
