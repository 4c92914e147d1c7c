"""What an input adds to a batch, asked before it is in it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_model.meter import Meter, RepeatMeter, SharingMeter
from reward_model.rendering import Rendered

#: Sequences put together from few pieces, so that they share prefixes and are equal now and then.
INPUTS = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=5).map(
        lambda parts: Rendered(None, [token for part in parts for token in [part] * 9])
    ),
    max_size=12,
)
EITHER = pytest.mark.parametrize("kind", [RepeatMeter, SharingMeter])


@EITHER
@given(inputs=INPUTS, limits=st.lists(st.integers(0, 40), min_size=12, max_size=12))
def test_what_costs_more_than_the_limit_leaves_no_trace(
    kind: Callable[[], Meter], inputs: list[Rendered], limits: list[int]
) -> None:
    meter = kind()
    kept = []
    for one, limit in zip(inputs, limits, strict=False):
        cost = meter.add(one, limit)
        assert cost == meter_of(kind, kept).add(one), "as if only those that were added had been seen"
        if cost <= limit:
            kept.append(one)
            assert meter.add(one, 0) == 0


def meter_of(kind: Callable[[], Meter], inputs: list[Rendered]) -> Meter:
    meter = kind()
    for one in inputs:
        meter.add(one)
    return meter


def test_segments_make_a_difference_where_nothing_but_repeats_is_shared() -> None:
    meter = RepeatMeter()
    inputs = [Rendered(None, [5, 6], [0, 0]), Rendered(None, [5, 6], [0, 1]), Rendered("text", [5, 6], [0, 1])]
    assert [meter.add(one) for one in inputs] == [2, 2, 0]


def test_a_prefix_costs_nothing_more_only_where_prefixes_are_shared() -> None:
    inputs = [Rendered(None, [*range(30), 50]), Rendered(None, [*range(30), 60, 61])]
    assert [meter_of(RepeatMeter, inputs[:1]).add(inputs[1]), meter_of(SharingMeter, inputs[:1]).add(inputs[1])] == [
        32,
        2,
    ]


@pytest.mark.parametrize("second", [[1, 2, 3], [1, 2, 3, 4, 5]])
def test_a_short_common_start_is_not_free(second: list[int]) -> None:
    meter = meter_of(SharingMeter, [Rendered(None, [1, 2, 3, 4])])
    assert meter.add(Rendered(None, second)) == len(second)
