"""uvicorn's HTTP/1.1 protocol, with what it leaves open closed: heads and waits without end, upgrades, answers in turn.

A client that shuts its sending half down is taken to have hung up: whoever is killed while it waits looks the same,
and nothing should be computed for them. Built on what uvicorn 0.54 has inside; `tests/service/test_protocol.py` shows
whether a later one still has it. Knows bytes and connections, not what is asked for.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.unread import Unread

#: Of a request's head (its line and headers) or of what follows its last chunk, in reads that hold nothing else: llhttp
#: has no bound of its own.
MAX_HEAD_BYTES = 64 * 1024
#: For a whole head to arrive, on a new connection or from its first byte.
HEAD_SECONDS = 30.0
#: Headers that say that there is a body, and where it ends.
_FRAMING = (b"content-length", b"transfer-encoding")


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unread: Unread
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = False
        #: Bytes since the parser last told of a head's begin or end, or of a piece of a body.
        self._untold = 0
        self._running: RequestResponseCycle | None = None
        #: The last that will be said on this connection, when all requests before it have their answers.
        self._refusal: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Nobody may keep a connection open without ever asking for anything."""
        super().connection_made(transport)
        self._unread = Unread(transport, self.loop)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Uvicorn tells the newest request of a pipeline only; the one that is being served has to know."""
        self._head_is_there()
        self._unread.end()
        self._unset_keepalive_if_required()  # uvicorn does not, after a reset
        if self._running is not None and self._is_busy():
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads on, within bounds; after a refusal only to notice a hang-up."""
        if self._refusal is not None:
            return
        self._untold += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(400, "Invalid HTTP request received.")
            return
        if self._untold > MAX_HEAD_BYTES:
            self._refuse(431, "The request's headers are too large.")
        elif self._in_head and self._head_timer is None:
            self._await_head()

    def on_message_begin(self) -> None:
        """A head begins. Only this keeps an idle connection open; blank lines and what is left of a body do not."""
        self._in_head = True
        self._untold = 0
        self._unset_keepalive_if_required()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of a head; trailers are not merged into it (RFC 9110 section 6.5.1)."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._head_is_there()
        self._unset_keepalive_if_required()  # the request before may have been answered since this one began
        if self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # RFC 9110 section 10.1.1
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._untold = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is there, unless the parser has not looked at it yet."""
        if not self._passed_over():
            super().on_message_complete()
            self.cycle.more_body = False  # uvicorn leaves it where the answer came first

    def on_response_complete(self) -> None:
        """The next one's turn."""
        super().on_response_complete()
        if self._refusal is not None and not self._is_busy():
            self._hang_up(self._refusal)

    def timeout_keep_alive_handler(self) -> None:
        """Nobody is idle who is still reading an answer; how long that may take, `Unread` says."""
        if self.transport.get_write_buffer_size():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._unread.begin()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self._unread.end()

    def _feed(self, data: bytes) -> None:
        """Offers to upgrade to another protocol, such as Java's to HTTP/2, are ignored, as RFC 9110 section 7.8 allows.

        For the parser all that comes after such a head is in that other protocol.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                if self._passed_over():
                    self._begin_within_body()
            else:
                return

    def _passed_over(self) -> bool:
        """Whether the parser takes a request's body for another protocol."""
        return self.parser.should_upgrade() and any(name in _FRAMING for name, _ in self.headers)

    def _begin_within_body(self) -> None:
        """Goes on with a parser for which the head has just ended; the connection ends with this request."""
        self.cycle.keep_alive = False
        framing = [name + b": " + value for name, value in self.headers if name in _FRAMING]
        self.parser = httptools.HttpRequestParser(_Body(self))
        self.parser.feed_data(b"\r\n".join([b"POST / HTTP/1.1", *framing, b"", b""]))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _is_busy(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._is_busy():
            self._await_head()
        else:
            self.timeout_keep_alive_handler()

    def _head_is_there(self) -> None:
        self._in_head = False
        self._untold = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, why: str) -> None:
        """Answers what is not a request when its turn has come, and hangs up."""
        self._head_is_there()
        head = f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(why)}\r\nconnection: close\r\n\r\n"
        self._refusal = STATUS_LINE[status] + (head + why).encode("ascii")
        if self._running is not None and self.cycle.more_body:  # then the newest request's body is what is wrong
            if self.pipeline:
                self.pipeline.popleft()
            elif self.cycle.response_started:
                self._refusal = b""
            else:
                self._hang_up(self._refusal)
        if not self._is_busy():
            self._hang_up(self._refusal)

    def _hang_up(self, last_words: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(last_words)
            self.transport.close()


class _Body:
    """Passes on a body, and nothing that comes after it."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def on_body(self, body: bytes) -> None:
        if self._protocol.cycle.more_body:
            self._protocol.on_body(body)

    def on_message_complete(self) -> None:
        self._protocol.on_message_complete()
