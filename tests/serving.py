"""A service over the stub scorer, in this process: with a server and sockets, or started and ended as by one."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
from fastapi import FastAPI

from service.app import create_app
from service.lifecycle import Phase
from service.runtime import Runtime
from service.scorer import Scorer
from service.server import Server
from service.settings import Settings
from service.stub import StubScorer


def settings_with(**values: object) -> Settings:
    """The defaults, except for `values`."""
    return Settings.model_validate({"model": "stub", "drain_seconds": 1.0} | values)


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app` between its start and its end; does not wait until the model is loaded."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield client


async def until_ready(runtime: Runtime) -> None:
    """Waits until the model is loaded, for up to ten seconds."""
    for _ in range(2000):
        if runtime.lifecycle.phase is not Phase.LOADING:
            return
        await asyncio.sleep(0.005)
    msg = "the model is still not loaded"
    raise TimeoutError(msg)


@asynccontextmanager
async def serving(
    load: Callable[[], Scorer] = StubScorer, **values: object
) -> AsyncIterator[tuple[httpx.AsyncClient, Runtime]]:
    """A client of a ready service, and what is behind it."""
    app = create_app(settings_with(**values), load)
    async with running(app) as client:
        await until_ready(app.state.runtime)
        yield client, app.state.runtime


@contextmanager
def listening(scorer: Scorer | None = None, *, ready: bool = True, **values: object) -> Iterator[tuple[str, Runtime]]:
    """A server on a free loopback port, `ready` or not yet, and what is behind it."""
    settings = settings_with(port=0, **values)
    app = create_app(settings, lambda: scorer or StubScorer())
    server = Server(app, settings)
    socket = server.config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    runtime = app.state.runtime
    try:
        until = time.monotonic() + 10
        while not server.started or (ready and runtime.lifecycle.phase is Phase.LOADING):
            assert time.monotonic() < until, "the service did not become ready"
            time.sleep(0.005)
        yield f"http://127.0.0.1:{socket.getsockname()[1]}", runtime
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()
