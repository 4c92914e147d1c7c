"""One process agrees with itself; several: see test_distributed."""

import pytest

from training.processes import gathered, together


def test_one_process_gathers_what_it_has() -> None:
    assert gathered({"a": 1}) == [{"a": 1}]


def test_what_fails_alone_is_raised_as_it_is() -> None:
    with pytest.raises(ValueError, match="invalid literal"), together():
        int("no number")
