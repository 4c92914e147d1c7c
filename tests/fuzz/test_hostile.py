"""What nobody means well by: bodies that are hardly JSON, requests that are hardly HTTP, texts made to be slow.

Each is refused or answered at once, repeats nothing of what was sent, and leaves the service as it was.
"""

import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import httpx
import pytest
import tiny
from effort import times
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import listening
from sockets import connection

from reward_model.records import Prompt, Record
from reward_model.rendering import Rendered, Renderer
from reward_model.template import DECODER_TEMPLATE
from service import protocol, server
from service.access import UNKNOWN_ROUTE
from service.openapi import OPERATIONS
from service.stub import StubScorer

SECRET = "s3cr3t"
SAMPLE = {"inputs": [{"prompt": "Is 57 prime?", "response": "No."}]}
STUB = StubScorer()
ROUTES = {operation.path for operation in OPERATIONS} | {UNKNOWN_ROUTE}
STATUSES = {"200", "400", "401", "404", "405", "413", "415", "422", "499", "503", "504"}
#: For what is hardly HTTP; 504 where a body was announced and never came.
ANSWERS = {b"200", b"400", b"404", b"405", b"413", b"415", b"422", b"504"}
#: The one thing that is repeated, as its sender asks for.
REQUEST_ID = re.compile(rb'x-request-id: [^\r]*|"request_id": "(?:[^"\\]|\\.)*"')


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(STUB) as (found, _):
        yield found


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as made:
        yield made


def deep(opening: bytes, inside: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + inside + closing * depth


DEPTHS = st.sampled_from([10, 100, 200, 5000, 100_000])
BRACKETS = st.sampled_from([(b"[", b"]"), (b'{"s3cr3t":', b"}"), (b"[", b""), (b'{"":', b"]"), (b"[[],", b"]")])
#: Surrogates, bytes that are not UTF-8, control characters, bad escapes.
INSIDE = [
    b"",
    rb"\ud800",
    rb"\udc00\ud800",
    rb"\ud83d",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\xf4\x90\x80\x80",
    b"\0",
]
ESCAPES = [rb"\u0000", b"\\", b"\n", rb"\x41", rb"\u12", b"\xe2\x80\xae\xef\xbb\xbf"]
STRINGS = (st.sampled_from([*INSIDE, *ESCAPES]) | st.binary(max_size=8)).map(lambda inside: b'"s3cr3t ' + inside + b'"')
LONG = st.sampled_from([1000, 100_000]).map(lambda length: b'"' + b"k" * length + b'"')
NUMBERS = b"1e999 -1e999 NaN -Infinity -0 1. 01 +1 0x10 1e 1_0 true null 2147483648 18446744073709551616 1.0".split()
HUGE = [b"1" + b"0" * 400, b"9" * 5000, b"0." + b"0" * 400 + b"1"]
KEYS = STRINGS | LONG | st.sampled_from([b'"inputs"', b'"text"', b'"token_ids"', b'"prompt"', b'"messages"', b'""'])


def objects(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    pairs = st.lists(st.tuples(KEYS, values), max_size=4)
    return pairs.map(lambda pairs: b"{" + b",".join(key + b":" + value for key, value in pairs) + b"}")


def lists(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(values, max_size=4).map(lambda some: b"[" + b",".join(some) + b"]")


VALUES = st.recursive(
    STRINGS
    | LONG
    | st.sampled_from([*NUMBERS, *HUGE])
    | st.builds(lambda brackets, depth: brackets[0] * depth + b"1" + brackets[1] * depth, BRACKETS, DEPTHS),
    lambda values: lists(values) | objects(values),
    max_leaves=8,
)
#: Places of a request where something else may stand.
TEMPLATES = [
    b"$",
    b'{"inputs":$}',
    b'{"inputs":[$]}',
    b'{"inputs":[{"text":$}]}',
    b'{"inputs":[{"token_ids":[1,$]}]}',
    b'{"inputs":[{"prompt":$,"response":$}]}',
    b'{"inputs":[{"messages":[{"role":"user","content":$}]}]}',
    b'{"inputs":[{"text":"a"}],"truncate":$}',
    b'{"inputs":[{"text":"a"}],$:1}',
    b'{"inputs":[{"text":"a"}],"s3cr3t words":$}',
    b'{"inputs":[{"text":"a","s3cr3t words":$}]}',
    b'{"inputs":[],"inputs":$}',
    b'{"comparisons":[{"prompt":"a","responses":[$,$]}]}',
    b'{"comparisons":$}',
]
BODIES = st.builds(
    lambda before, template, value, after: before + template.replace(b"$", value) + after,
    st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b" \r\n\t", b"\0"]),
    st.sampled_from(TEMPLATES),
    VALUES,
    st.sampled_from([b"", b"", b"", b"{}", b"\0", b",", b"}"]),
)


@settings(max_examples=times(300, 10_000), deadline=None)
@given(path=st.sampled_from(["/score", "/compare", "/render"]), body=BODIES)
def test_a_body_that_is_hardly_json_is_refused_at_once_and_not_repeated(
    client: httpx.Client, path: str, body: bytes
) -> None:
    began = time.process_time()
    response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert time.process_time() - began < 1, "the time of this process, whatever else the machine does"
    assert response.status_code in {200, 400, 413, 422}
    if response.status_code != 200:
        assert response.headers["Content-Type"] == "application/problem+json"
        assert SECRET not in response.text
        assert len(response.content) < 10_000
    check_health(client)


def check_health(client: httpx.Client) -> None:
    answer = client.post("/score", json=SAMPLE)
    assert answer.status_code == 200
    assert client.get("/readyz").status_code == 200


METHODS = b"GET POST HEAD OPTIONS BREW PROPFIND get M-SEARCH CONNECT s3cr3t".split()
PATHS = b"/ * // /score /score/ /SCORE /score?x=s3cr3t /score#x http://x/score /%ff%00 /..%2f..%2fetc%2fpasswd".split()
CODED = [b"/%F0%9F%98%80", b"/" + b"a" * 5000, b"/score%0d%0aInjected:1", b"score", b""]
NAMES = (
    b"X-Request-Id X-Request-Timeout Authorization Content-Type Content-Length Transfer-Encoding Accept Host".split()
)
OTHERS = [b"Content-Encoding", b"Expect", b"Upgrade", b"Connection", b"A" * 5000]
CONTENTS = b"0 -1 99999999999999999999 chunked application/json close upgrade h2c 100-continue s3cr3t".split()
LISTS = [b"", b"gzip, chunked", b"Bearer s3cr3t", b"a" * 300, b"text/plain;version=0.0.4;q=nan"]
BINARY = st.binary(max_size=30).map(lambda some: b"s3cr3t" + re.sub(rb"[\r\n]", b"", some))
REQUESTS = st.builds(
    lambda method, path, version, headers, body: (
        b"%b %b %b\r\n%b\r\n%b" % (method, path, version, b"".join(b"%b: %b\r\n" % header for header in headers), body)
    ),
    st.sampled_from([*METHODS, b"X" * 500, b""]),
    st.sampled_from([*PATHS, *CODED]) | BINARY.map(lambda some: b"/" + some.replace(b" ", b"")),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b""]),
    st.lists(
        st.tuples(
            st.sampled_from([*NAMES, *OTHERS]) | st.text("abcXYZ-_!", min_size=1, max_size=20).map(str.encode),
            st.sampled_from([*CONTENTS, *LISTS]) | BINARY,
        ),
        max_size=5,
    ),
    st.sampled_from([b"", json.dumps(SAMPLE).encode(), b"0\r\n\r\n", b"fffffffffffffffff\r\n", b"\0" * 100]),
)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A client of a service that soon hangs up on whoever asks for nothing, so that what it answers has an end."""
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.05)
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 1.0)
    anew = httpx.Limits(max_keepalive_connections=0)
    with listening(STUB, timeout_seconds=5) as (url, _), httpx.Client(base_url=url, timeout=60, limits=anew) as made:
        yield made


@settings(
    max_examples=times(60, 5000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # one service for all of them
)
@given(sent=st.lists(REQUESTS, min_size=1, max_size=3).map(b"".join) | st.binary(max_size=200))
def test_a_request_that_is_hardly_http_is_answered_or_hung_up_on_and_leaves_no_trace(
    impatient: httpx.Client, sent: bytes
) -> None:
    began = time.process_time()
    received = exchange(str(impatient.base_url), sent)
    assert time.process_time() - began < 1, "the time of this process, whatever else the machine does"
    statuses = re.findall(rb"HTTP/1\.1 (\d+) ", received)
    assert statuses or b"\r\n\r\n" not in sent, "who has sent a head has an answer"
    assert set(statuses) <= ANSWERS
    assert SECRET not in REQUEST_ID.sub(b"", received).decode("latin-1")
    assert b"\r\nInjected" not in received
    check_labels(impatient)
    check_health(impatient)


def check_labels(client: httpx.Client) -> None:
    metrics = client.get("/metrics").text
    assert SECRET not in metrics
    seen = re.findall(r'^reward_request_duration_seconds_count\{route="(.*)",status="(.*)"\}', metrics, re.MULTILINE)
    assert {route for route, _ in seen} <= ROUTES
    assert {status for _, status in seen} <= STATUSES


def exchange(url: str, sent: bytes) -> bytes:
    """What comes back for `sent` until the service hangs up, which takes it up to ten seconds."""
    received = b""
    with connection(url) as connected, suppress(ConnectionError):
        connected.settimeout(10)
        connected.sendall(sent)
        while piece := connected.recv(65536):
            received += piece
    return received


class Tokenizing(StubScorer):
    """The stub with a real tokenizer and template."""

    def __init__(self) -> None:
        super().__init__()
        reads = tiny.tiny_tokenizer("decoder", chat_template=DECODER_TEMPLATE)
        self.renderer = Renderer(reads, rendering="chat_template", max_length=512, vocab_size=len(reads))

    def render(self, record: Record, *, truncate: bool = False) -> Rendered:
        return self.renderer.render(record, truncate=truncate)

    def render_group(self, prompt: Prompt, responses: Sequence[str], *, truncate: bool = False) -> list[Rendered]:
        return self.renderer.render_group(prompt, responses, truncate=truncate)


@pytest.mark.parametrize(("piece", "num_tokens"), [("\u0301", 512), ("<s>", 1)])
def test_a_megabyte_that_is_slow_to_tokenise_does_not_hold_up_others(piece: str, num_tokens: int) -> None:
    text = piece * (times(2**19, 2**20 - 1) // len(piece))
    slow = {"inputs": [{"prompt": text, "response": "x"}, {"text": text}], "truncate": True}
    with listening(Tokenizing()) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/score", json=slow, timeout=60)))
        thread.start()
        started, longest = time.process_time(), 0.0
        while thread.is_alive():
            began = time.process_time()
            check_health(client)
            longest = max(longest, time.process_time() - began)
        total = time.process_time() - started
        thread.join()
    assert answers[0].status_code == 200
    assert answers[0].json()["num_tokens"][1] == num_tokens
    assert longest < max(1, total / 2), "others are answered meanwhile, not afterwards"
