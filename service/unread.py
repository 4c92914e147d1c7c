"""How long an answer may wait for its client to read it.

Closing a connection waits until the last answer has been taken, uvicorn bounds neither: a client that never reads would
keep connection and answer for good. Knows a transport's buffer, not what is in it.
"""

import asyncio

#: Without a byte taken. What nginx gives its clients (`send_timeout`): whoever is served through it knows no other.
READ_SECONDS = 60.0


class Unread:
    """What `transport` could not hand to the kernel; aborts the connection when nothing of it goes.

    From here on the transport calls its protocol's `pause_writing` as soon as something is left, also when it is
    closing, and `resume_writing` when all of it has gone: there belong `begin` and `end`. What the kernel takes at
    once, which is nearly every answer, costs nothing.
    """

    def __init__(self, transport: asyncio.WriteTransport, loop: asyncio.AbstractEventLoop) -> None:
        transport.set_write_buffer_limits(high=0)
        self._transport = transport
        self._loop = loop
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Something waits from now on."""
        self._bytes = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(READ_SECONDS, self._check)

    def end(self) -> None:
        """Nothing waits any more, or nobody can read it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        if self._transport.get_write_buffer_size() < self._bytes:
            self.begin()
        else:
            self._transport.abort()
