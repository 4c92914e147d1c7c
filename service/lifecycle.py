"""From loading to ready to draining: whether requests are let in, and what is still being worked on.

Knows the order of these steps, not what a request or a model is.
"""

import asyncio
import enum
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Draining, Loading


class Phase(enum.Enum):
    """Where the service is in its life; it only ever moves forward."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class Lifecycle:
    """The one place that knows the phase. Used from the event loop only."""

    def __init__(self) -> None:
        self.phase = Phase.LOADING
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def loaded(self) -> None:
        """The model is loaded, verified and warmed up; a service that already drains stays so."""
        if self.phase is Phase.LOADING:
            self.phase = Phase.READY

    def drain(self) -> None:
        """From now on nothing new is let in."""
        self.phase = Phase.DRAINING

    @contextmanager
    def request(self) -> Iterator[None]:
        """Lets one request in and counts it for as long as it lasts.

        Raises:
            Loading: not ready yet.
            Draining: not any more.
        """
        self.check()
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    def check(self) -> None:
        """Raises Loading or Draining unless the service is ready."""
        if self.phase is Phase.LOADING:
            raise Loading
        if self.phase is Phase.DRAINING:
            raise Draining

    async def idle(self, seconds: float) -> bool:
        """Waits until no request is in flight; False if that takes longer than `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
