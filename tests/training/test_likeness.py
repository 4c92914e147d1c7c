"""What counts as nearly the same."""

from training.likeness import common_beginning, near_identical

LONG = list(range(100))


def test_a_common_beginning_ends_at_the_first_difference_or_with_the_shorter_one() -> None:
    assert common_beginning("abcd", "abxd") == 2
    assert common_beginning("ab", "abcd") == 2
    assert common_beginning("", "abcd") == 0


def test_one_short_place_that_differs_is_nearly_nothing() -> None:
    assert near_identical(LONG, [*LONG[:40], -1, -2, -3, -4, -5, *LONG[45:]])
    assert near_identical(LONG, LONG[:95])
    assert near_identical(LONG, [*LONG[:10], *LONG[15:]])


def test_more_than_that_is_not() -> None:
    assert not near_identical(LONG, [*LONG[:40], -1, -2, -3, -4, -5, -6, *LONG[46:]])
    assert not near_identical(LONG, [*LONG[:10], -1, *LONG[11:90], -2, *LONG[91:]])
    assert not near_identical(LONG, LONG[:94])


def test_what_overlaps_is_not_counted_twice() -> None:
    assert not near_identical([7] * 100, [7] * 94)
    assert near_identical([7] * 100, [7] * 95)


def test_a_word_is_a_large_part_of_a_short_response() -> None:
    assert not near_identical(LONG[:19], [*LONG[:18], -1])
    assert near_identical(LONG[:20], [*LONG[:19], -1])
