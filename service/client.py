"""A client of a running reward-model service, in one file: needs Python 3.11 and httpx, nothing else of this project.

    with Client("http://127.0.0.1:8000") as client:
        client.wait_until_ready()
        scores = client.score([{"prompt": "Is 57 prime?", "response": "No."}])["scores"]

Long lists are divided into requests, some of which are under way at once; the answers are put together in the order of
the items. There is an answer for every item or an exception, never a part. Knows the HTTP contract (docs/service.md),
not what is behind it.
"""

import asyncio
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from typing import Any, Generic, TypeVar
from uuid import uuid4

import httpx

Item = Mapping[str, Any]
#: What the service answers; of several requests, lists one after the other and usage added up.
Answer = dict[str, Any]
Result = TypeVar("Result")  # an answer, or what is awaited for one

#: Requests under way at once, responses in each, and bytes of text in each. At four bytes a token that is 65,536 tokens
#: in all: work enough for a GPU, a quarter of what a service lets wait (RM_MAX_QUEUE_TOKENS), and done in time
#: (RM_TIMEOUT_SECONDS) by whatever computes 1,100 tokens a second.
IN_FLIGHT, MAX_INPUTS, MAX_BYTES = 4, 64, 64 * 1024
#: Said by a proxy while the service restarts, and by the service while it has too much to do or no model.
_TRY_AGAIN = frozenset({502, 503})
_CONNECTION_FAILED = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError, httpx.ProxyError)
#: Seconds: the first pause between two attempts and the longest; to connect; to keep an idle connection, which the
#: service does for 75.
_PAUSE, _LONGEST_PAUSE, _CONNECT, _KEEP_ALIVE = 0.1, 2.0, 5.0, 60.0
#: Where in a request something is, which is all that a problem says of its content.
_PLACE = re.compile(r"\b(inputs|comparisons)\[(\d+)\]")
#: What a route's items are called, and what there is one of for each of them.
_NAMES = {"/score": ("inputs", "scores"), "/compare": ("comparisons", "results"), "/render": ("inputs", "results")}

log = logging.getLogger(__name__)


class RewardServiceError(Exception):
    """There is no answer; the message says why."""


class TimedOut(RewardServiceError, TimeoutError):
    """There was no answer in time, retries included."""


class BadAnswer(RewardServiceError):
    """What came is not this service's answer, or the model changed between two requests of one call."""


class Refused(RewardServiceError):
    """The service's own error (RFC 9457), which trying again does not change.

    Attributes:
        status: of HTTP.
        type: stable name, such as "urn:reward-model:too-long".
        title, detail: in words.
        index: which of all items of the call; None where it is none in particular.
        problem: the whole document, with places as in the call.
    """

    def __init__(self, response: httpx.Response, start: int = 0) -> None:
        text = _PLACE.sub(lambda place: f"{place[1]}[{start + int(place[2])}]", response.text)
        try:
            problem = dict(json.loads(text))
        except (TypeError, ValueError):  # a proxy's own words
            problem = {"title": response.reason_phrase, "detail": text[:200]}
        self.status, self.problem = response.status_code, problem
        self.type, self.title = str(problem.get("type", "about:blank")), str(problem.get("title", ""))
        self.detail = str(problem.get("detail", ""))
        place = _PLACE.match(self.detail)
        self.index = problem["index"] = int(place[2]) if place else None
        super().__init__(f"{self.status} {self.title}: {self.detail}")


class _Calls(Generic[Result]):
    """What can be asked of the service, whoever does it."""

    def score(self, inputs: Sequence[Item], *, truncate: bool = False, normalize: bool = False) -> Result:
        """POST /score with any number of inputs."""
        return self._do("/score", inputs, {"truncate": truncate, "normalize": normalize})

    def compare(self, comparisons: Sequence[Item], *, truncate: bool = False, pairwise: bool = False) -> Result:
        """POST /compare with any number of comparisons."""
        return self._do("/compare", comparisons, {"truncate": truncate, "pairwise": pairwise})

    def render(self, inputs: Sequence[Item], *, truncate: bool = False) -> Result:
        """POST /render with any number of inputs."""
        return self._do("/render", inputs, {"truncate": truncate})

    def model(self) -> Result:
        """GET /model."""
        return self._do("/model")

    def wait_until_ready(self, seconds: float = 300.0) -> Result:
        """GET /model, once there is a model; until then nothing need even listen there."""
        return self._do("/model", seconds=seconds)

    def _do(self, *what: Any, **more: Any) -> Result:
        raise NotImplementedError


class AsyncClient(_Calls[Coroutine[Any, Any, Answer]], AbstractAsyncContextManager["AsyncClient"]):
    """A client for coroutines; belongs to one event loop.

    Args:
        url: where the service is, such as "http://127.0.0.1:8000".
        api_key: sent as Authorization: Bearer.
        timeout: seconds for a call, all its requests and retries included; the service is told what is left.
        in_flight: requests under way at once, of all calls together.
        max_inputs: responses in one request.
        max_bytes: text in one request, a comparison's prompt counted for each response. An item that alone has more is
            sent alone.
        transport: for certificates, proxies or an application in this process; default: httpx's own.

    Every method raises TimedOut, Refused, BadAnswer, or ValueError for what cannot be written as JSON. Connections that
    fail and statuses 502 and 503 are tried again, after Retry-After where it is given: scoring twice changes nothing.
    All other statuses are final, 413 too: `max_inputs` or `max_bytes` is more than this service takes, or one item is.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 300.0,
        in_flight: int = IN_FLIGHT,
        max_inputs: int = MAX_INPUTS,
        max_bytes: int = MAX_BYTES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if not min(timeout, in_flight, max_inputs, max_bytes) > 0 or httpx.URL(url).scheme not in {"http", "https"}:
            msg = "url must begin with http:// or https://; timeout, in_flight, max_inputs, max_bytes must be positive"
            raise ValueError(msg)
        self._timeout, self._in_flight, self._limits = timeout, in_flight, (max_inputs, max_bytes)
        self._slots = asyncio.Semaphore(in_flight)
        place = httpx.URL(url)
        self._http = httpx.AsyncClient(
            base_url=place.copy_with(userinfo=b""),  # a password must not be part of what is logged
            auth=(place.username, place.password) if place.userinfo else None,
            headers={"Authorization": f"Bearer {api_key.strip()}"} if api_key else {},
            timeout=httpx.Timeout(None, connect=_CONNECT),
            limits=httpx.Limits(max_connections=in_flight, keepalive_expiry=_KEEP_ALIVE),
            transport=transport,
        )

    async def aclose(self, *_: object) -> None:
        """Closes all connections."""
        await self._http.aclose()

    __aexit__ = aclose

    async def _do(
        self, path: str, items: Sequence[Item] = (), options: Item | None = None, seconds: float | None = None
    ) -> Answer:
        call, deadline = uuid4().hex, time.monotonic() + (self._timeout if seconds is None else seconds)
        if options is None:
            request = self._http.build_request("GET", path, headers={"X-Request-Id": call})
            return _parsed(await self._send(request, deadline, obedient=seconds is None))
        key, results = _NAMES[path]
        parts, answers = _divide(key, items, *self._limits), dict[int, Answer]()

        async def work() -> None:
            for start, pieces in parts:
                content = b'{"%s":[%s],%s' % (key.encode(), b",".join(pieces), _json(options)[1:])
                headers = {"Content-Type": "application/json", "X-Request-Id": f"{call}-{start}"}
                request = self._http.build_request("POST", path, content=content, headers=headers)
                answers[start] = _parsed(await self._send(request, deadline), start, results, len(pieces))

        workers = [asyncio.create_task(work()) for _ in range(max(1, min(self._in_flight, len(items))))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return _joined([answers[start] for start in sorted(answers)])

    async def _send(self, request: httpx.Request, deadline: float, *, obedient: bool = True) -> httpx.Response:
        """Sends until the answer is final; not sooner again than the service asks for, if `obedient`."""
        why, backoff = "nothing came back", _PAUSE
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline - time.monotonic()), self._slots:
                while True:
                    request.headers["X-Request-Timeout"] = f"{max(0.001, deadline - time.monotonic()):.3f}"
                    try:
                        response = await self._http.send(request)
                    except _CONNECTION_FAILED as error:
                        why, wait = f"{type(error).__name__} {error}", 0.0
                    else:
                        if response.status_code not in _TRY_AGAIN:
                            return response
                        asked = response.headers.get("Retry-After", "")
                        why, wait = str(Refused(response)), float(asked) if obedient and asked.isdecimal() else 0.0
                    wait += random.uniform(0.5, 1) * backoff  # noqa: S311 - so that not everybody comes at once
                    backoff = min(2 * backoff, _LONGEST_PAUSE)
                    if time.monotonic() + wait >= deadline:
                        break
                    log.info("%s again in %.2f s: %s", request.url, wait, why)
                    await asyncio.sleep(wait)
        msg = f"{request.url} did not answer in time (request {request.headers['X-Request-Id']}): {why}"
        raise TimedOut(msg)


class Client(_Calls[Answer], AbstractContextManager["Client"]):
    """The same for ordinary code, from any number of threads. Not across a fork: make one in each process.

    Args:
        url, options: see `AsyncClient`.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._client = AsyncClient(url, **options)
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reward-client", daemon=True)
        self._thread.start()

    def close(self, *_: object) -> None:
        """Closes all connections; nothing may be under way any more."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    __exit__ = close

    def _do(self, *what: Any, **more: Any) -> Answer:
        if self._loop.is_closed() or self._process != os.getpid():
            msg = "this client is closed, or was made before this process was forked"
            raise RuntimeError(msg)
        future = asyncio.run_coroutine_threadsafe(self._client._do(*what, **more), self._loop)  # noqa: SLF001
        try:
            return future.result()
        finally:
            future.cancel()  # after an interrupt nobody waits for it


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _divide(key: str, items: Sequence[Item], max_inputs: int, max_bytes: int) -> Iterator[tuple[int, list[bytes]]]:
    """Requests: where each starts and its items as JSON. For no items one without any, which the service refuses."""
    start, pieces, inputs, size = 0, list[bytes](), 0, 0
    for i, item in enumerate(items):
        try:
            piece, repeats = _json(item), max(1, len(item.get("responses", "x"))) - 1
            weight = len(piece) + repeats * len(_json(item.get("prompt")))
        except (AttributeError, TypeError, ValueError) as error:
            msg = f"{key}[{i}] is no JSON object: {error}"
            raise ValueError(msg) from error
        if pieces and (inputs + 1 + repeats > max_inputs or size + weight > max_bytes):
            yield start, pieces
            start, pieces, inputs, size = i, [], 0, 0
        pieces.append(piece)
        inputs, size = inputs + 1 + repeats, size + weight
    yield start, pieces


def _parsed(response: httpx.Response, start: int = 0, name: str | None = None, expected: int = 0) -> Answer:
    """The JSON of a response, with a list `name` of as many results as expected."""
    if response.status_code != 200:
        refused = Refused(response, start)
        raise TimedOut(str(refused)) if refused.status == 504 else refused
    try:
        answer = dict(response.json())
        if name is None or len(answer[name]) == expected:
            return answer
    except (KeyError, TypeError, ValueError):
        pass
    msg = f"what answers at {response.url} is no reward-model service: {response.text[:200]}"
    raise BadAnswer(msg)


def _joined(answers: Sequence[Answer]) -> Answer:
    """One answer: lists one after the other, usage added up; all else must be the same in all of them."""
    joined, *others = answers
    for answer in others:
        for name, value in answer.items():
            if isinstance(value, list):
                joined[name] += value
            elif name == "usage":
                joined[name] = {kind: joined[name][kind] + tokens for kind, tokens in value.items()}
            elif value != joined[name]:
                msg = f"`{name}` changed from {joined[name]} to {value} within one call: call again"
                raise BadAnswer(msg)
    return joined
