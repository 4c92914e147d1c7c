"""Loading, ready, draining."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.errors import Draining, Loading
from service.lifecycle import Lifecycle, Phase
from service.runtime import warm_up
from service.scorer import ModelInfo
from service.stub import StubScorer

pytestmark = pytest.mark.anyio


async def test_requests_are_let_in_between_loaded_and_draining_only() -> None:
    lifecycle = Lifecycle()
    with pytest.raises(Loading), lifecycle.request(lambda: None):
        pass
    lifecycle.loaded()
    with lifecycle.request(lambda: None):
        pass
    lifecycle.drain()
    with pytest.raises(Draining), lifecycle.request(lambda: None):
        pass


async def test_a_service_that_leaves_lets_requests_in_and_says_that_it_is_not_ready() -> None:
    lifecycle = Lifecycle()
    lifecycle.leave()
    with pytest.raises(Loading), lifecycle.request(lambda: None):
        pass
    lifecycle.loaded()
    lifecycle.check_ready()
    assert not lifecycle.ending()
    lifecycle.leave()
    with lifecycle.request(lambda: None), pytest.raises(Draining):
        lifecycle.check_ready()
    assert lifecycle.ending()
    lifecycle.drain()
    lifecycle.leave()
    assert lifecycle.phase is Phase.DRAINING
    assert lifecycle.ending()


async def test_whoever_is_left_can_be_ended() -> None:
    lifecycle, ended = Lifecycle(), list[str]()
    lifecycle.loaded()
    with lifecycle.request(lambda: ended.append("first")):
        with lifecycle.request(lambda: ended.append("second")):
            pass
        lifecycle.end_all()
    lifecycle.end_all()
    assert ended == ["first"]


async def test_a_model_that_comes_too_late_does_not_open_the_door_again() -> None:
    lifecycle = Lifecycle()
    lifecycle.drain()
    lifecycle.loaded()
    assert lifecycle.phase is Phase.DRAINING


async def test_it_is_idle_when_the_last_request_has_left() -> None:
    lifecycle = Lifecycle()
    lifecycle.loaded()
    with lifecycle.request(lambda: None):
        with lifecycle.request(lambda: None):
            assert not await lifecycle.idle(0.01)
        assert not await lifecycle.idle(0.01)
        waiting = asyncio.create_task(lifecycle.idle(5))
        await asyncio.sleep(0)
    assert await waiting


def test_the_warm_up_of_a_gpu_runs_a_full_batch_of_different_inputs() -> None:
    ran: list[list[tuple[int, ...]]] = []

    class Gpu(StubScorer):
        @property
        def info(self) -> ModelInfo:
            return replace(super().info, device="cuda:0")

        def run(self, batch: Sequence[Rendered]) -> list[Score]:
            ran.append([tuple(one.token_ids) for one in batch])
            return super().run(batch)

    warm_up(Gpu(max_length=64), 1000)
    full = ran[-1]
    assert len(set(full)) == len(full) > 10
    assert 0.8 * 1000 < sum(map(len, full)) <= 1000
