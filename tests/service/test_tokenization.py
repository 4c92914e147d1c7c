"""The threads that render."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from reward_model.errors import NoTokens
from service.tokenization import CHUNK, ItemError, TokenizerPool

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
