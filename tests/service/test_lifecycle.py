"""Loading, ready, draining."""

import asyncio

import pytest

from service.errors import Draining, Loading
from service.lifecycle import Lifecycle, Phase

pytestmark = pytest.mark.anyio


async def test_requests_are_let_in_between_loaded_and_draining_only() -> None:
    lifecycle = Lifecycle()
    with pytest.raises(Loading), lifecycle.request():
        pass
    lifecycle.loaded()
    with lifecycle.request():
        pass
    lifecycle.drain()
    with pytest.raises(Draining), lifecycle.request():
        pass


async def test_a_model_that_comes_too_late_does_not_open_the_door_again() -> None:
    lifecycle = Lifecycle()
    lifecycle.drain()
    lifecycle.loaded()
    assert lifecycle.phase is Phase.DRAINING


async def test_it_is_idle_when_the_last_request_has_left() -> None:
    lifecycle = Lifecycle()
    lifecycle.loaded()
    with lifecycle.request():
        with lifecycle.request():
            assert not await lifecycle.idle(0.01)
        assert not await lifecycle.idle(0.01)
        waiting = asyncio.create_task(lifecycle.idle(5))
        await asyncio.sleep(0)
    assert await waiting
