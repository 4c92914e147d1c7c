"""Requests made from the OpenAPI document, valid and not, against a server with sockets: it keeps to its document."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from effort import full, times
from schemathesis import engine, openapi
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events
from schemathesis.specs.openapi.schemas import OpenApiSchema
from serving import listening

KEY = "correct horse battery staple"


@pytest.mark.parametrize("keys", [False, True], ids=["without keys", "with keys"])
def test_the_service_keeps_to_its_document(keys: bool, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    settings = {"api_key_file": tmp_path / "keys"} if keys else {}
    with listening(**settings) as (url, _):
        headers = {"Authorization": f"Bearer {KEY}"}
        schema = openapi.from_url(f"{url}/openapi.json", config=configuration(keys=keys), headers=headers)
        schema.hook(map_case)
        counts, failures = run(schema)
    print(f"{sum(counts.values())} requests, {len(failures)} failures")
    assert not failures, "\n\n".join(failures[:10])
    assert {operation for operation, _ in counts} == {result.ok().label for result in schema.get_all_operations()}
    assert {status for _, status in counts} >= {200, 405, 422}
    assert sum(counts.values()) >= (5000 if full() else 400)


def configuration(*, keys: bool) -> SchemathesisConfig:
    """All checks there are; those with a limit or an exception say why."""
    return SchemathesisConfig.from_dict(
        {
            # The suite asks the same each time, a full run something new.
            **({} if full() else {"seed": 1}),
            "continue-on-failure": True,
            "generation": {"max-examples": times(3, 1500), "database": "none"},
            # What is read has no body: a few headers are all there is to try.
            "operations": [{"include-method": "GET", "generation": {"max-examples": times(1, 100)}}],
            "checks": {
                "max_response_time": 30.0,  # it does not hang; how fast it is shows elsewhere
                # A deadline of a nanosecond is valid, and answered with what the document says: 504.
                "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "504"]},
            },
            "auth": {"openapi": {"key": {"bearer": KEY}}} if keys else {},
            "output": {"sanitization": {"enabled": False}},
        }
    )


def map_case(_: object, case: Any) -> Any:
    """Keeps to two rules that JSON Schema has no words for; what is wrong with a case besides stays wrong.

    The last message is the assistant's, and an integer has no fraction, not even `.0`.
    """
    body = case.body
    inputs = body.get("inputs") if isinstance(body, dict) else None
    for one in inputs if isinstance(inputs, list) else ():
        if isinstance(one, dict) and isinstance(one.get("token_ids"), list):
            one["token_ids"] = [int(i) if isinstance(i, float) and i.is_integer() else i for i in one["token_ids"]]
        messages = one.get("messages") if isinstance(one, dict) else None
        last = messages[-1] if isinstance(messages, list) and messages else None
        if isinstance(last, dict) and last.get("role") in ("system", "user"):
            last["role"] = "assistant"
    return case


def run(schema: OpenApiSchema) -> tuple[Counter[tuple[str, int]], list[str]]:
    """How often each operation gave each status, and everything that was wrong."""
    counts: Counter[tuple[str, int]] = Counter()
    failures: list[str] = []
    for event in engine.from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            for interaction in event.recorder.interactions.values():
                assert interaction.response is not None
                counts[event.recorder.label, interaction.response.status_code] += 1
            checks = [check for checks in event.recorder.checks.values() for check in checks]
            wrong = [check.failure_info for check in checks if check.failure_info is not None]
            failures += [f"{one.failure.title}\n{one.failure.message}\n{one.code_sample}" for one in wrong]
        elif isinstance(event, events.FatalError | events.NonFatalError):
            failures.append(str(vars(event)))
        elif isinstance(event, events.PhaseFinished) and event.status is Status.ERROR:
            failures.append(f"phase {event.phase.name} could not be run")
    return counts, failures
