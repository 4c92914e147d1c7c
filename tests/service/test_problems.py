"""How errors become answers."""

import json
import logging
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from reward_model.errors import BadTokenId, TooLong
from service.access import Access
from service.body import ClientGone
from service.errors import InvalidRequest, MethodNotAllowed, Overloaded, Unauthorized, problem_of
from service.logs import JsonFormatter
from service.metrics import Metrics
from service.places import LocatedError, as_input, as_response, path
from service.problems import Problems, response_of

pytestmark = pytest.mark.anyio


def app_that(error: Exception) -> Access:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    metrics = Metrics(CollectorRegistry())
    return Access(Problems(fail, metrics), metrics, ["/"], lambda: False)


async def answer_to(error: Exception) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app_that(error)), base_url="http://x") as client:
        return await client.get("/")


async def test_a_problem_has_the_members_of_rfc_9457() -> None:
    response = await answer_to(Overloaded(retry_after=7))
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "7"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json() == {
        "type": "urn:reward-model:overloaded",
        "title": "Overloaded",
        "status": 503,
        "detail": "too much is waiting already: try again later",
        "request_id": response.headers["X-Request-Id"],
    }


async def test_an_error_of_one_input_says_which_and_keeps_its_numbers() -> None:
    error = TooLong("5120 tokens, the limit is 4096", num_tokens=5120, limit=4096)
    problem = (await answer_to(LocatedError(error, as_input(3)))).json()
    assert problem["detail"] == "inputs[3]: 5120 tokens, the limit is 4096"
    assert (problem["index"], problem["num_tokens"], problem["limit"]) == (3, 5120, 4096)
    assert problem["type"] == "urn:reward-model:too-long"


async def test_an_error_of_one_response_says_of_which_comparison() -> None:
    problem = (await answer_to(LocatedError(BadTokenId("outside"), as_response(1, 0)))).json()
    assert problem["detail"] == "comparisons[1].responses[0]: outside"
    assert (problem["index"], problem["response"], problem["status"]) == (1, 0, 422)


async def test_all_that_is_wrong_with_a_request_is_listed() -> None:
    problem = (await answer_to(InvalidRequest([("a", "is odd"), ("b", "is even")]))).json()
    assert problem["detail"] == "a: is odd (and 1 more)"
    assert problem["errors"] == [{"location": "a", "message": "is odd"}, {"location": "b", "message": "is even"}]


async def test_of_an_unforeseen_error_the_caller_learns_nothing_and_the_log_kinds_and_places(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = "the password is swordfish"
    error = ValueError(said)
    error.__cause__ = KeyError(said)
    with caplog.at_level(logging.ERROR):
        response = await answer_to(error)
    assert response.status_code == 500
    assert "swordfish" not in response.text
    (record,) = caplog.records
    assert record.fields["request_id"] == response.headers["X-Request-Id"]  # type: ignore[attr-defined]
    logged = JsonFormatter().format(record)
    assert all(part in logged for part in ("KeyError", "ValueError", Path(__file__).name))
    assert "swordfish" not in logged


async def test_a_client_that_hung_up_gets_no_answer() -> None:
    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await app_that(ClientGone())(scope, None, send)  # type: ignore[arg-type]
    assert sent == []


async def test_an_answer_that_breaks_off_is_not_followed_by_a_second_one() -> None:
    async def break_off(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("fine")(scope, receive, send)
        raise ZeroDivisionError

    app = Problems(break_off, Metrics(CollectorRegistry()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        with pytest.raises(ZeroDivisionError):
            await client.get("/")


def test_the_headers_of_401_and_405_say_what_would_do() -> None:
    assert response_of(problem_of(Unauthorized()), "1").headers["WWW-Authenticate"] == "Bearer"
    response = response_of(problem_of(MethodNotAllowed(allow=["GET", "HEAD"])), "1")
    assert response.headers["Allow"] == "GET, HEAD"
    assert json.loads(bytes(response.body))["allow"] == ["GET", "HEAD"]


def test_a_path_is_written_as_people_write_it() -> None:
    assert path(["inputs", 3, "messages", 0, "role"]) == "inputs[3].messages[0].role"
    assert path([]) == ""


async def test_a_probe_that_is_answered_503_is_nobody_turned_away() -> None:
    metrics = Metrics(CollectorRegistry())

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise Overloaded

    app = Access(Problems(fail, metrics), metrics, ["/readyz", "/score"], lambda: False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        for path in ("/readyz", "/livez", "/score"):
            assert (await client.get(path)).status_code == 503
    assert metrics.registry.get_sample_value("reward_rejected_total", {"reason": "overloaded"}) == 1
