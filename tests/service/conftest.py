"""What the tests of the service share."""

import os

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Coroutine tests run on asyncio only, as the service does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("RM_")]:
        monkeypatch.delenv(name)
