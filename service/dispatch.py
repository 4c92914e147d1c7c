"""The innermost layer: hands a request for work straight to its route's function, past FastAPI's router.

FastAPI matches a route twice, opens exit stacks and solves dependencies before it calls a function that takes
nothing but the request. For a small request that is a large part of all that the service does
(`benchmarks/overhead.py`). What this layer does not know goes on to FastAPI, which also answers 404 and 405. Knows no
route by name.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class Dispatch:
    """ASGI: answers a POST to one of `routes`; everything else is for `app`.

    Args:
        app: what answers everything else.
        routes: of functions that take the request and return a response, without FastAPI's dependencies, and of
            paths without parameters; those that take other methods are left to `app`.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self.app = app
        self._endpoints: dict[str, Endpoint] = {}
        for route in routes:
            if isinstance(route, APIRoute) and route.methods == {"POST"}:
                assert list(inspect.signature(route.endpoint).parameters) == ["request"], route
                assert not route.param_convertors, route
                self._endpoints[route.path] = route.endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves `scope`."""
        endpoint = self._endpoints.get(scope["path"]) if scope.get("method") == "POST" else None
        if endpoint is None:
            await self.app(scope, receive, send)
            return
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
