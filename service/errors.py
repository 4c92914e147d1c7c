"""Everything a caller can be told besides a score, and the one table from error to HTTP status.

    ServiceError
    ├── RequestError               the request must change before it can succeed
    │   ├── MalformedJson
    │   ├── Unauthorized
    │   ├── NotFound
    │   ├── MethodNotAllowed
    │   ├── TooLarge               more than could ever be admitted
    │   ├── UnsupportedMediaType
    │   └── InvalidRequest         says what is wrong, and where
    ├── ComputeError               one input failed, by its index; other requests are untouched
    │   ├── NonFiniteScore
    │   └── CannotCompute
    ├── Unavailable                the same request can succeed later; says when to try again
    │   ├── Overloaded
    │   ├── Loading
    │   ├── Draining
    │   └── Broken                 the model is lost until the process restarts
    └── DeadlineExceeded

`reward_model.errors.InputError` and its kinds are answered as well, as what they are. Knows statuses, not
responses: nothing here imports a web framework.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from reward_model.errors import (
    BadTokenId,
    InputError,
    NoTokens,
    NotRenderable,
    SpecialTokenInContent,
    TooLong,
)


class ServiceError(Exception):
    """Base of all errors of this package.

    Args:
        detail: what is wrong with this request; default: what is wrong with all of their kind.
        retry_after: seconds after which trying again makes sense, None where it never does.
        fields: further members of the problem, such as `limit`.

    Attributes:
        type: the stable name of the kind, which callers may rely on.
        title: the kind in a few words.
    """

    type: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    default_detail: ClassVar[str] = "something went wrong inside the service; its log says what"

    def __init__(self, detail: str | None = None, *, retry_after: int | None = None, **fields: Any) -> None:
        self.detail = self.default_detail if detail is None else detail
        self.retry_after = retry_after
        self.fields: dict[str, Any] = fields
        super().__init__(self.detail)


class RequestError(ServiceError):
    """The request must change before it can succeed."""


class MalformedJson(RequestError):
    """The body is not JSON, not UTF-8, or nested too deeply."""

    type = "malformed-json"
    title = "Malformed JSON"
    default_detail = "the body is not JSON"


class Unauthorized(RequestError):
    """There is no API key, or a wrong one."""

    type = "unauthorized"
    title = "Unauthorized"
    default_detail = "this service wants `Authorization: Bearer <key>` with a key it knows"


class NotFound(RequestError):
    """There is no such route."""

    type = "not-found"
    title = "Not found"
    default_detail = "there is no such route"


class MethodNotAllowed(RequestError):
    """The route does not take this method."""

    type = "method-not-allowed"
    title = "Method not allowed"
    default_detail = "this route does not take this method"


class TooLarge(RequestError):
    """The request is bigger than any that could be admitted: its bytes, inputs or tokens."""

    type = "too-large"
    title = "Request too large"
    default_detail = "the request is too large: send several smaller ones"


class UnsupportedMediaType(RequestError):
    """The body is not application/json, or it is encoded."""

    type = "unsupported-media-type"
    title = "Unsupported media type"
    default_detail = "the body must be application/json, without Content-Encoding"


class InvalidRequest(RequestError):
    """The request is JSON, but not a request.

    Args:
        errors: what is wrong: (where, what), one or more.
    """

    type = "invalid-request"
    title = "Invalid request"

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        location, message = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        listed = [{"location": where, "message": what} for where, what in errors]
        super().__init__(f"{location}: {message}{more}", errors=listed)


class ComputeError(ServiceError):
    """The model could not score one input.

    Attributes:
        index: which of the submitted inputs.
    """

    def __init__(self, index: int) -> None:
        super().__init__(index=index)
        self.index = index


class NonFiniteScore(ComputeError):
    """The model's score of this input is NaN or infinite."""

    type = "non-finite-score"
    title = "Score not finite"
    default_detail = "the model's score of this input is not a finite number"


class CannotCompute(ComputeError):
    """The model fails on this input, even alone."""

    type = "cannot-compute"
    title = "Cannot compute"
    default_detail = "the model cannot compute this input, even alone"


class Unavailable(ServiceError):
    """The same request can succeed later, or at another replica."""

    default_retry_after: ClassVar[int] = 1

    def __init__(self, detail: str | None = None, *, retry_after: int | None = None) -> None:
        seconds = self.default_retry_after if retry_after is None else retry_after
        super().__init__(detail, retry_after=seconds)


class Overloaded(Unavailable):
    """There is more waiting than the service lets wait."""

    type = "overloaded"
    title = "Overloaded"
    default_detail = "too much is waiting already: try again later"


class Loading(Unavailable):
    """The model is being loaded, verified or warmed up."""

    type = "loading"
    title = "Loading"
    default_detail = "the model is not loaded yet"
    default_retry_after = 5


class Draining(Unavailable):
    """The service is about to end and takes nothing new."""

    type = "draining"
    title = "Draining"
    default_detail = "this replica is shutting down"


class Broken(Unavailable):
    """The model can score nothing any more: its device or its thread is lost until the process restarts."""

    type = "broken"
    title = "Broken"
    default_detail = "the model is out of order until the process restarts"
    default_retry_after = 5


class DeadlineExceeded(ServiceError):
    """The answer would come too late."""

    type = "deadline-exceeded"
    title = "Deadline exceeded"
    default_detail = "the deadline passed before the request was done"


#: Error to HTTP status; an error without a row of its own has that of the nearest base that has one.
STATUS: dict[type[Exception], int] = {
    MalformedJson: 400,
    Unauthorized: 401,
    NotFound: 404,
    MethodNotAllowed: 405,
    TooLarge: 413,
    UnsupportedMediaType: 415,
    InvalidRequest: 422,
    InputError: 422,
    TooLong: 422,
    NoTokens: 422,
    NotRenderable: 422,
    BadTokenId: 422,
    SpecialTokenInContent: 422,
    Exception: 500,
    NonFiniteScore: 500,
    CannotCompute: 500,
    # Not 429: RLHF trainers retry a 503 and give up on a 429.
    Overloaded: 503,
    Loading: 503,
    Draining: 503,
    Broken: 503,
    DeadlineExceeded: 504,
}

#: `type` and `title` of errors that come from below, where nobody knows of problems.
_INPUT_ERRORS: dict[type[InputError], tuple[str, str]] = {
    InputError: ("invalid-input", "Invalid input"),
    TooLong: ("too-long", "Input too long"),
    NoTokens: ("no-tokens", "Nothing to score"),
    NotRenderable: ("not-renderable", "No rendering for this input"),
    BadTokenId: ("bad-token-id", "Token id outside the vocabulary"),
    SpecialTokenInContent: ("special-token-in-content", "Special token inside a message"),
}


@dataclass(frozen=True, slots=True)
class ProblemDetails:
    """An error as a caller may see it (RFC 9457), without the request's own members.

    Attributes:
        type: stable name of the kind.
        retry_after: seconds, None where trying again does not help.
        fields: further members, such as `index`, `num_tokens` or `limit`.
    """

    type: str
    title: str
    status: int
    detail: str
    retry_after: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def status_of(error: Exception) -> int:
    """The HTTP status of `error`."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem_of(error: Exception) -> ProblemDetails:
    """What a caller is told about `error`; of an error that nobody foresaw, only that there was one."""
    status = status_of(error)
    if isinstance(error, InputError):
        name, title = next(_INPUT_ERRORS[kind] for kind in type(error).__mro__ if kind in _INPUT_ERRORS)
        return ProblemDetails(name, title, status, str(error), fields=_sizes(error))
    if not isinstance(error, ServiceError):
        error = ServiceError()
    return ProblemDetails(error.type, error.title, status, error.detail, error.retry_after, error.fields)


def rejection_types() -> list[str]:
    """The `type` of every error that turns a request away before it is computed."""
    kinds = [kind for kind, status in STATUS.items() if status not in {500, 504}]
    return [_INPUT_ERRORS[kind][0] if issubclass(kind, InputError) else _type_of(kind) for kind in kinds]


def _type_of(kind: type[Exception]) -> str:
    assert issubclass(kind, ServiceError)
    return kind.type


def _sizes(error: InputError) -> dict[str, int]:
    return {"num_tokens": error.num_tokens, "limit": error.limit} if isinstance(error, TooLong) else {}
