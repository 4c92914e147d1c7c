"""Puts the service together: routes, layers, and what starts and ends with them.

Nothing happens on import; whoever wants a service calls `create_app`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.middleware import Middleware
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from reward_model import __version__
from service import health, openapi, pages, problems, routes
from service.access import Access
from service.auth import ApiKeys, Authentication
from service.dispatch import Dispatch
from service.metrics import Metrics
from service.runtime import Runtime
from service.scorer import Scorer
from service.settings import Settings


def create_app(
    settings: Settings,
    load: Callable[[], Scorer],
    *,
    registry: CollectorRegistry | None = None,
) -> FastAPI:
    """The ASGI application; it answers at once and is ready when `load` has returned.

    Args:
        settings: the service's.
        load: makes the scorer; called in a thread when the application starts.
        registry: where the metrics live; a fresh one by default.

    Raises:
        ValueError, OSError: the API key file has no key, or cannot be read.
    """
    keys = ApiKeys(settings.api_key_file) if settings.api_key_file else None
    metrics = Metrics(registry or CollectorRegistry())
    runtime = Runtime(settings, load, metrics)
    document = openapi.document(__version__, keys=keys is not None)
    routers = [routes.router, health.router, pages.page_router(document)]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        runtime.start()
        yield
        await runtime.stop()

    # From the outside in: whatever fails, an id and a log line; then, as a problem; then, who asks; then, the work.
    layers = [
        Middleware(Access, metrics, [path for router in routers for path in _paths(router)], runtime.lifecycle.ending),
        Middleware(problems.Problems, metrics),
        Middleware(Authentication, keys),
        Middleware(Dispatch, routes.router.routes),
    ]
    app = FastAPI(
        middleware=layers,
        exception_handlers={HTTPException: problems.raise_as_ours},
        lifespan=lifespan,
        redirect_slashes=False,
        # FastAPI's own pages load their code from elsewhere; ours stand in `pages`.
        openapi_url=None,
    )
    for router in routers:
        app.include_router(router)
    app.state.runtime = runtime
    return app


def _paths(router: APIRouter) -> list[str]:
    return [route.path for route in router.routes if isinstance(route, APIRoute)]
