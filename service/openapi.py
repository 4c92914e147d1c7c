"""The OpenAPI document: the native routes, their schemas and every status they can answer.

Built from `schemas` and `answers`; knows nothing of how a request is served.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.answers import CompareResponse, ModelResponse, Problem, RenderResponse, ScoreResponse
from service.schemas import SECONDS, CompareRequest, RenderRequest, ScoreRequest

Json = dict[str, Any]

_MEANING = {
    400: "the body is not JSON",
    401: "no API key, or a wrong one",
    404: "no such route",
    405: "the route does not take this method",
    413: "the body, the number of inputs or the number of tokens is more than could ever be admitted",
    415: "the body is not application/json, or it is encoded",
    422: "the request is JSON, but not a valid request for this model",
    500: "an input could not be computed, or its score is not a finite number",
    503: "overloaded, loading or draining; try again after Retry-After seconds",
    504: "the deadline has passed",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One route as the document shows it.

    Attributes:
        statuses: the error statuses it can answer.
        public: it needs no API key.
    """

    method: str
    path: str
    summary: str
    request: type[BaseModel] | None
    response: type[BaseModel] | None
    statuses: tuple[int, ...]
    media_type: str = "application/json"
    public: bool = False

    @property
    def name(self) -> str:
        """What tells it from others."""
        return self.path.strip("/") or "playground"


_WORK = (400, 401, 413, 415, 422, 500, 503, 504)

OPERATIONS = (
    Operation("post", "/score", "Score inputs", ScoreRequest, ScoreResponse, _WORK),
    Operation("post", "/compare", "Compare responses to a prompt", CompareRequest, CompareResponse, _WORK),
    Operation("post", "/render", "Show what exactly would be scored", RenderRequest, RenderResponse, _WORK),
    Operation("get", "/model", "Describe the model", None, ModelResponse, (401, 503)),
    Operation("get", "/livez", "Is the process making progress?", None, None, (503,), "text/plain", public=True),
    Operation("get", "/readyz", "Is the service ready for work?", None, None, (503,), "text/plain", public=True),
    Operation("get", "/metrics", "Metrics for Prometheus", None, None, (), "text/plain", public=True),
    Operation("get", "/", "Playground", None, None, (401,), "text/html"),
    Operation("get", "/docs", "This document for people", None, None, (401,), "text/html"),
    Operation("get", "/openapi.json", "This document", None, None, (401,)),
)


def document(version: str, operations: Sequence[Operation] = OPERATIONS, *, keys: bool = False) -> Json:
    """The OpenAPI 3.1 document of a service that wants an API key or, without `keys`, none."""
    models = {model for op in operations for model in (op.request, op.response) if model} | {Problem}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schema = models_json_schema(
        [(model, _mode(model)) for model in ordered], ref_template="#/components/schemas/{model}"
    )
    paths: Json = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, keys=keys)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Reward model service",
            "version": version,
            "description": "Scores how good a response to a prompt is.",
        },
        "paths": paths,
        "components": {
            "schemas": schema["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}} if keys else {},
        },
    }


def _mode(model: type[BaseModel]) -> Any:
    return "validation" if model.__name__.endswith("Request") else "serialization"


def _operation(operation: Operation, *, keys: bool) -> Json:
    result: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": _PARAMETERS if operation.request else [_REQUEST_ID],
        "responses": {"200": _success(operation)} | {str(status): _problem(status) for status in operation.statuses},
        "security": [{"key": []}] if keys and not operation.public else [],
    }
    if operation.request:
        content = {"application/json": {"schema": _ref(operation.request)}}
        result["requestBody"] = {"required": True, "content": content}
    return result


def _success(operation: Operation) -> Json:
    plain = "object" if operation.media_type == "application/json" else "string"
    schema = _ref(operation.response) if operation.response else {"type": plain}
    return {
        "description": "OK",
        "headers": {"X-Request-Id": _STRING_HEADER, "Server-Timing": _STRING_HEADER},
        "content": {operation.media_type: {"schema": schema}},
    }


def _problem(status: int) -> Json:
    result: Json = {
        "description": f"{HTTPStatus(status).phrase}: {_MEANING[status]}",
        "headers": {"X-Request-Id": _STRING_HEADER},
        "content": {"application/problem+json": {"schema": _ref(Problem)}},
    }
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        result["headers"] |= {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return result


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


_STRING_HEADER: Json = {"schema": {"type": "string"}}
_REQUEST_ID: Json = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "description": "given back in the response: up to 128 printable ASCII characters",
    "schema": {"type": "string"},
}
_PARAMETERS: list[Json] = [
    _REQUEST_ID,
    {
        "name": "X-Request-Timeout",
        "in": "header",
        "required": False,
        "description": "seconds after which the answer is of no use any more",
        "schema": {"type": "string", "pattern": f"^({SECONDS})$", "examples": ["1.5"]},
    },
]
