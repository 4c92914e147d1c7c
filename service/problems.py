"""Errors as answers: RFC 9457 `application/problem+json`, never a stack trace, never a piece of the input.

What an error means stands in `service.errors`; here it becomes a response.
"""

import json
import logging
import traceback
from dataclasses import replace
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.body import ClientGone
from service.errors import MethodNotAllowed, NotFound, ProblemDetails, ServiceError, problem_of
from service.metrics import Metrics
from service.places import LocatedError
from service.trace import Trace

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
#: Types are names, not addresses: nothing has to be fetched to understand one.
TYPE_PREFIX = "urn:reward-model:"
#: Nobody is turned away who only asks how things are.
PROBES = frozenset({"/livez", "/readyz"})


class Problems:
    """ASGI: answers whatever is raised inside; a client that hung up is not answered."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves `scope`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientGone:
            return
        except Exception as error:  # whatever it was, its caller gets an answer and the log a trace
            if started:
                raise
            response = self._answer(scope, error)
            await response(scope, receive, send)

    def _answer(self, scope: Scope, error: Exception) -> Response:
        trace = Trace.of(scope)
        cause = error.error if isinstance(error, LocatedError) else error
        if scope["path"] not in PROBES:
            self._metrics.observe_rejected(cause)
        details = problem_of(cause)
        if isinstance(error, LocatedError):
            details = replace(
                details,
                detail=f"{error.location}: {details.detail}",
                fields={**details.fields, **error.fields},
            )
        trace.problem = details.type
        if details.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            _report(details, trace, cause)
        return response_of(details, trace.request_id)


def response_of(details: ProblemDetails, request_id: str) -> Response:
    """`details` as a response, with the headers that belong to its status."""
    problem = {
        "type": TYPE_PREFIX + details.type,
        "title": details.title,
        "status": details.status,
        "detail": details.detail,
        "request_id": request_id,
        **details.fields,
    }
    headers = {}
    if details.retry_after is not None:
        headers["Retry-After"] = str(details.retry_after)
    if details.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if "allow" in details.fields:
        headers["Allow"] = ", ".join(details.fields["allow"])
    return Response(json.dumps(problem), details.status, headers, MEDIA_TYPE)


async def raise_as_ours(_: Request, error: Exception) -> Response:
    """An exception handler for the router's own errors: no such route, or not with this method."""
    assert isinstance(error, HTTPException), error
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        raise MethodNotAllowed(allow=sorted((error.headers or {})["Allow"].split(", "))) from None
    raise NotFound from None


def _report(details: ProblemDetails, trace: Trace, cause: Exception) -> None:
    """Logs what the caller is not told; what was foreseen was logged where it happened."""
    fields = {"request_id": trace.request_id, "problem": details.type, **details.fields}
    if not isinstance(cause, ServiceError):
        fields["exception"] = _places(cause)
    log.error("answered 500", extra={"fields": fields})


def _places(error: BaseException | None) -> str:
    """Kinds and places of an error and its causes, as in a traceback; not what they say, which may quote a text."""
    if error is None:
        return ""
    own = "".join(traceback.format_tb(error.__traceback__)) + type(error).__qualname__
    return "\n".join(filter(None, [_places(error.__cause__ or error.__context__), own]))
