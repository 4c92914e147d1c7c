"""The client gives every input its score, in order, whatever happens on the way, or says why there is none."""

import asyncio
import math
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from gates import DROP, gate
from serving import listening, serving

from reward_model.records import Conversation, as_prompt
from service import client as client_module
from service.client import AsyncClient, BadAnswer, Client, Refused, TimedOut, _divide, _joined
from service.runtime import Runtime
from service.stub import StubScorer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "client.md"
SCORER = StubScorer(max_length=64)
OVERLOADED = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"
BROKEN_OFF = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"


def sample(number: int) -> dict[str, str]:
    return {"prompt": f"question {number}", "response": "word " * (number % 9)}


def right_score(number: int) -> float:
    record = Conversation(as_prompt(f"question {number}"), "word " * (number % 9))
    return SCORER.score(SCORER.render(record)).value


def requests(url: str, status: int) -> int:
    """How many requests for work the service at `url` has answered so."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    counted = [one for one in lines if "duration_seconds_count" in one and f'status="{status}"' in one]
    return sum(int(float(one.split()[-1])) for one in counted if '"/score"' in one or '"/compare"' in one)


def until_live(url: str) -> None:
    """Waits until something listens at `url`."""
    for _ in range(500):
        with suppress(httpx.ConnectError):
            if httpx.get(f"{url}/livez").status_code == 200:
                return
        time.sleep(0.02)
    pytest.fail("the service does not listen")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(SCORER) as (url, _), Client(url) as client:
        client.wait_until_ready(10)
        yield url


def test_scores_keep_their_order_over_requests_that_overtake_each_other(url: str) -> None:
    async def main() -> tuple[dict[str, Any], int]:
        rng = random.Random(0)
        async with gate(url) as between:
            between.delay = lambda: rng.uniform(0, 0.02)
            async with AsyncClient(between.url, max_inputs=7, in_flight=5) as client:
                return await client.score([sample(i) for i in range(300)]), between.most

    before = requests(url, 200)
    answer, most = asyncio.run(main())
    assert answer["scores"] == [right_score(i) for i in range(300)]
    assert len(answer["num_tokens"]) == len(answer["truncated"]) == 300
    assert answer["usage"]["input_tokens"] == sum(answer["num_tokens"])
    assert most == 5
    assert requests(url, 200) - before == math.ceil(300 / 7)


def test_many_requests_say_what_one_would(url: str) -> None:
    comparisons = [{"prompt": f"q {i}", "responses": [f"a {i}", f"b {i}", "c" * i]} for i in range(20)]
    inputs = [sample(i) for i in range(20)]
    with Client(url) as whole, Client(url, max_inputs=1) as divided:
        for ask in (
            lambda client: client.score(inputs, normalize=True),
            lambda client: client.render(inputs),
            lambda client: client.compare(comparisons, pairwise=True),
        ):
            one, many = ask(whole), ask(divided)
            one.pop("usage", None), many.pop("usage", None)
            assert many == one


def test_a_request_holds_what_its_limits_allow_and_at_least_one_item() -> None:
    def sizes(items: list[dict[str, Any]], max_inputs: int, max_bytes: int) -> list[tuple[int, int]]:
        return [(start, len(pieces)) for start, pieces in _divide("inputs", items, max_inputs, max_bytes)]

    texts = [{"text": "x" * 89}] * 5  # 100 bytes each
    assert sizes(texts, 2, 10**6) == [(0, 2), (2, 2), (4, 1)]
    assert sizes(texts, 100, 399) == [(0, 3), (3, 2)]
    assert sizes(texts, 100, 10) == [(i, 1) for i in range(5)]
    # What is rendered counts, so a prompt once for each response.
    prompted = [{"prompt": "y" * 98, "responses": ["a"] * 10}] * 3
    assert sizes(prompted, 20, 10**6) == [(0, 2), (2, 1)]
    assert sizes(prompted, 100, 2000) == [(i, 1) for i in range(3)]
    assert sizes(prompted, 100, 2300) == [(0, 2), (2, 1)]
    assert sizes([{"text": "ж"}], 100, 10) == [(0, 1)]


def test_nothing_to_score_is_refused_by_the_service(url: str) -> None:
    with Client(url) as client, pytest.raises(Refused, match="inputs: list should have at least 1 item"):
        client.score([])


@pytest.mark.parametrize("bad", ["\ud800", math.nan, b"bytes", {1, 2}])
def test_what_is_no_json_is_an_error_that_names_it(url: str, bad: object) -> None:
    with Client(url, max_inputs=2) as client, pytest.raises(ValueError, match=r"^inputs\[5\] is no JSON object"):
        client.score([*(sample(i) for i in range(5)), {"text": bad}])


def test_an_overloaded_service_is_asked_again_when_it_says(url: str) -> None:
    async def main() -> tuple[list[float], float, list[dict[str, str]]]:
        async with gate(url) as between, AsyncClient(between.url) as client:
            between.acts += [OVERLOADED]
            started = time.monotonic()
            answer = await client.score([sample(1)])
            return answer["scores"], time.monotonic() - started, between.heads

    scores, seconds, (first, second) = asyncio.run(main())
    assert scores == [right_score(1)]
    assert 1 <= seconds < 2
    assert first["x-request-id"] == second["x-request-id"]
    assert float(second["x-request-timeout"]) <= float(first["x-request-timeout"]) - 1


def test_a_service_that_stays_overloaded_ends_in_an_error_that_says_so(url: str) -> None:
    async def main() -> float:
        async with gate(url) as between, AsyncClient(between.url, timeout=1.7) as client:
            between.acts += [OVERLOADED] * 20
            started = time.monotonic()
            with pytest.raises(TimedOut, match=r"did not answer in time.*503.*busy"):
                await client.score([sample(1), sample(2)])
            return time.monotonic() - started

    assert asyncio.run(main()) < 1.7, "it is known before that the next attempt would come too late"


def test_a_service_that_never_gets_ready_is_waited_for_until_then() -> None:
    release = threading.Event()

    class Slow(StubScorer):
        @property
        def info(self) -> Any:
            release.wait(30)
            return super().info

    with listening(Slow(), ready=False) as (url, _), Client(url, timeout=0.5) as client:
        until_live(url)
        with pytest.raises(TimedOut, match="503 Loading"):
            client.score([sample(1)])
        with pytest.raises(TimedOut, match="503 Loading"):
            client.wait_until_ready(0.6)
        release.set()
        assert client.wait_until_ready(10)["name"] == "stub"


def test_a_connection_that_breaks_before_or_in_the_answer_is_made_again(url: str) -> None:
    async def main() -> list[float]:
        async with gate(url) as between, AsyncClient(between.url, max_inputs=2) as client:
            between.acts += [DROP, BROKEN_OFF, DROP]
            return list((await client.score([sample(i) for i in range(20)]))["scores"])

    assert asyncio.run(main()) == [right_score(i) for i in range(20)]


def test_nobody_there_is_an_error_that_says_so() -> None:
    with Client("http://127.0.0.1:9", timeout=0.3) as client, pytest.raises(TimedOut, match=r"/model.*ConnectError"):
        client.model()
    with pytest.raises(ValueError, match="http://"):
        Client("127.0.0.1:8000")


def test_a_call_takes_no_longer_than_it_may() -> None:
    with listening(StubScorer(inputs_per_second=40)) as (url, _), Client(url, timeout=0.5) as client:
        client.wait_until_ready(10)
        started = time.monotonic()
        with pytest.raises(TimedOut):
            client.score([sample(i) for i in range(40)])
        assert time.monotonic() - started < 1


def test_an_error_names_the_place_in_the_whole_list(url: str) -> None:
    many: list[dict[str, Any]] = [sample(i) for i in range(100)]
    before = requests(url, 422)
    with Client(url, max_inputs=8) as client:
        with pytest.raises(Refused) as caught:
            client.score([*many, {"prompt": "long", "response": "word " * 100}, *many])
        assert (caught.value.status, caught.value.type) == (422, "urn:reward-model:too-long")
        assert (caught.value.index, caught.value.problem["index"], caught.value.problem["limit"]) == (100, 100, 64)
        assert caught.value.detail.startswith("inputs[100]: ")
        with pytest.raises(Refused) as caught:
            client.score([*many, {"prompt": "no response"}, *many])
        assert (caught.value.index, caught.value.title) == (100, "Invalid request")
        assert caught.value.problem["errors"][0]["location"] == "inputs[100].response"
        with pytest.raises(Refused) as caught:
            client.compare(
                [{"prompt": "q", "responses": ["a", "b"]}] * 50 + [{"prompt": "q", "responses": ["a", "word " * 100]}]
            )
        assert caught.value.detail.startswith("comparisons[50].responses[1]: ")
        assert (caught.value.index, caught.value.problem["response"]) == (50, 1)
    assert requests(url, 422) - before == 3, "what is refused is not sent again"


def test_a_score_that_cannot_be_computed_is_an_error_at_its_place() -> None:
    def fault(batch: Any, scores: Any) -> Any:
        if any("poison" in one.text for one in batch):
            raise RuntimeError
        return scores

    with listening(StubScorer(fault=fault)) as (url, _), Client(url, max_inputs=4) as client:
        client.wait_until_ready(10)
        with pytest.raises(Refused, match="500") as caught:
            client.score([*(sample(i) for i in range(10)), {"text": "poison"}])
    assert caught.value.index == 10


def test_a_key_is_sent_and_a_wrong_one_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("right\n")
    with listening(SCORER, api_key_file=tmp_path / "keys") as (url, _), Client(url, api_key="right\n") as client:
        assert client.wait_until_ready(10)["max_length"] == 64
        assert client.score([sample(1)])["scores"] == [right_score(1)]
        for key in ("wrong", None):
            with Client(url, api_key=key) as other, pytest.raises(Refused, match="401 Unauthorized"):
                other.score([sample(1)])


def test_an_application_in_this_process_needs_no_socket() -> None:
    async def main() -> list[float]:
        async with serving(lambda: SCORER) as (inside, _):
            client = AsyncClient("http://service", transport=inside._transport, max_inputs=3)
            return list((await client.score([sample(i) for i in range(10)]))["scores"])

    assert asyncio.run(main()) == [right_score(i) for i in range(10)]


def test_requests_larger_than_a_service_takes_are_refused_and_smaller_ones_go_through() -> None:
    inputs = [sample(i) for i in range(10)]
    with listening(SCORER, max_inputs=3) as (url, _), Client(url) as client, Client(url, max_inputs=3) as careful:
        client.wait_until_ready(10)
        with pytest.raises(Refused, match="413 Request too large: 10 inputs in one request, the limit is 3") as caught:
            client.score(inputs)
        assert caught.value.index is None
        assert careful.score(inputs)["scores"] == [right_score(i) for i in range(10)]


def test_threads_can_share_a_client_and_its_connections_stay_few(url: str) -> None:
    async def main() -> tuple[list[list[float]], int]:
        async with gate(url) as between:
            with Client(between.url, in_flight=3, max_inputs=2) as client, ThreadPoolExecutor(16) as threads:
                calls = [[sample(i + j) for j in range(6)] for i in range(60)]
                scores = asyncio.to_thread(list, threads.map(lambda one: client.score(one)["scores"], calls))
                return await scores, between.most

    scores, most = asyncio.run(main())
    assert scores == [[right_score(i + j) for j in range(6)] for i in range(60)]
    assert most <= 3


def test_a_cancelled_call_closes_its_sockets_and_leaves_no_work_behind() -> None:
    async def main(url: str, runtime: Runtime) -> None:
        async with gate(url) as between, AsyncClient(between.url, max_inputs=4) as client:
            await client.wait_until_ready(10)
            task = asyncio.create_task(client.score([sample(i) for i in range(1000)]))
            await asyncio.sleep(0.3)
            assert between.open == 4
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for _ in range(300):
                if not between.open and runtime.bodies.held == 0:
                    return
                await asyncio.sleep(0.01)
            pytest.fail(f"{between.open} connections are open")

    with listening(StubScorer(inputs_per_second=20)) as (url, runtime):
        asyncio.run(main(url, runtime))


@pytest.mark.parametrize("body", ["<html>", "[]", '{"scores": [1.0, 2.0]}', '{"results": []}'])
def test_another_kind_of_server_is_recognised(url: str, body: str) -> None:
    async def main() -> None:
        async with gate(url) as between, AsyncClient(between.url) as client:
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            between.acts += [(head + body).encode()]
            with pytest.raises(BadAnswer, match="no reward-model service"):
                await client.score([sample(1)])

    asyncio.run(main())


def test_scores_of_two_models_are_never_mixed() -> None:
    def answer(fingerprint: str) -> dict[str, Any]:
        return {"fingerprint": fingerprint, "scores": [1.0], "usage": {"input_tokens": 3, "computed_tokens": 2}}

    joined = {"fingerprint": "a", "scores": [1.0] * 2, "usage": {"input_tokens": 6, "computed_tokens": 4}}
    assert _joined([answer("a"), answer("a")]) == joined
    with pytest.raises(BadAnswer, match="`fingerprint` changed from a to b"):
        _joined([answer("a"), answer("b")])


def test_a_client_that_cannot_work_any_more_says_so(url: str) -> None:
    with Client(url) as client:
        client._process += 1
        with pytest.raises(RuntimeError, match="forked"):
            client.model()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.model()
    with pytest.raises(ValueError, match="must be positive"):
        AsyncClient(url, in_flight=0)


def test_the_file_works_alone_and_loads_nothing_of_this_project(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_bytes(Path(client_module.__file__).read_bytes())
    heavy = {"service", "reward_model", "torch", "transformers", "fastapi", "pydantic", "numpy"}
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import rewards; print({heavy!r} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


@pytest.mark.parametrize("example", PAGE.read_text(encoding="utf-8").split("```python\n")[1:], ids=("sync", "async"))
def test_the_examples_of_the_page_run(url: str, example: str, tmp_path: Path) -> None:
    code, _, _ = example.partition("```")
    script = tmp_path / "example.py"
    script.write_text(code.replace("http://127.0.0.1:8000", url))
    run = subprocess.run(
        [sys.executable, script], check=False, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout


def test_a_password_in_the_url_is_in_no_error() -> None:
    with Client("http://user:secret@127.0.0.1:1", timeout=0.2) as client, pytest.raises(TimedOut) as failed:
        client.model()
    assert "127.0.0.1:1/model" in str(failed.value)
    assert "secret" not in str(failed.value)
