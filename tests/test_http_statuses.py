"""Every status that the service can answer, each with inputs that lead to it; and what all answers have in common."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import running, serving, settings_with

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.app import create_app
from service.scorer import Scorer
from service.stub import StubScorer

pytestmark = pytest.mark.anyio

#: Part of every text that is sent; no error may repeat it.
SECRET = "s3cr3t"
KEY = "correct horse battery staple"
SAMPLE = {"prompt": f"Say {SECRET}", "response": f"{SECRET}!"}
LONG = f"{SECRET} " * 100_000
MESSAGES = [{"role": "user", "content": SECRET}, {"role": "assistant", "content": SECRET}]


def guilty(rendered: Rendered) -> bool:
    return SECRET in (rendered.text or "")


def nan(batch: Sequence[Rendered], scores: list[Score]) -> list[Score]:
    return [Score(float("nan")) if guilty(one) else score for one, score in zip(batch, scores, strict=True)]


def fault(batch: Sequence[Rendered], scores: list[Score]) -> list[Score]:
    if any(map(guilty, batch)):
        raise RuntimeError(SECRET)
    return scores


async def chunked(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


def one(**fields: Any) -> dict[str, Any]:
    return {"inputs": [fields]}


def pair(**fields: Any) -> dict[str, Any]:
    return {"comparisons": [{"prompt": SECRET, "responses": [SECRET, "b"]} | fields]}


@dataclass(frozen=True)
class Case:
    """A request and its status.

    Attributes:
        body: JSON value, or raw bytes.
        kind: the problem's type; None where the request succeeds.
        members: what the problem must have besides, as far as it is fixed.
    """

    name: str
    status: int
    kind: str | None
    body: Any = field(default_factory=lambda: {"inputs": [SAMPLE]})
    path: str = "/score"
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)
    stream: bool = False
    load: Callable[[], Scorer] = StubScorer
    settings: dict[str, Any] = field(default_factory=dict)


def malformed(name: str, body: bytes) -> Case:
    return Case(name, 400, "malformed-json", body)


def invalid(name: str, body: Any, location: str | None = None, path: str = "/score") -> Case:
    members = {} if location is None else {"location": location}
    return Case(name, 422, "invalid-request", body, path, members=members)


DEEP = b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
TINY = {"max_body_bytes": 2000}
BIG = json.dumps(one(text=f"{SECRET} " * 1000)).encode()
UNFINISHED = {"prompt": SECRET, "response": SECRET, "finished": False}

CASES = [
    # 200: what looks odd and is right
    Case("a sample", 200, None),
    Case("an empty response", 200, None, one(prompt="", response="")),
    Case("NUL in a text", 200, None, one(text="a\x00b")),
    Case("a prompt of messages", 200, None, one(prompt=MESSAGES[:1], response=SECRET)),
    Case("a conversation", 200, None, one(messages=MESSAGES)),
    Case("token ids", 200, None, one(token_ids=[0, 7, 9])),
    Case("a response that was cut off", 200, None, {"inputs": [UNFINISHED]}),
    Case("100,000 tokens, to be cut", 200, None, one(prompt=LONG, response="b") | {"truncate": True}),
    Case("a normalised score", 200, None, one(text="a") | {"normalize": True}),
    Case("a deadline that never comes", 200, None, headers={"X-Request-Timeout": "9" * 400}),
    Case("a charset that is UTF-8", 200, None, headers={"Content-Type": "application/json; charset=utf-8"}),
    Case("a chunked body", 200, None, json.dumps(one(text="a")).encode(), stream=True),
    Case("the last of two duplicate keys", 200, None, b'{"inputs": 3, "inputs": [{"text": "a"}]}'),
    Case("a comparison", 200, None, pair(), "/compare"),
    Case("a rendering", 200, None, path="/render"),
    Case("the model", 200, None, None, "/model", "GET"),
    Case("HEAD", 200, None, None, "/livez", "HEAD"),
    # 400
    malformed("not JSON", SECRET.encode()),
    malformed("no body", b""),
    malformed("JSON and more", b"{} {}"),
    malformed("a literal NaN", b'{"inputs": [{"token_ids": [NaN]}]}'),
    malformed("a literal Infinity", b'{"inputs": [{"token_ids": [-Infinity]}]}'),
    malformed("invalid UTF-8", b'{"inputs": [{"text": "\xff"}]}'),
    malformed("a byte order mark", b"\xef\xbb\xbf{}"),
    malformed("nesting without end", DEEP),
    malformed("an integer of 5,000 digits", b'{"inputs": [{"token_ids": [' + b"9" * 5000 + b"]}]}"),
    # 401
    Case("no key", 401, "unauthorized", settings={"api_key_file": "keys"}),
    Case("a wrong key", 401, "unauthorized", headers={"Authorization": "Bearer x"}, settings={"api_key_file": "keys"}),
    Case("no bearer", 401, "unauthorized", headers={"Authorization": KEY}, settings={"api_key_file": "keys"}),
    Case("no key for a page", 401, "unauthorized", None, "/", "GET", settings={"api_key_file": "keys"}),
    Case("no key for no route", 401, "unauthorized", None, "/nothing", "GET", settings={"api_key_file": "keys"}),
    Case("a key", 200, None, headers={"Authorization": f"bearer {KEY}"}, settings={"api_key_file": "keys"}),
    Case("a probe needs no key", 200, None, None, "/readyz", "GET", settings={"api_key_file": "keys"}),
    # 404, 405
    Case("no such route", 404, "not-found", None, f"/{SECRET}", "GET"),
    Case("a slash too many", 404, "not-found", path="/score/"),
    Case("GET where POST is", 405, "method-not-allowed", None, method="GET"),
    Case("POST where GET is", 405, "method-not-allowed", path="/model"),
    # 413
    Case("a body too large", 413, "too-large", BIG, settings=TINY, members={"limit": 2000}),
    Case("a chunked body too large", 413, "too-large", BIG, stream=True, settings=TINY, members={"limit": 2000}),
    Case("too many inputs", 413, "too-large", {"inputs": [{"text": "a"}] * 4097}, members={"limit": 4096}),
    Case("a prompt that is repeated too often", 413, "too-large", pair(prompt=LONG, responses=["a"] * 20), "/compare"),
    Case("too many inputs of any kind", 413, "too-large", {"inputs": [SECRET] * 4097}, members={"limit": 4096}),
    Case("too many responses", 413, "too-large", pair(responses=["a"] * 4097), "/compare", members={"limit": 4096}),
    Case(
        "too many tokens", 413, "too-large", {"inputs": [{"token_ids": [1] * 512}] * 3907},
        members={"limit": 2_000_000, "num_tokens": 3907 * 512},
    ),
    Case(
        "a text longer than makes sense", 413, "too-large", {"inputs": [SAMPLE, {"text": "a" * (2**20 + 1)}]},
        members={"index": 1, "limit": 2**20},
    ),
    Case(
        "a conversation longer than makes sense", 413, "too-large",
        {"inputs": [{"prompt": "a" * 2**20, "response": "b"}], "truncate": True}, members={"index": 0, "limit": 2**20},
    ),
    Case(
        "a response longer than makes sense", 413, "too-large", pair(responses=["a", "b" * 2**20]),
        "/compare", members={"index": 0, "response": 1, "limit": 2**20},
    ),
    # 415
    Case("a form", 415, "unsupported-media-type", headers={"Content-Type": "application/x-www-form-urlencoded"}),
    Case("no media type", 415, "unsupported-media-type", headers={"Content-Type": ""}),
    Case(
        "another charset", 415, "unsupported-media-type",
        headers={"Content-Type": "application/json; charset=latin-1"},
    ),
    Case("a compressed body", 415, "unsupported-media-type", headers={"Content-Encoding": "gzip"}),
    Case("an encoding that is none", 415, "unsupported-media-type", headers={"Content-Encoding": "identity"}),
    # 422: the shape
    invalid("null", None, "body"),
    invalid("a list", [SECRET], "body"),
    invalid("nothing", {}, "inputs"),
    invalid("no inputs", {"inputs": []}, "inputs"),
    invalid("inputs that are an object", {"inputs": {SECRET: SECRET}}, "inputs"),
    invalid("an unknown field", one(text="a") | {"trunkate": True}, "body"),
    invalid("an unknown field of an input", one(**SAMPLE, score=1), "inputs[0]"),
    invalid("a field named like a text", one(text="a") | {f"{SECRET} is my text": 1}, "body"),
    invalid("an input of no form", one(), "inputs[0]"),
    invalid("an input of two forms", one(text=SECRET, token_ids=[1]), "inputs[0]"),
    invalid("a prompt without response", {"inputs": [SAMPLE, {"prompt": SECRET}]}, "inputs[1].response"),
    invalid("a prompt that is a number", one(prompt=3, response=SECRET), "inputs[0].prompt"),
    invalid("a prompt of no messages", one(prompt=[], response=SECRET), "inputs[0].prompt"),
    invalid("no messages", one(messages=[]), "inputs[0].messages"),
    invalid("no assistant", one(messages=MESSAGES[:1]), "inputs[0]"),
    invalid("an unknown role", one(messages=[{"role": SECRET, "content": "x"}]), "inputs[0].messages[0].role"),
    invalid("listed content", one(messages=[{"role": "user", "content": [SECRET]}]), "inputs[0].messages[0].content"),
    invalid("an unfinished text", one(text=SECRET, finished=False), "inputs[0]"),
    invalid("a flag that is a string", one(text=SECRET) | {"truncate": "true"}, "truncate"),
    invalid("no token ids", one(token_ids=[]), "inputs[0].token_ids"),
    invalid("a negative id", one(token_ids=[1, -1]), "inputs[0].token_ids[1]"),
    invalid("an id that is a float", one(token_ids=[1.0]), "inputs[0].token_ids[0]"),
    invalid("an id that is true", one(token_ids=[True]), "inputs[0].token_ids[0]"),
    invalid("an id that overflows", b'{"inputs": [{"token_ids": [1e999]}]}', "inputs[0].token_ids[0]"),
    invalid("a lone leading surrogate", b'{"inputs": [{"text": "s3cr3t \\ud800"}]}', "body"),
    invalid("a lone trailing surrogate", b'{"inputs": [{"text": "s3cr3t \\udc00 x"}]}', "body"),
    invalid("no comparisons", {"comparisons": []}, "comparisons", "/compare"),
    invalid("one response", pair(responses=[SECRET]), "comparisons[0].responses", "/compare"),
    invalid("a response that is null", pair(responses=[SECRET, None]), "comparisons[0].responses[1]", "/compare"),
    invalid("65 pairwise", pair(responses=["a"] * 65) | {"pairwise": True}, "comparisons[0].responses", "/compare"),
    invalid("normalize where it is not", one(text="a") | {"normalize": True}, "body", "/render"),
    *(
        Case(f"a deadline of {text!r}", 422, "invalid-request", headers={"X-Request-Timeout": text})
        for text in ("0", "-1", "nan", "inf", "1e999", "soon", "", "1_0", " ")
    ),
    # 422: the model's limits
    Case(
        "100,000 tokens", 422, "too-long", {"inputs": [SAMPLE, {"prompt": LONG, "response": "b"}]},
        members={"index": 1, "limit": 512},
    ),
    Case(
        "a response too long to cut", 422, "too-long", one(prompt="a", response=LONG) | {"truncate": True},
        members={"index": 0},
    ),
    Case(
        "a response too long to compare", 422, "too-long",
        {"comparisons": [{"prompt": "a", "responses": ["b", "c"]}, {"prompt": "a", "responses": ["b", LONG]}]},
        "/compare", members={"index": 1, "response": 1, "limit": 512},
    ),
    Case(
        "a special token in a message", 422, "special-token-in-content",
        {"inputs": [SAMPLE, {"prompt": "<|user|>", "response": "b"}]},
        members={"index": 1}, settings={"reject_special_tokens": True},
    ),
    # 500
    Case(
        "a score that is NaN", 500, "non-finite-score", {"inputs": [{"text": "a"}, SAMPLE]},
        load=lambda: StubScorer(fault=nan), members={"index": 1},
    ),
    Case(
        "a model that fails", 500, "cannot-compute", {"inputs": [{"text": "a"}, SAMPLE]},
        load=lambda: StubScorer(fault=fault), members={"index": 1},
    ),
    Case(
        "a comparison with a score that is NaN", 500, "non-finite-score",
        {"comparisons": [{"prompt": "a", "responses": ["b", "c"]}, {"prompt": "a", "responses": ["b", "c", SECRET]}]},
        "/compare", load=lambda: StubScorer(fault=nan), members={"index": 1, "response": 2},
    ),
    # 504
    Case(
        "a deadline that passes", 504, "deadline-exceeded", headers={"X-Request-Timeout": "0.05"},
        load=lambda: StubScorer(inputs_per_second=2),
    ),
    Case("a deadline of next to nothing", 504, "deadline-exceeded", headers={"X-Request-Timeout": f"0.{0:0400}1"}),
    Case(
        "the longest a request may take", 504, "deadline-exceeded", settings={"timeout_seconds": 0.05},
        load=lambda: StubScorer(inputs_per_second=2),
    ),
]  # fmt: skip


@asynccontextmanager
async def service_for(case: Case, directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    (directory / "keys").write_text(f"# rotated yearly\n\nan older key\n{KEY}\n")
    settings = dict(case.settings)
    if "api_key_file" in settings:
        settings["api_key_file"] = directory / settings["api_key_file"]
    async with serving(case.load, **settings) as (client, _):
        yield client


def raw_body(case: Case) -> bytes:
    return case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()


async def answer_to(case: Case, client: httpx.AsyncClient, raw: bytes) -> httpx.Response:
    headers = {"Content-Type": "application/json", "X-Request-Id": "request 1"} | case.headers
    content = None if case.method in {"GET", "HEAD"} else chunked(raw) if case.stream else raw
    return await client.request(case.method, case.path, headers=headers, content=content)


def check_problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert SECRET not in response.text
    assert "Traceback" not in response.text
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"urn:reward-model:{kind}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert ("Retry-After" in response.headers) == (status == 503)
    assert ("Allow" in response.headers) == (status == 405)
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    return problem


async def check_health(client: httpx.AsyncClient, case: Case) -> None:
    """That `case` has left a service that works."""
    for probe in ("/livez", "/readyz"):
        assert (await client.get(probe)).status_code == 200
    if "timeout_seconds" not in case.settings:
        headers = {"Authorization": f"Bearer {KEY}"}
        assert (await client.post("/score", json=one(text="fine"), headers=headers)).status_code == 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_status_is(case: Case, tmp_path: Path) -> None:
    async with service_for(case, tmp_path) as client:
        raw = raw_body(case)
        begun = time.process_time()
        response = await answer_to(case, client, raw)
        assert time.process_time() - begun < 1
        await check_health(client, case)
    assert response.headers["X-Request-Id"] == "request 1"
    assert "tokenize;dur=" in response.headers["Server-Timing"]
    if case.kind is None:
        assert response.status_code == case.status, response.text
        return
    problem = check_problem(response, case.status, case.kind)
    for name, value in case.members.items():
        where = problem["errors"][0] if name == "location" else problem
        assert where[name] == value, problem


async def test_while_the_model_loads_work_is_503_and_the_process_is_alive() -> None:
    loaded = threading.Event()

    def load() -> Scorer:
        loaded.wait(10)
        return StubScorer()

    async with running(create_app(settings_with(), load)) as client:
        try:
            for method, path in (
                ("POST", "/score"),
                ("POST", "/compare"),
                ("POST", "/render"),
                ("GET", "/model"),
                ("GET", "/readyz"),
            ):
                response = await client.request(method, path, json={"inputs": [SAMPLE]})
                check_problem(response, 503, "loading")
            for path in ("/livez", "/metrics", "/", "/docs", "/openapi.json"):
                assert (await client.get(path)).status_code == 200
        finally:
            loaded.set()


@asynccontextmanager
async def full(body: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A service that computes one request with `body`, has a queue of 20 tokens full of more, and gets no further."""
    released = threading.Event()
    released.set()  # it is warmed up first

    def held(_: Sequence[Rendered], scores: list[Score]) -> list[Score]:
        assert released.wait(60)
        return scores

    async with serving(lambda: StubScorer(fault=held), max_queue_tokens=20, max_batch_tokens=1) as (client, _):
        sent: list[asyncio.Task[httpx.Response]] = []
        released.clear()
        try:
            while not any(task.done() for task in sent):
                sent.append(asyncio.create_task(client.post("/score", json=body)))
                await asyncio.sleep(0.02)
            yield client
        finally:
            for task in sent:
                task.cancel()
            await asyncio.gather(*sent, return_exceptions=True)
            released.set()


async def test_when_too_much_waits_work_is_503_and_readiness_stays() -> None:
    async with full(one(text=f"{SECRET} 1")) as client:
        assert (await client.get("/readyz")).status_code == 200
        response = await client.post("/score", json=one(text=f"{SECRET} " * 15))
        check_problem(response, 503, "overloaded")
        assert 1 <= int(response.headers["Retry-After"]) <= 60


async def test_until_the_delay_is_over_a_service_that_ends_serves_on_and_sends_its_clients_elsewhere() -> None:
    async with serving() as (client, runtime):
        assert "connection" not in (await client.post("/score", json={"inputs": [SAMPLE]})).headers
        draining = asyncio.create_task(runtime.drain(delay_seconds=60))
        await asyncio.sleep(0)
        unready = await client.get("/readyz")
        check_problem(unready, 503, "draining")
        assert runtime.metrics.registry.get_sample_value("reward_ready") == 0
        served = await client.post("/score", json={"inputs": [SAMPLE]})
        assert served.status_code == 200
        assert served.headers["connection"] == unready.headers["connection"] == "close"
        draining.cancel()


async def test_a_service_that_drains_finishes_what_it_has_and_refuses_the_rest() -> None:
    async with serving(lambda: StubScorer(inputs_per_second=4), drain_seconds=5.0) as (client, runtime):
        accepted = asyncio.create_task(client.post("/score", json={"inputs": [SAMPLE]}))
        await asyncio.sleep(0.1)
        draining = asyncio.create_task(runtime.drain())
        await asyncio.sleep(0.05)
        check_problem(await client.get("/readyz"), 503, "draining")
        refused = await client.post("/score", json={"inputs": [SAMPLE]})
        check_problem(refused, 503, "draining")
        assert refused.headers["connection"] == "close", "the next request should reach another replica"
        assert (await client.get("/livez")).status_code == 200
        assert (await accepted).status_code == 200
        await draining


async def test_what_is_not_done_when_the_drain_time_is_over_is_503() -> None:
    async with serving(lambda: StubScorer(inputs_per_second=1), drain_seconds=0.1) as (client, runtime):
        accepted = asyncio.create_task(client.post("/score", json={"inputs": [SAMPLE]}))
        await asyncio.sleep(0.1)
        await runtime.drain()
        check_problem(await accepted, 503, "draining")


async def test_a_deadline_that_is_sent_twice_is_refused_rather_than_guessed() -> None:
    headers = [("X-Request-Timeout", "5"), ("X-Request-Timeout", "50")]
    async with serving() as (client, _):
        response = await client.post("/score", json={"inputs": [SAMPLE]}, headers=headers)
    check_problem(response, 422, "invalid-request")


async def test_a_media_type_that_is_sent_twice_is_refused_rather_than_guessed() -> None:
    for other in ("text/plain", "application/json"):
        headers = [("Content-Type", "application/json"), ("Content-Type", other)]
        async with serving() as (client, _):
            response = await client.post("/score", content=json.dumps({"inputs": [SAMPLE]}), headers=headers)
        check_problem(response, 415, "unsupported-media-type")


async def test_what_could_not_be_scored_anyway_is_refused_before_it_is_looked_at_and_rendering_goes_on() -> None:
    not_json: dict[str, Any] = {"content": "{", "headers": {"Content-Type": "application/json"}}
    async with full({"inputs": [{"token_ids": [1] * 10}]}) as client:
        check_problem(await client.post("/score", **not_json), 503, "overloaded")
        check_problem(await client.post("/render", **not_json), 400, "malformed-json")
        assert (await client.post("/render", json={"inputs": [SAMPLE]})).status_code == 200
