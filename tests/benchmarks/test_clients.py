"""The load client, against a server that answers as it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from benchmarks import clients

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def answering(status: str, *, pieces: int = 1, drop: int = 0) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Port of a server that hangs up on the first `drop` requests, and the bodies that it has got."""
    bodies: list[bytes] = []
    serving: list[asyncio.Task[None]] = []
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\n0.73".encode()
    size = -(-len(answer) // pieces)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            bodies.append(await reader.readexactly(length))
            if len(bodies) <= drop:
                return
            for start in range(0, len(answer), size):
                writer.write(answer[start : start + size])
                await writer.drain()
                await asyncio.sleep(0.001)

    async def until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.append(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(until_closed, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], bodies
        await asyncio.gather(*serving)


@pytest.mark.parametrize("pieces", [1, 3, 44])
async def test_every_request_is_sent_once_and_timed_however_its_answer_arrives(pieces: int) -> None:
    requests = [clients.post("/score", body) for body in (b"a", b"bb")]
    async with answering("200 OK", pieces=pieces) as (port, bodies):
        load = await clients.closed_loop(port, requests, connections=3, count=10)
    assert sorted(bodies) == [b"a"] * 5 + [b"bb"] * 5
    assert len(load.latencies) == 10
    assert 0 < min(load.latencies) <= load.percentile(50) <= load.percentile(99)
    assert load.rate == pytest.approx(10 / load.seconds)


async def test_an_answer_that_is_none_ends_the_run() -> None:
    async with answering("503 Service Unavailable") as (port, _):
        with pytest.raises(RuntimeError, match=r"HTTP/1\.1 503"):
            await clients.closed_loop(port, [clients.post("/score", b"a")], connections=2, count=10)


async def test_an_open_loop_sends_on_time_and_counts_from_when_it_was_due() -> None:
    requests = [clients.post("/score", body) for body in (b"a", b"bb")]
    async with answering("200 OK") as (port, bodies):
        # One connection takes a millisecond and more for each: what is due meanwhile waits, and that counts.
        load = await clients.open_loop(port, requests, rate=10_000, count=30, connections=1)
    assert sorted(bodies) == [b"a"] * 15 + [b"bb"] * 15
    assert len(load.latencies) == 30
    assert load.latencies[-1] > 0.02
    assert list(load.latencies) == sorted(load.latencies)


async def test_an_open_loop_keeps_to_its_rate() -> None:
    async with answering("200 OK") as (port, _):
        load = await clients.open_loop(port, [clients.post("/score", b"a")], rate=100, count=50, connections=8)
    assert 0.3 < load.seconds < 1.0


async def test_a_failure_in_an_open_loop_ends_the_run() -> None:
    async with answering("503 Service Unavailable") as (port, _):
        with pytest.raises(RuntimeError, match=r"HTTP/1\.1 503"):
            await clients.open_loop(port, [clients.post("/score", b"a")], rate=1000, count=10, connections=2)


async def test_a_request_on_a_connection_that_was_just_closed_is_sent_again() -> None:
    requests = [clients.post("/score", body) for body in (b"a", b"bb")]
    async with answering("200 OK", drop=3) as (port, bodies):
        load = await clients.open_loop(port, requests, rate=1000, count=10, connections=8)
    assert len(load.latencies) == 10
    assert len(bodies) == 10 + 3


async def test_a_server_that_closes_every_connection_ends_the_run() -> None:
    async with answering("200 OK", drop=100) as (port, _):
        with pytest.raises(RuntimeError, match="closed every connection"):
            await clients.open_loop(port, [clients.post("/score", b"a")], rate=1000, count=20, connections=4)


async def test_a_closed_loop_takes_a_lost_connection_for_a_failure() -> None:
    async with answering("200 OK", drop=1) as (port, _):
        with pytest.raises(RuntimeError, match="connection lost"):
            await clients.closed_loop(port, [clients.post("/score", b"a")], connections=1, count=2)
