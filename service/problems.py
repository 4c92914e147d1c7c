"""Errors as answers: RFC 9457 `application/problem+json`, never a stack trace, never a piece of the input.

What an error means stands in `service.errors`; here it becomes a response.
"""

import json
import logging
from dataclasses import replace
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.body import ClientGone
from service.errors import Draining, MethodNotAllowed, NotFound, ProblemDetails, ServiceError, problem_of
from service.metrics import Metrics
from service.places import LocatedError
from service.trace import Trace

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
#: Types are names, not addresses: nothing has to be fetched to understand one.
TYPE_PREFIX = "urn:reward-model:"


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
    if details.type == Draining.type:
        headers["Connection"] = "close"  # whoever asks again should come to another replica
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
    foreseen = isinstance(cause, ServiceError)
    fields = {"request_id": trace.request_id, "problem": details.type, **details.fields}
    log.error("answered 500", exc_info=None if foreseen else cause, extra={"fields": fields})
