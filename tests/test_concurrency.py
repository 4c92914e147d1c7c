"""Five hundred clients at once over real sockets, a fifth of which hang up: every answer belongs to its question."""

import asyncio
import random

import httpx
from serving import listening

from reward_model.records import Conversation, as_prompt
from service.stub import StubScorer

CLIENTS = 500


async def ask(client: httpx.AsyncClient, number: int, patience: float | None) -> float | None:
    sample = {"prompt": f"question {number}", "response": "word " * (number % 40)}
    try:
        async with asyncio.timeout(patience):
            response = await client.post("/score", json={"inputs": [sample]}, headers={"X-Request-Id": str(number)})
    except TimeoutError:
        return None
    assert response.status_code == 200, response.text
    assert response.headers["X-Request-Id"] == str(number)
    (score,) = response.json()["scores"]
    assert isinstance(score, float)
    return score


def right_score(scorer: StubScorer, number: int) -> float:
    record = Conversation(as_prompt(f"question {number}"), "word " * (number % 40))
    return scorer.score(scorer.render(record)).value


async def ask_all(url: str) -> list[float | None]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    rng = random.Random(0)
    patience = [rng.uniform(0.0, 0.4) if number % 5 == 0 else None for number in range(CLIENTS)]
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
        return await asyncio.gather(*(ask(client, number, patience[number]) for number in range(CLIENTS)))


def test_every_answer_belongs_to_its_question_while_others_hang_up() -> None:
    scorer = StubScorer(inputs_per_second=400)
    with listening(scorer) as (url, runtime):
        answers = asyncio.run(ask_all(url))
        metrics = httpx.get(f"{url}/metrics").text
        assert (httpx.get(f"{url}/readyz")).status_code == 200
    for number, answer in enumerate(answers):
        assert answer in (None, right_score(scorer, number)), number
    patient = [answer for number, answer in enumerate(answers) if number % 5]
    assert None not in patient
    assert answers.count(None) > CLIENTS / 20, "too few hung up for this to show anything"
    assert "reward_queue_sequences 0.0" in metrics
    assert runtime.bodies.held == 0
