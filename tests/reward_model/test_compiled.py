"""Kernels that may be missing: torch's operators do their work then, and that is said."""

import ctypes

import pytest

from reward_model import compiled


@pytest.mark.parametrize("found", [[], [".so-that-is-none"]])
def test_without_it_torch_does_its_work_and_that_is_said(
    found: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        msg = "undefined symbol: GOMP_parallel"
        raise OSError(msg)

    if found:
        monkeypatch.setattr(ctypes, "CDLL", fail)
    else:
        monkeypatch.setattr(compiled, "EXTENSION_SUFFIXES", [])
    assert compiled.library.__wrapped__() is None
    assert ("GOMP_parallel" if found else "they were not built") in caplog.text
