"""From loading to ready to leaving to draining: whether requests are let in, and what is still being worked on.

Knows the order of these steps, not what a request or a model is.
"""

import asyncio
import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Draining, Loading


class Phase(enum.Enum):
    """Where the service is in its life; it only ever moves forward."""

    LOADING = "loading"
    READY = "ready"
    #: Told to end, and still as useful as ever to whoever has not heard of it.
    LEAVING = "leaving"
    DRAINING = "draining"


class Lifecycle:
    """The one place that knows the phase. Used from the event loop only."""

    def __init__(self) -> None:
        self.phase = Phase.LOADING
        self._open: set[Callable[[], None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def loaded(self) -> None:
        """The model is loaded, verified and warmed up; a service that already drains stays so."""
        if self.phase is Phase.LOADING:
            self.phase = Phase.READY

    def leave(self) -> None:
        """From now on nobody should send more, but whoever does is served."""
        if self.phase is Phase.READY:
            self.phase = Phase.LEAVING

    def drain(self) -> None:
        """From now on nothing new is let in."""
        self.phase = Phase.DRAINING

    @contextmanager
    def request(self, end: Callable[[], None]) -> Iterator[None]:
        """Lets one request in, which is in flight for as long as this lasts.

        Args:
            end: ends it before its time; one object for each request.

        Raises:
            Loading: not ready yet.
            Draining: not any more.
        """
        self.check()
        self._open.add(end)
        self._idle.clear()
        try:
            yield
        finally:
            self._open.discard(end)
            if not self._open:
                self._idle.set()

    def end_all(self) -> None:
        """Ends whatever is in flight."""
        for end in list(self._open):
            end()

    def check(self) -> None:
        """Raises Loading or Draining unless requests are let in."""
        if self.phase is Phase.LOADING:
            raise Loading
        if self.phase is Phase.DRAINING:
            raise Draining

    def check_ready(self) -> None:
        """Raises Loading or Draining unless requests should be sent here."""
        if self.phase is Phase.LEAVING:
            raise Draining
        self.check()

    def ending(self) -> bool:
        """Whether it will be gone soon."""
        return self.phase in {Phase.LEAVING, Phase.DRAINING}

    async def idle(self, seconds: float) -> bool:
        """Waits until no request is in flight; False if that takes longer than `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
