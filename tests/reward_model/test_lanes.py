"""Calls that have a core of their own, and calls that have all."""

import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import pytest
import torch

from reward_model import lanes
from reward_model.lanes import Item, Result


def each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return lanes.collect(lanes.of_caller().start(function, items))


@pytest.mark.parametrize(("cores", "number"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (7, 1), (8, 4), (32, 4)])
def test_no_core_is_left_out(cores: int, number: int) -> None:
    torch.set_num_threads(cores)
    try:
        assert lanes.count() == number
    finally:
        torch.set_num_threads(1)


@pytest.mark.usefixtures("two_cores")
def test_one_part_has_all_cores_and_several_have_one_each() -> None:
    def cores(_: int) -> tuple[int, int]:
        return torch.get_num_threads(), threading.get_ident()

    assert each(cores, [0]) == [(2, threading.get_ident())]
    used = each(cores, range(20))
    assert {number for number, _ in used} == {1}
    assert threading.get_ident() not in {thread for _, thread in used}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_cores")
def test_results_keep_their_order_and_need_no_gradients() -> None:
    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    items = [torch.ones(1, requires_grad=True) * i for i in range(9)]
    results = each(double, items)
    assert [int(result) for result in results] == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert not any(result.requires_grad for result in results)


@pytest.mark.usefixtures("two_cores")
def test_a_failure_is_told_when_all_others_have_ended() -> None:
    ended: list[int] = []

    def work(item: int) -> int:
        if item == 1:
            raise MemoryError
        ended.append(item)
        return item

    with pytest.raises(MemoryError):
        each(work, [0, 1, 2, 3])
    assert sorted(ended) == [0, 2, 3]
    assert each(work, [4, 5]) == [4, 5]


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("items", [[0], [0, 1]])
def test_the_memory_of_what_failed_is_free_for_the_next_try(items: list[int]) -> None:
    held: list[weakref.ref[Held]] = []

    def work(_: int) -> None:
        mine = Held()
        held.append(weakref.ref(mine))
        raise MemoryError

    def fails() -> bool:
        try:
            each(work, items)
        except MemoryError:
            return True
        return False

    gc.disable()
    try:
        assert fails()
        each(int, items)  # a lane lets go of one piece of work before it takes the next
        assert [one() for one in held] == [None] * len(items)
    finally:
        gc.enable()


class Held:
    """Something large."""


class Gate:
    """Work that begins when a lane takes it, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def pass_through(self) -> int:
        self.begun.set()
        assert self.open.wait(20)
        return torch.get_num_threads()


def gates(number: int) -> list[Gate]:
    return [Gate() for _ in range(number)]


def start(*some: Gate, short: bool = False) -> list[Future[int]]:
    return lanes.of_caller().start(Gate.pass_through, some, short=short)


@pytest.mark.usefixtures("two_cores")
def test_a_lane_that_is_done_begins_with_what_comes_next_while_others_are_busy() -> None:
    first, second, third, fourth = gates(4)
    answers = start(first, second)
    assert first.begun.wait(20)
    assert second.begun.wait(20)
    answers += start(third, fourth)
    assert not third.begun.wait(0.05)
    first.open.set()
    assert third.begun.wait(20)
    assert not answers[1].done()
    for gate in (second, third, fourth):
        gate.open.set()
    assert lanes.collect(answers) == [1, 1, 1, 1]


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("short", [True, False])
def test_one_call_beside_others_takes_the_last_free_lane_if_it_is_short_and_else_waits_for_all(short: bool) -> None:
    first, second, alone, behind = gates(4)
    answers = start(first, second)
    first.open.set()
    lanes.of_caller().wait_for_room()
    answers += start(alone, short=short)
    assert alone.begun.wait(20 if short else 0.05) == short
    second.open.set()
    assert alone.begun.wait(20)
    answers += start(behind, behind)
    assert behind.begun.wait(20 if short else 0.05) == short
    for gate in (alone, behind):
        gate.open.set()
    assert lanes.collect(answers) == [1, 1, 1 if short else 2, 1, 1]


def test_a_short_call_has_all_cores_where_more_than_one_lane_is_free() -> None:
    torch.set_num_threads(4)
    try:
        some = gates(5)
        answers = start(*some[:4])
        for gate in some[:2]:
            gate.open.set()
        lanes.collect(answers[:2])
        lanes.of_caller().wait_for_room()
        answers = answers[2:] + start(some[4], short=True)
        for gate in some:
            gate.open.set()
        assert lanes.collect(answers) == [1, 1, 4]
    finally:
        torch.set_num_threads(1)


def room(of: lanes.Lanes) -> threading.Event:
    """Is set once there is some."""
    found = threading.Event()

    def wait() -> None:
        of.wait_for_room()
        found.set()

    threading.Thread(target=wait, daemon=True).start()
    return found


@pytest.mark.usefixtures("two_cores")
def test_there_is_room_once_a_lane_is_free_but_none_beside_a_call_that_has_all() -> None:
    mine = lanes.of_caller()
    first, second, alone = gates(3)
    assert room(mine).wait(20)
    answers = start(first, second)
    full = room(mine)
    assert not full.wait(0.05)
    first.open.set()
    assert full.wait(20)
    answers += start(alone)
    second.open.set()
    assert alone.begun.wait(20)
    full = room(mine)
    assert not full.wait(0.05)
    alone.open.set()
    assert full.wait(20)
    assert lanes.collect(answers) == [1, 1, 2]


def test_there_is_room_as_soon_as_a_lane_has_taken_what_waited() -> None:
    torch.set_num_threads(4)
    try:
        for _ in range(50):  # it takes chance for the waiter to come between
            first, second = gates(2)
            answers = start(first, second)
            assert room(lanes.of_caller()).wait(20)
            for gate in (first, second):
                gate.open.set()
            assert lanes.collect(answers) == [1, 1]
    finally:
        torch.set_num_threads(1)
