"""One bar for all processes of a machine."""

import pytest

from training.progress import hidden


@pytest.mark.parametrize(("rank", "disable"), [(None, None), ("0", None), ("1", True)])
def test_the_first_process_alone_shows_a_bar(
    rank: str | None, disable: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert hidden() is disable
