"""Servers to measure, each in a process of its own: the service over a stub, and the framework with nothing behind it.

Knows how they are started, watched and ended, not what is asked of them.
"""

import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoTokenizer

from benchmarks import clients
from reward_model.records import Record
from reward_model.rendering import Rendered, Renderer
from reward_model.scores import Score
from reward_model.template import ENCODER_TEMPLATE
from service import logs
from service.app import create_app
from service.server import Server, settled
from service.settings import Settings
from service.stub import StubScorer

SERVER_CORE = 1
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

#: Serves until it is ended; sends the port it listens on.
Serve = Callable[[Connection], None]


class Tokenizing(StubScorer):
    """A stub whose tokens are a real tokenizer's, and whose scores cost next to nothing."""

    def __init__(self, tokenizer: str, inputs_per_second: float | None) -> None:
        super().__init__(inputs_per_second=inputs_per_second)
        loaded = AutoTokenizer.from_pretrained(tokenizer)
        loaded.chat_template = loaded.chat_template or ENCODER_TEMPLATE
        self._renderer = Renderer(loaded, rendering="chat_template", max_length=512, vocab_size=len(loaded))

    def render(self, record: Record, *, truncate: bool = False) -> Rendered:
        """See `Scorer`."""
        return self._renderer.render(record, truncate=truncate)

    def score(self, rendered: Rendered) -> Score:
        """Some number."""
        return Score(rendered.token_ids[-2] / 30522)


@dataclass(frozen=True, slots=True)
class Stub:
    """What stands for the model.

    Attributes:
        tokenizer: directory of the tokenizer that renders; None: the stub's own.
        inputs_per_second: what the model is taken to do; None: it takes no time.
    """

    tokenizer: str | None
    inputs_per_second: float | None

    def make(self) -> StubScorer:
        """The scorer."""
        if self.tokenizer is None:
            return StubScorer(inputs_per_second=self.inputs_per_second)
        return Tokenizing(self.tokenizer, self.inputs_per_second)


def serve_service(stub: Stub, ready: Connection) -> None:
    """The service as `python -m service` starts it, except for the model."""
    settings = Settings.load(["--model", "stub", "--port", "0"])
    logs.configure(settings.log_level)
    server = Server(create_app(settings, settled(stub.make)), settings)
    bound = server.config.bind_socket()
    _listen(bound, ready)
    server.run(sockets=[bound])


class BareInput(BaseModel):
    """One sample."""

    prompt: str
    response: str


class BareRequest(BaseModel):
    """The body that both servers get."""

    inputs: list[BareInput]


async def bare_score(request: BareRequest) -> float:
    """What a model would be called for."""
    return float(len(request.inputs[0].response))


async def bare_ready() -> str:
    """What tells that the server is there."""
    return "ready"


def serve_bare(ready: Connection) -> None:
    """The same server with nothing but a handler behind it."""
    app = FastAPI()
    app.post("/score")(bare_score)
    app.get("/readyz")(bare_ready)
    config = uvicorn.Config(app, port=0, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    bound = config.bind_socket()
    _listen(bound, ready)
    uvicorn.Server(config).run(sockets=[bound])


def _listen(bound: socket.socket, ready: Connection) -> None:
    os.sched_setaffinity(0, {SERVER_CORE})
    # From here on lines are written as in production, but not among the figures.
    log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
    os.dup2(log.fileno(), sys.stderr.fileno())
    ready.send(bound.getsockname()[1])


@contextmanager
def running(serve: Serve) -> Iterator[tuple[int, int]]:
    """Process id and port of a server that is ready, until the end of the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # a server that fails ends the wait for its port
    try:
        port = ours.recv()
        _until_ready(port)
        assert process.pid is not None
        yield process.pid, port
    finally:
        process.terminate()
        process.join()


def _until_ready(port: int) -> None:
    """Waits for the socket and the model, for up to half a minute."""
    probe = partial(clients.closed_loop, port, [b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"], connections=1, count=2)
    for _ in range(300):
        try:
            uvloop.run(probe())
        except (RuntimeError, ConnectionError):
            time.sleep(0.1)
        else:
            return
    msg = "the server did not become ready"
    raise TimeoutError(msg)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, in user and system mode, in all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
