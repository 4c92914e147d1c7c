"""Each example is learned from once an epoch, by one process, in the steps of a run with one process."""

from hypothesis import given
from hypothesis import strategies as st

from training.order import Epochs, Shuffled


@given(st.integers(0, 60), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))
def test_several_processes_take_the_steps_of_one_with_a_larger_batch(
    size: int, batch: int, processes: int, epoch: int
) -> None:
    alone = Shuffled(size, batch * processes, seed=1)
    parts = [Shuffled(size, batch, seed=1, process=i, processes=processes) for i in range(processes)]
    for order in (alone, *parts):
        order.set_epoch(epoch)
    steps = list(zip(*parts, strict=True))
    assert [[place for part in step for place in part] for step in steps] == list(alone)
    assert sorted(place for step in alone for place in step) == list(range(size))
    assert {len(order) for order in (alone, *parts)} == {len(steps)}
    for step in steps:
        lengths = {len(part) for part in step}
        assert max(lengths) <= batch
        assert max(lengths) - min(lengths) <= 1


def test_a_short_last_step_is_left_out_where_that_is_asked_for() -> None:
    parts = [Shuffled(11, 2, seed=1, process=i, processes=2, drop_last=True) for i in range(2)]
    assert [len(list(part)) for part in parts] == [len(part) for part in parts] == [2, 2]


def test_each_epoch_has_an_order_of_its_own_which_the_seed_decides() -> None:
    def epochs(seed: int) -> list[list[int]]:
        loader = Epochs(range(20), batch_sampler=Shuffled(20, 20, seed=seed), collate_fn=list)
        drawn = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            drawn += list(loader)
        return drawn

    first, second = epochs(1)
    assert first != second
    assert epochs(1) == [first, second]
    assert epochs(3) != [first, second]
