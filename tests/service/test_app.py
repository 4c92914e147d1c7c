"""The service as its callers see it: answers, headers, logs, metrics, keys, hang-ups."""

import asyncio
import json
import logging
import math
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from serving import running, serving, settings_with, until_ready
from starlette.types import Scope

from reward_model.calibration import Calibration
from reward_model.errors import CheckpointRefused, NotRenderable
from reward_model.records import Conversation, Record, Text, as_prompt
from reward_model.rendering import Rendered
from reward_model.scores import Score
from service import auth
from service.app import create_app
from service.scorer import DeviceLost, ModelInfo, Scorer
from service.stub import StubScorer

pytestmark = pytest.mark.anyio

SAMPLE = {"prompt": "Hi", "response": "Hello there"}


async def test_score_answers_one_raw_score_per_input_in_order() -> None:
    scorer = StubScorer()
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]
    inputs = [SAMPLE, {"text": "a b"}, {"token_ids": [7, 8, 9]}, {"messages": messages}]
    async with serving(lambda: scorer) as (client, _):
        answer = (await client.post("/score", json={"inputs": inputs})).json()
    sample = scorer.render(Conversation(as_prompt("Hi"), "Hello there"))
    text = scorer.render(Text("a b"))
    assert answer["scores"][0] == answer["scores"][3] == scorer.score(sample).value
    assert answer["scores"][1] == scorer.score(text).value
    assert answer["num_tokens"] == [len(sample.token_ids), len(text.token_ids), 3, len(sample.token_ids)]
    assert answer["truncated"] == [False] * 4
    assert answer["usage"]["input_tokens"] == sum(answer["num_tokens"])
    assert (answer["model"], answer["fingerprint"]) == ("stub", scorer.info.fingerprint)
    assert "attributes" not in answer


async def test_normalize_is_in_units_of_the_checkpoints_std() -> None:
    async with serving() as (client, runtime):
        raw = (await client.post("/score", json={"inputs": [SAMPLE]})).json()["scores"][0]
        answer = (await client.post("/score", json={"inputs": [SAMPLE], "normalize": True})).json()
        reward = runtime.engine().scorer.info.reward
    assert reward is not None
    assert answer["scores"] == [(raw - reward.mean) / reward.std]


async def test_attributes_are_there_for_models_that_have_several() -> None:
    async with serving(lambda: StubScorer(attributes=("helpful", "harmless"))) as (client, _):
        answer = (await client.post("/score", json={"inputs": [SAMPLE]})).json()
    (attributes,) = answer["attributes"]
    assert set(attributes) == {"helpful", "harmless"}
    assert answer["scores"][0] == pytest.approx(sum(attributes.values()) / 2)


async def test_compare_ranks_the_responses_of_each_comparison() -> None:
    comparisons = [{"prompt": "Hi", "responses": ["a", "b", "c"]}, {"prompt": "Ho", "responses": ["d", "e"]}]
    body = {"comparisons": comparisons, "pairwise": True}
    async with serving() as (client, _):
        answer = (await client.post("/compare", json=body)).json()
        flat = [{"prompt": c["prompt"], "response": r} for c in comparisons for r in c["responses"]]
        scores = (await client.post("/score", json={"inputs": flat})).json()["scores"]
    first, second = answer["results"]
    assert first["scores"] + second["scores"] == scores
    assert first["ranking"] == sorted(range(3), key=lambda i: -scores[i])
    assert second["best"] == second["ranking"][0]
    assert (answer["calibrated"], answer["temperature"]) == (True, 1.5)
    margin = abs(scores[3] - scores[4])
    assert second["margin"] == margin
    assert second["probability"] == pytest.approx(1 / (1 + math.exp(-margin / 1.5)))
    assert second["pairwise"][0][0] == 0.5
    assert [len(one["num_tokens"]) for one in answer["results"]] == [3, 2]


async def test_the_prompt_of_a_comparison_is_cut_once_for_the_longest_response() -> None:
    prompt = " ".join(f"w{i}" for i in range(40))
    body = {"comparisons": [{"prompt": prompt, "responses": ["a", "b " * 20]}], "truncate": True}
    async with serving(lambda: StubScorer(max_length=40)) as (client, _):
        (result,) = (await client.post("/compare", json=body)).json()["results"]
    assert result["truncated"] == [True, True]
    assert result["num_tokens"][1] == 40
    assert result["num_tokens"][0] < 25


async def test_usage_says_what_a_request_added_where_prefixes_are_shared() -> None:
    prompt = " ".join(f"w{i}" for i in range(60))
    body = {"comparisons": [{"prompt": prompt, "responses": ["yes", "no", "perhaps", "yes"]}]}
    async with serving(lambda: StubScorer(shares_prefixes=True)) as (client, _):
        answer = (await client.post("/compare", json=body)).json()
        metrics = (await client.get("/metrics")).text
    (tokens,) = {tokens for result in answer["results"] for tokens in result["num_tokens"]}
    # Each response and its end are the only tokens of its own; the last one is a repeat.
    assert answer["usage"] == {"input_tokens": 4 * tokens, "computed_tokens": tokens + 2 + 2}
    assert f'reward_tokens_total{{kind="computed"}} {tokens + 4:.1f}' in metrics


@pytest.mark.parametrize(("setting", "budget"), [(None, 10), (20, 20)])
async def test_a_batch_holds_as_much_as_the_model_chooses_unless_it_is_set(setting: int | None, budget: int) -> None:
    sizes: list[int] = []

    def note(batch: Sequence[Rendered], scores: list[Score]) -> list[Score]:
        sizes.append(sum(len(one.token_ids) for one in batch))
        return scores

    def load() -> Scorer:
        return StubScorer(batch_tokens=10, fault=note)

    async with serving(load, max_batch_tokens=setting) as (client, _):
        sizes.clear()
        inputs = [{"token_ids": [token]} for token in range(40)]
        assert (await client.post("/score", json={"inputs": inputs})).status_code == 200
    assert sizes == [budget] * (40 // budget)


class Doubtful(StubScorer):
    """A stub whose calibration should not be trusted."""

    @property
    def info(self) -> ModelInfo:
        return replace(super().info, calibration=Calibration(temperature=3.0, reason="too few pairs"))


class TextOnly(StubScorer):
    """A stub without a chat template."""

    def render(self, record: Record, *, truncate: bool = False) -> Rendered:
        if isinstance(record, Conversation):
            raise NotRenderable
        return super().render(record, truncate=truncate)


SLOW = "slowly tokenised"


class Slow(StubScorer):
    """A stub that takes its time over one text."""

    def render(self, record: Record, *, truncate: bool = False) -> Rendered:
        if record == Text(SLOW):
            time.sleep(1.0)
        return super().render(record, truncate=truncate)


async def test_a_temperature_that_should_not_be_trusted_is_not_used() -> None:
    body = {"comparisons": [{"prompt": "Hi", "responses": ["a", "b"]}]}
    async with serving(Doubtful) as (client, _):
        answer = (await client.post("/compare", json=body)).json()
    assert (answer["calibrated"], answer["temperature"]) == (False, 1.0)
    assert answer["results"][0]["pairwise"] is None


async def test_a_text_that_has_to_be_decoded_keeps_nobody_waiting() -> None:
    class Decoding(StubScorer):
        def render(self, record: Record, *, truncate: bool = False) -> Rendered:
            return Rendered(
                lambda: threading.current_thread().name, super().render(record, truncate=truncate).token_ids
            )

    async with serving(Decoding) as (client, _):
        shown = (await client.post("/render", json={"inputs": [SAMPLE]})).json()["results"]
    assert shown[0]["text"].startswith("tokenizer")


async def test_render_shows_what_score_scores() -> None:
    async with serving() as (client, _):
        shown = (await client.post("/render", json={"inputs": [SAMPLE]})).json()["results"]
        again = [{"token_ids": shown[0]["token_ids"]}, {"text": shown[0]["text"]}, SAMPLE]
        scores = (await client.post("/score", json={"inputs": again})).json()["scores"]
    assert shown[0]["truncated"] is False
    assert scores[0] == scores[1] == scores[2]


async def test_an_unfinished_response_is_rendered_without_the_templates_tail() -> None:
    body = {"inputs": [SAMPLE, SAMPLE | {"finished": False}]}
    async with serving() as (client, _):
        finished, cut = (await client.post("/render", json=body)).json()["results"]
    assert finished["token_ids"][:-1] == cut["token_ids"]


async def test_model_describes_what_is_served_without_paths() -> None:
    async with serving(model="/secret/place/checkpoint") as (client, _):
        response = await client.get("/model")
    assert response.json()["name"] == "stub"
    assert response.json()["calibration"]["temperature"] == 1.5
    assert "/secret/place" not in response.text


async def test_scores_are_written_with_every_digit() -> None:
    scorer = StubScorer()
    async with serving(lambda: scorer) as (client, _):
        response = await client.post("/score", json={"inputs": [{"text": f"t{i}"} for i in range(50)]})
    assert response.json()["scores"] == [scorer.score(scorer.render(Text(f"t{i}"))).value for i in range(50)]


async def test_a_request_of_many_inputs_keeps_their_order_over_all_tokenizer_threads() -> None:
    scorer = StubScorer()
    inputs = [{"text": f"t{i} " + "x " * (i % 50)} for i in range(1000)]
    async with serving(lambda: scorer) as (client, _):
        answer = (await client.post("/score", json={"inputs": inputs})).json()
    assert answer["scores"] == [scorer.score(scorer.render(Text(one["text"]))).value for one in inputs]


@pytest.mark.parametrize("sent", ["a", "x" * 128, "with space ~!"])
async def test_a_request_id_is_given_back(sent: str) -> None:
    async with serving() as (client, _):
        response = await client.get("/livez", headers={"X-Request-Id": sent})
    assert response.headers["X-Request-Id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 129, "tab\there", "café".encode()])
async def test_an_unusable_request_id_is_replaced(sent: str | bytes) -> None:
    async with serving() as (client, _):
        response = await client.get(
            "/livez", headers=[(b"X-Request-Id", sent if isinstance(sent, bytes) else sent.encode())]
        )
    assert len(response.headers["X-Request-Id"]) == 32


async def test_server_timing_says_where_the_time_went() -> None:
    async with serving(lambda: StubScorer(inputs_per_second=20)) as (client, _):
        response = await client.post("/score", json={"inputs": [SAMPLE]})
    stages = dict(part.split(";dur=") for part in response.headers["Server-Timing"].split(", "))
    assert list(stages) == ["tokenize", "queue", "forward"]
    assert float(stages["forward"]) >= 50


async def test_one_log_line_per_request_with_numbers_and_no_texts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "service.access"):
        async with serving() as (client, _):
            await client.post("/score", json={"inputs": [SAMPLE, SAMPLE]}, headers={"X-Request-Id": "r1"})
            await client.post("/score", json={"inputs": ["Hello there"]})
            await client.get("/a/secret/path")
            await client.get("/readyz")
    lines = [record.fields for record in caplog.records if record.name == "service.access"]  # type: ignore[attr-defined]
    assert [(line["route"], line["status"], line.get("inputs")) for line in lines] == [
        ("/score", 200, 2), ("/score", 422, None), ("unknown", 404, None),
    ]  # fmt: skip
    assert lines[0]["request_id"] == "r1"
    assert lines[1]["problem"] == "invalid-request"
    assert "Hello" not in json.dumps(lines)


async def test_requests_are_counted_by_route_template_and_status() -> None:
    async with serving() as (client, runtime):
        await client.post("/score", json={"inputs": [SAMPLE]})
        await client.get("/some/path")
        await client.get("/other/path")
        value = runtime.metrics.registry.get_sample_value
        count = "reward_request_duration_seconds_count"
        assert value(count, {"route": "/score", "status": "200"}) == 1
        assert value(count, {"route": "unknown", "status": "404"}) == 2
        assert value("reward_rejected_total", {"reason": "not_found"}) == 2
        assert value("reward_stage_duration_seconds_count", {"stage": "tokenize"}) == 1
        assert value("reward_ready") == 1
        text = (await client.get("/metrics")).text
        assert 'reward_model_info{device="cpu"' in text


async def test_every_route_but_three_needs_a_key(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("key")
    app = create_app(settings_with(api_key_file=tmp_path / "keys"), StubScorer)
    async with running(app) as client:
        paths = every_path(app.routes)
        assert {"/", "/docs", "/openapi.json", "/score", "/compare", "/render", "/model"} < paths
        for path in paths:
            status = (await client.get(path)).status_code
            assert (status == 401) == (path not in {"/livez", "/readyz", "/metrics"}), path


def every_path(routes: Iterable[object]) -> set[str]:
    """Paths of all routes, those of included routers too."""
    paths: set[str] = set()
    for route in routes:
        if isinstance(route, APIRoute):
            paths.add(route.path)
        else:
            paths |= every_path(route.original_router.routes)
    return paths


async def test_keys_can_be_rotated_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "REFRESH_SECONDS", 0.0)
    keys = tmp_path / "keys"
    keys.write_text("old\n")
    async with serving(api_key_file=keys) as (client, _):

        async def status(key: str) -> int:
            return (await client.get("/model", headers=[(b"Authorization", f"Bearer {key}".encode())])).status_code

        assert (await status("old"), await status("new"), await status("voilà")) == (200, 401, 401)
        keys.write_text("old\nnew\nvoilà\n")
        assert (await status("old"), await status("new"), await status("voilà")) == (200, 200, 200)
        keys.write_text("")
        assert await status("new") == 401, "keys that were taken away are no keys"
        keys.write_text("new")
        assert await status("new") == 200
        keys.unlink()
        assert await status("new") == 401, "without a file there is no key"
        keys.write_text("newer")
        assert (await status("old"), await status("newer")) == (401, 200)


def scope_of(path: str) -> Scope:
    headers = [(b"content-type", b"application/json")]
    return {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "root_path": ""}


async def test_a_hang_up_takes_the_work_out_of_the_queue_and_is_not_answered() -> None:
    app = create_app(settings_with(), lambda: StubScorer(inputs_per_second=4))
    body = json.dumps({"inputs": [{"text": "a"}] * 2}).encode()
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async with running(app):
        runtime = app.state.runtime
        await until_ready(runtime)
        incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
        request = asyncio.create_task(app(scope_of("/score"), incoming.get, send))
        await asyncio.sleep(0.1)
        assert not request.done()
        incoming.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(request, 1.0)
        assert sent == []
        assert runtime.bodies.held == 0
        value = runtime.metrics.registry.get_sample_value
        assert value("reward_cancelled_total") == 1
        assert value("reward_queue_sequences") == 0
        assert value("reward_request_duration_seconds_count", {"route": "/score", "status": "499"}) == 1


async def test_a_hang_up_right_after_the_body_ends_the_work_as_well() -> None:
    app = create_app(settings_with(), lambda: StubScorer(inputs_per_second=1))
    body = json.dumps({"inputs": [{"text": "a"}] * 9}).encode()
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
    incoming.put_nowait({"type": "http.disconnect"})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async with running(app):
        await until_ready(app.state.runtime)
        await asyncio.wait_for(app(scope_of("/score"), incoming.get, send), 1.0)
        assert app.state.runtime.metrics.registry.get_sample_value("reward_cancelled_total") == 1
    assert sent == []


@pytest.mark.parametrize("seconds", [0.02, 0.2])
@pytest.mark.parametrize("text", ["quickly tokenised", SLOW])
async def test_a_deadline_ends_the_work_wherever_it_is(seconds: float, text: str) -> None:
    async with serving(lambda: Slow(inputs_per_second=1)) as (client, runtime):
        started = asyncio.get_running_loop().time()
        sent = {"inputs": [{"text": text}] * 3}
        response = await client.post("/score", json=sent, headers={"X-Request-Timeout": str(seconds)})
        took = asyncio.get_running_loop().time() - started
        assert response.status_code == 504
        assert seconds <= took < 0.9
        value = runtime.metrics.registry.get_sample_value
        assert value("reward_failures_total", {"reason": "deadline"}) == 1
        assert value("reward_queue_sequences") == 0


async def test_a_request_that_somebody_else_cancels_too_is_not_taken_for_a_hang_up() -> None:
    app = create_app(settings_with(), lambda: StubScorer(inputs_per_second=1))
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": b'{"inputs": [{"text": "a"}]}', "more_body": False})

    async def send(_: Any) -> None:
        pytest.fail("a cancelled request was answered")

    async with running(app):
        await until_ready(app.state.runtime)
        request = asyncio.create_task(app(scope_of("/score"), incoming.get, send))
        await asyncio.sleep(0.1)
        incoming.put_nowait({"type": "http.disconnect"})
        # Two steps: the watcher has heard of it, and the request has not gone on yet.
        await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request


async def test_a_hang_up_in_the_middle_of_a_body_is_not_answered() -> None:
    app = create_app(settings_with(), StubScorer)
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": b'{"inp', "more_body": True})
    incoming.put_nowait({"type": "http.disconnect"})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async with running(app):
        await until_ready(app.state.runtime)
        await app(scope_of("/score"), incoming.get, send)
        assert app.state.runtime.bodies.held == 0
    assert sent == []


async def test_bodies_that_do_not_fit_into_memory_together_are_503() -> None:
    async with serving(max_body_bytes=2000) as (client, runtime):
        runtime.bodies.take(runtime.bodies.limit - 10)
        response = await client.post("/score", json={"inputs": [SAMPLE]})
        assert response.status_code == 503
        runtime.bodies.give_back(runtime.bodies.limit - 10)
        assert (await client.post("/score", json={"inputs": [SAMPLE]})).status_code == 200
        assert runtime.bodies.held == 0


async def test_a_large_body_is_parsed_as_well_as_a_small_one() -> None:
    inputs = [{"text": "x" * 50_000}, {"text": "y"}, {"token_ids": ["z"]}]
    async with serving() as (client, _):
        good = await client.post("/score", json={"inputs": inputs[:2]})
        bad = await client.post("/score", json={"inputs": [*inputs[:2], {"text": "x" * 50_000}, inputs[2]]})
    assert good.status_code == 200
    assert bad.json()["errors"][0]["location"] == "inputs[3].token_ids[0]"


async def test_a_model_that_is_lost_is_neither_alive_nor_ready() -> None:
    def lose(_: Sequence[Rendered], scores: list[Score]) -> list[Score]:
        if len(scores) > 2:
            raise DeviceLost
        return scores

    async with serving(lambda: StubScorer(fault=lose)) as (client, _):
        assert (await client.get("/livez")).status_code == 200
        response = await client.post("/score", json={"inputs": [SAMPLE] * 3})
        assert response.status_code == 503
        assert (await client.get("/livez")).status_code == 503
        assert (await client.get("/readyz")).status_code == 503


async def test_a_refused_checkpoint_is_reported_and_never_ready() -> None:
    reported: list[Exception] = []

    def load() -> Scorer:
        msg = "the golden scores differ"
        raise CheckpointRefused(msg)

    app = create_app(settings_with(), load)
    app.state.runtime.on_fatal = reported.append
    async with running(app) as client:
        for _ in range(200):
            if reported:
                break
            await asyncio.sleep(0.01)
        assert (await client.get("/readyz")).status_code == 503
    assert [str(error) for error in reported] == ["the golden scores differ"]


async def test_a_model_without_a_form_for_conversations_is_warmed_up_with_text() -> None:
    async with serving(TextOnly) as (client, _):
        assert (await client.post("/score", json={"inputs": [{"text": "a"}]})).status_code == 200
        assert (await client.post("/score", json={"inputs": [SAMPLE]})).status_code == 422
