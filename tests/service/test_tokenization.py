"""The threads that render."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from reward_model.errors import NoTokens
from service.tokenization import CHUNK, RUN_SECONDS, ItemError, TokenizerPool

pytestmark = pytest.mark.anyio


@pytest.fixture
def pool() -> Iterator[TokenizerPool]:
    made = TokenizerPool(4)
    yield made
    made.close()


async def test_results_keep_the_order_of_their_items(pool: TokenizerPool) -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.01 if item < 3 else 0)
        return -item

    assert await pool.map(slow_at_first, range(5 * CHUNK)) == [-i for i in range(5 * CHUNK)]


async def test_no_items_give_no_results(pool: TokenizerPool) -> None:
    assert await pool.map(str, []) == []


async def test_a_big_request_is_spread_over_threads_and_a_small_one_is_not(pool: TokenizerPool) -> None:
    def thread(_: int) -> int:
        time.sleep(0.001)
        return threading.get_ident()

    assert len(set(await pool.map(thread, range(CHUNK)))) == 1
    assert len(set(await pool.map(thread, range(4 * CHUNK)))) > 1


async def test_the_first_item_that_fails_is_named_whatever_fails_first(pool: TokenizerPool) -> None:
    def fail_late(item: int) -> int:
        if item == CHUNK - 1:
            time.sleep(0.05)
        if item >= CHUNK - 1:
            raise NoTokens
        return item

    with pytest.raises(ItemError) as failed:
        await pool.map(fail_late, range(4 * CHUNK))
    assert failed.value.index == CHUNK - 1
    assert isinstance(failed.value.error, NoTokens)


async def test_what_is_given_up_is_not_done_to_its_end(pool: TokenizerPool) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        time.sleep(0.005)
        done.append(item)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.03):
            await pool.map(work, range(10 * CHUNK))
    await asyncio.sleep(0.05)
    count = len(done)
    await asyncio.sleep(0.05)
    assert len(done) == count < CHUNK


async def test_small_requests_that_wait_together_share_one_hand_over(pool: TokenizerPool) -> None:
    loop, handed_over = asyncio.get_running_loop(), 0
    call_soon_threadsafe = loop.call_soon_threadsafe

    def count(*arguments: Any, **named: Any) -> asyncio.Handle:
        nonlocal handed_over
        handed_over += 1
        return call_soon_threadsafe(*arguments, **named)

    loop.call_soon_threadsafe = count  # type: ignore[method-assign]
    # The first holds the thread up long enough for all others to be there when it is done.
    first = asyncio.create_task(pool.map(time.sleep, [RUN_SECONDS]))
    others = [asyncio.create_task(pool.map(str, [i])) for i in range(100)]
    await first
    assert [await other for other in others] == [[str(i)] for i in range(100)]
    assert handed_over <= 10


async def test_a_long_text_holds_up_no_other_while_there_is_another_thread(pool: TokenizerPool) -> None:
    release = threading.Event()
    long = asyncio.create_task(pool.map(release.wait, [10.0]))
    await asyncio.sleep(0)
    try:
        assert await asyncio.wait_for(pool.map(str, [1]), 5.0) == ["1"]
        assert not long.done()
    finally:
        release.set()
    assert await long == [True]


@pytest.mark.parametrize("long_ones", [1, 3])
async def test_what_comes_while_a_thread_is_held_up_is_for_another_one(pool: TokenizerPool, long_ones: int) -> None:
    release = threading.Event()
    long = [asyncio.create_task(pool.call(lambda: release.wait(10.0))) for _ in range(long_ones)]
    # Long after the first of them was found to be long.
    await asyncio.sleep(0.1)
    try:
        for _ in range(3):
            assert await asyncio.wait_for(pool.map(str, [1]), 5.0) == ["1"]
            await asyncio.sleep(0.03)
        assert not any(one.done() for one in long)
    finally:
        release.set()
    assert await asyncio.gather(*long) == [True] * long_ones


async def test_what_was_done_before_a_long_text_does_not_wait_for_its_end() -> None:
    pool, go_on = TokenizerPool(1), threading.Event()

    def work(item: str) -> str:
        if item == "long":
            assert go_on.wait(20)
        return item

    tasks = [asyncio.create_task(pool.map(work, [item])) for item in ("first", "second", "long")]
    try:
        async with asyncio.timeout(10):
            assert await asyncio.gather(*tasks[:2]) == [["first"], ["second"]]
        assert not tasks[2].done()
    finally:
        go_on.set()
    assert await tasks[2] == ["long"]
    pool.close()


async def test_small_requests_and_a_large_one_take_turns_in_one_thread() -> None:
    pool = TokenizerPool(1)
    order: list[str] = []
    large = asyncio.create_task(pool.map(lambda _: order.append("large") or time.sleep(0.0005), range(10 * CHUNK)))
    await asyncio.sleep(0)
    small = [asyncio.create_task(pool.map(lambda _: order.append("small"), [i])) for i in range(20)]
    await asyncio.gather(large, *small)
    pool.close()
    assert order.index("small") <= 2 * CHUNK, "after at most two pieces of the large one"
    assert order[-1] == "large"


async def test_what_nobody_foresaw_reaches_the_one_who_waits_and_nobody_else(pool: TokenizerPool) -> None:
    def divide(item: int) -> float:
        return 1 / item

    bad, good = await asyncio.gather(pool.map(divide, [0]), pool.map(divide, [2]), return_exceptions=True)
    assert isinstance(bad, ZeroDivisionError)
    assert good == [0.5]
    with pytest.raises(ZeroDivisionError):
        await pool.call(lambda: divide(0))


async def test_what_waits_is_given_up_when_the_threads_end() -> None:
    pool = TokenizerPool(1)
    release = threading.Event()
    running = asyncio.create_task(pool.map(release.wait, [10.0]))
    waiting = [asyncio.create_task(pool.map(str, range(n))) for n in (1, 2 * CHUNK)]
    await asyncio.sleep(0.05)
    pool.close()
    for task in waiting:
        with pytest.raises(asyncio.CancelledError):
            await task
    release.set()
    assert await running == [True]
