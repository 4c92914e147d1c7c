"""From the bytes of a request to a wire model: media type, size, JSON, shape, each with its own error.

Knows nothing of routes or models. The bytes are parsed once, and never shown in an error.
"""

from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.datastructures import Headers
from starlette.types import Receive

from service import structure
from service.errors import InvalidRequest, MalformedJson, Overloaded, TooLarge, UnsupportedMediaType
from service.places import path
from service.schemas import FORMS, Body, unknown_field

Model = TypeVar("Model", bound=Body)

#: Bytes above which parsing would hold up the event loop for longer than handing it to a thread takes.
INLINE_BYTES = 64 * 1024
#: Errors of one request that are listed.
MAX_ERRORS = 20


class ClientGone(Exception):
    """The client hung up: nobody is left to answer."""


def check_headers(headers: Headers, limit: int) -> None:
    """Refuses a body by what is said about it, before any of it is read.

    Raises:
        UnsupportedMediaType: it is encoded (there is nothing to unpack, hence no bomb), or it is not JSON.
        TooLarge: its Content-Length is over `limit` bytes.
    """
    if "content-encoding" in headers:
        msg = "Content-Encoding is not supported: send the body as it is"
        raise UnsupportedMediaType(msg)
    # Sent twice it is a list, which is no media type: whoever is in between may have read the other one.
    media_type, _, parameters = ",".join(headers.getlist("content-type")).partition(";")
    charset = parameters.replace(" ", "").replace('"', "").lower()
    if media_type.strip().lower() != "application/json" or charset not in {"", "charset=utf-8"}:
        msg = "the body must be sent as Content-Type: application/json, in UTF-8"
        raise UnsupportedMediaType(msg)
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > limit):
        raise _too_large(limit)


class BodyBudget:
    """The bytes that all bodies together may hold, so that a burst of big requests cannot use up the memory.

    Args:
        limit: bytes; at least as many as one body may have.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, size: int) -> None:
        """Raises Overloaded where `size` more bytes do not fit."""
        if self.held + size > self.limit:
            raise Overloaded(retry_after=1)
        self.held += size

    def give_back(self, size: int) -> None:
        """Undoes `take`."""
        self.held -= size


async def read(receive: Receive, limit: int, take: Callable[[int], None]) -> bytes:
    """The whole body, however it is sent.

    Args:
        receive: the request's.
        limit: bytes.
        take: called with the size of each piece before it is kept.

    Raises:
        TooLarge: it has more than `limit` bytes; no more than that is ever held.
        ClientGone: it did not come to its end.
    """
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        take(len(chunk))
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


def parse(model: type[Model], body: bytes, max_inputs: int) -> Model:
    """`body` as a `model`.

    Raises:
        MalformedJson: it is not JSON, not UTF-8, or too deep.
        TooLarge: it holds more inputs (or responses) than `max_inputs`, or more values than so many can have.
        InvalidRequest: it is JSON, but not a `model`; says where.
    """
    structure.check(body, max_inputs)
    raw = _json(body)
    inputs = model.count(raw)
    if inputs > max_inputs:
        msg = f"{inputs} inputs in one request, the limit is {max_inputs}"
        raise TooLarge(msg, limit=max_inputs)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidRequest([_located(detail) for detail in details[:MAX_ERRORS]]) from None


def _json(body: bytes) -> object:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        # The parser's messages are a reason and a position, never a piece of the input.
        if "hex escape" in str(error):
            msg = f"a lone surrogate is not text: {error}"
            raise InvalidRequest([("body", msg)]) from None
        raise MalformedJson(str(error)) from None


def _located(detail: ErrorDetails) -> tuple[str, str]:
    parts, message = detail["loc"], detail["msg"]
    if detail["type"] == "extra_forbidden":
        parts, message = parts[:-1], unknown_field(str(parts[-1]))
    if detail["type"] in {"model_type", "model_attributes_type"}:
        message = "must be an object"
    place = path([part for part in parts if part not in FORMS])
    return place or "body", message[:1].lower() + message[1:]


def _too_large(limit: int) -> TooLarge:
    msg = f"the body has more than {limit} bytes"
    return TooLarge(msg, limit=limit)
