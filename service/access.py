"""The outermost layer: every request gets an id, timings, one log line and one metric, however it ends.

Pure ASGI, so that hang-ups stay visible to what is inside. Knows no routes and logs no texts.
"""

import logging
import time
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics
from service.trace import Trace

log = logging.getLogger("service.access")

#: What stands for all paths that are not routes: a label must not grow with what strangers send.
UNKNOWN_ROUTE = "unknown"
#: Noted where nobody is left to be answered (nginx's number for it), or where an answer broke off.
CLIENT_GONE, BROKEN_OFF = 499, 500
#: Nothing is served that a browser should guess the kind of, or keep.
SECURITY = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
#: Ends the connection.
LAST = ((b"connection", b"close"),)
#: Asked every few seconds by machines.
QUIET = frozenset({"/livez", "/readyz", "/metrics"})


class Access:
    """ASGI: adds X-Request-Id, Server-Timing and security headers; logs and counts what comes back.

    Args:
        app: what is inside.
        metrics: where to count.
        routes: the paths there are.
        ending: whether the next request on this connection should reach another replica.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Iterable[str], ending: Callable[[], bool]) -> None:
        self.app = app
        self._metrics = metrics
        self._routes = frozenset(routes)
        self._ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves `scope`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        trace = Trace.begin(scope, Headers(scope=scope).get("x-request-id"))
        status: int | None = None

        async def annotate(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # Appended, not set: nobody inside sends these, and setting one looks through all the others.
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", trace.request_id.encode("ascii")),
                    (b"server-timing", trace.server_timing().encode("ascii")),
                    *SECURITY,
                    *(LAST if self._ending() else ()),
                ]
            await send(message)

        try:
            await self.app(scope, receive, annotate)
        except Exception:
            status = BROKEN_OFF
            raise
        finally:
            self._note(scope, trace, CLIENT_GONE if status is None else status)

    def _note(self, scope: Scope, trace: Trace, status: int) -> None:
        seconds = time.perf_counter() - trace.started
        route = scope["path"] if scope["path"] in self._routes else UNKNOWN_ROUTE
        self._metrics.observe_request(route, status, seconds)
        level = logging.DEBUG if route in QUIET else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "request", extra={"fields": _fields(scope, trace, route, status, seconds)})


def _fields(scope: Scope, trace: Trace, route: str, status: int, seconds: float) -> dict[str, object]:
    stages = {"tokenize_ms": trace.tokenize, "queue_ms": trace.queue, "forward_ms": trace.forward}
    fields: dict[str, object] = {
        "request_id": trace.request_id,
        "method": scope["method"],
        "route": route,
        "status": status,
        "duration_ms": round(1000 * seconds, 3),
        "inputs": trace.inputs,
        "problem": trace.problem,
    }
    fields |= {name: round(1000 * value, 3) for name, value in stages.items() if value is not None}
    return {name: value for name, value in fields.items() if value is not None}
