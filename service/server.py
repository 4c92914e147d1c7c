"""uvicorn, except for its end: it drains before it closes its door, and its exit code says how things went.

Knows signals and sockets, not requests.
"""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from reward_model.errors import CheckpointRefused
from service.protocol import Protocol
from service.runtime import Runtime
from service.scorer import Scorer
from service.settings import Settings

FAILED = 1
REFUSED = 3
#: Longer than proxies keep an idle connection (60 s is common), or they use one that is just closing.
KEEP_ALIVE_SECONDS = 75
#: After draining only finished answers are left to be sent.
FLUSH_SECONDS = 5

log = logging.getLogger(__name__)


def settled(load: Callable[[], Scorer]) -> Callable[[], Scorer]:
    """`load`, after which the collector of cyclic garbage leaves alone what the process has by then.

    A process with a model library holds some million objects for good. Each full collection looks at all of them:
    hundreds of milliseconds in which no request is served, again and again under load.
    """

    def load_and_freeze() -> Scorer:
        scorer = load()
        gc.collect()
        gc.freeze()
        return scorer

    return load_and_freeze


class Server(uvicorn.Server):
    """Serves `app`, which must have its Runtime in `app.state.runtime`.

    uvicorn alone stops listening the moment a signal comes, so that whoever has not heard of it yet is
    refused, and then dies of that signal although everything went as it should.

    Attributes:
        exit_code: for the process; 0 as long as nothing is wrong.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            # Nothing here asks who the client is, or whether it came by TLS.
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=FLUSH_SECONDS,
        )
        super().__init__(config)
        self.exit_code = 0
        runtime = app.state.runtime
        assert isinstance(runtime, Runtime)
        runtime.on_fatal = self.fail
        self._runtime = runtime
        self._drain: asyncio.Task[None] | None = None
        self._told_to_end = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """The first signal drains, not at once unless it is SIGINT; the second ends the process on the spot."""
        if self._told_to_end:
            os._exit(128 + sig)
        self._told_to_end = True
        # Whoever presses Ctrl-C is waiting; whoever sends anything else may have to tell others first.
        delay = 0.0 if sig == signal.SIGINT else self._runtime.settings.shutdown_delay_seconds
        log.info("%s: draining, after serving on for %g s", signal.Signals(sig).name, delay)
        # Signal handlers run between two steps of the loop: this wakes it up.
        asyncio.get_running_loop().call_soon_threadsafe(self._begin_to_drain, delay)

    def fail(self, error: Exception) -> None:
        """Ends the process because there will never be a model, or not any more; what is answered is still sent."""
        if isinstance(error, CheckpointRefused):
            self.exit_code = REFUSED
            log.critical("the checkpoint is refused: %s", " ".join(str(error).split()))
        else:
            self.exit_code = FAILED
        self._begin_to_drain(0.0, at_once=True)

    def _begin_to_drain(self, delay: float, *, at_once: bool = False) -> None:
        if self._drain is None or at_once:
            self._drain = asyncio.get_running_loop().create_task(self._drain_and_exit(delay, at_once=at_once))

    async def _drain_and_exit(self, delay: float, *, at_once: bool) -> None:
        try:
            await self._runtime.drain(delay_seconds=delay, at_once=at_once)
        finally:
            self.should_exit = True
