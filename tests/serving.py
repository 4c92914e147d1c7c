"""A service over the stub scorer, in this process, started and ended the way a server does it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from service.app import create_app
from service.lifecycle import Phase
from service.runtime import Runtime
from service.scorer import Scorer
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
