"""A real model on two cores under the batcher: batches overlap, scores go to their own, what fails fails alone."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from batching import outcome
from prometheus_client import CollectorRegistry

from reward_model import division
from reward_model.checkpoint import load
from reward_model.lanes import Lanes
from reward_model.rendering import Rendered
from service.batcher import Batcher, Scored
from service.errors import CannotCompute
from service.metrics import Metrics
from service.scorer import ModelScorer

#: No such token: looking it up fails.
GUILTY = Rendered(None, [10**6, 5, 6])


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch, two_cores: None) -> list[int]:
    """With two cores: of each launch how many parts it had."""
    counts: list[int] = []
    start = Lanes.start

    def spied(
        lanes: Lanes, function: Callable[[Any], Any], items: Sequence[Any], *, short: bool = False
    ) -> list[Future[Any]]:
        counts.append(len(items))
        return start(lanes, function, items, short=short)

    monkeypatch.setattr(Lanes, "start", spied)
    monkeypatch.setattr(division, "FEWEST_TOKENS", 30)
    return counts


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_each_has_its_own_score_and_one_that_cannot_be_computed_hurts_nobody_else(
    kind: str, checkpoint_of: Callable[[str], Path], divided: list[int]
) -> None:
    scorer = ModelScorer(load(checkpoint_of(kind), device="cpu", dtype="float32"))
    inputs = [Rendered(None, [5 + (7 * i + j) % 60 for j in range(3 + i % 9)]) for i in range(80)]
    right = [scorer.run([one])[0].value for one in inputs]
    divided.clear()

    async def scenario() -> list[Scored | BaseException]:
        batcher = Batcher(scorer, Metrics(CollectorRegistry()), max_batch_tokens=60, max_queue_tokens=10_000)
        batcher.start()
        requests = [inputs[i : i + 4] for i in range(0, len(inputs), 4)]
        try:
            return await asyncio.gather(*(outcome(batcher.submit(one)) for one in [*requests, [GUILTY], *requests]))
        finally:
            await batcher.stop(drain_seconds=0)

    answers = asyncio.run(scenario())
    failed = [answer for answer in answers if not isinstance(answer, Scored)]
    assert [type(one) for one in failed] == [CannotCompute]
    values = [score.value for answer in answers if isinstance(answer, Scored) for score in answer.scores]
    assert values == pytest.approx([*right, *right], abs=1e-4)
    assert divided.count(2) > 5
