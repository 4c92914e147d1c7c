"""What the service costs beside its model: CPU time of its process for a request of one sample.

    python -m benchmarks.overhead [--tokenizer checkpoints/demo] [--rounds 9] [--json]

The stub scorer stands for the model, so that what is measured is the service: server, layers, validation,
tokenisation, batcher, log, metrics. The stub's tokenizer and hashes are Python and cost more than what they stand for:
`stub` is their share, measured alone. With --tokenizer, a real tokenizer and template render instead and the stub
only scores. `bare` is what the framework costs by itself: a FastAPI handler on the same server settings that parses
the same bodies and returns a number. Servers run in processes of their own on one core and the client on another.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoTokenizer

from benchmarks import clients, machine
from benchmarks.timing import Sample, alternate
from reward_model.records import Conversation, Record, as_prompt
from reward_model.rendering import Rendered, Renderer
from reward_model.scores import Score
from reward_model.template import ENCODER_TEMPLATE
from service import logs
from service.app import create_app
from service.scorer import Scorer
from service.server import Server
from service.settings import Settings
from service.stub import StubScorer

TEXTS = Path(__file__).parent.parent / "training" / "demo" / "heldout.jsonl"
#: About one exchange of HH-RLHF, which has 157 tokens on average.
PROMPT_CHARACTERS, RESPONSE_CHARACTERS = 200, 500
CONNECTIONS = (32, 256)
CLIENT_CORE, SERVER_CORE = 0, 1
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

Serve = Callable[[Connection], None]


class Tokenizing(StubScorer):
    """A stub whose tokens are a real tokenizer's, and whose scores cost next to nothing."""

    def __init__(self, tokenizer: str) -> None:
        super().__init__()
        loaded = AutoTokenizer.from_pretrained(tokenizer)
        loaded.chat_template = loaded.chat_template or ENCODER_TEMPLATE
        self._renderer = Renderer(loaded, rendering="chat_template", max_length=512, vocab_size=len(loaded))

    def render(self, record: Record, *, truncate: bool = False) -> Rendered:
        """See `Scorer`."""
        return self._renderer.render(record, truncate=truncate)

    def score(self, rendered: Rendered) -> Score:
        """Some number."""
        return Score(rendered.token_ids[-2] / 30522)


def scorer(tokenizer: str | None) -> Scorer:
    """What stands for the model."""
    return StubScorer() if tokenizer is None else Tokenizing(tokenizer)


def serve_service(tokenizer: str | None, ready: Connection) -> None:
    """The service as `python -m service` starts it, except for the model."""
    _settle()
    settings = Settings.load(["--model", "stub", "--port", "0"])
    logs.configure(settings.log_level)
    server = Server(create_app(settings, partial(scorer, tokenizer)), settings)
    socket = server.config.bind_socket()
    ready.send(socket.getsockname()[1])
    server.run(sockets=[socket])


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


def serve_bare(ready: Connection) -> None:
    """The same server with nothing but a handler behind it."""
    _settle()
    app = FastAPI()
    app.post("/score")(bare_score)
    config = uvicorn.Config(app, port=0, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    socket = config.bind_socket()
    ready.send(socket.getsockname()[1])
    uvicorn.Server(config).run(sockets=[socket])


def _settle() -> None:
    os.sched_setaffinity(0, {SERVER_CORE})
    # Lines are written as in production, but not among the figures.
    log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
    os.dup2(log.fileno(), sys.stderr.fileno())


@contextmanager
def running(serve: Serve) -> Iterator[tuple[int, int]]:
    """Process id and port of a server, until the end of the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        assert process.pid is not None
        yield process.pid, ours.recv()
    finally:
        process.terminate()
        process.join()


@dataclass
class Measurement:
    """One server under one number of clients; each call is one run.

    Attributes:
        loads: what the client saw, run by run.
    """

    pid: int
    port: int
    requests: list[bytes]
    connections: int
    count: int
    loads: list[clients.Load] = field(default_factory=list)

    def __call__(self) -> float:
        """CPU milliseconds of the server's process, all threads, user and system, for one request."""
        before = cpu_seconds(self.pid)
        load = uvloop.run(
            clients.closed_loop(self.port, self.requests, connections=self.connections, count=self.count)
        )
        self.loads.append(load)
        return 1000 * (cpu_seconds(self.pid) - before) / self.count

    def seen(self, rounds: int) -> dict[str, Sample]:
        """The client's figures of the last `rounds` runs."""
        loads = self.loads[-rounds:]
        return {
            "requests_per_second": Sample(tuple(load.rate for load in loads)),
            "p50_ms": Sample(tuple(1000 * load.percentile(50) for load in loads)),
            "p99_ms": Sample(tuple(1000 * load.percentile(99) for load in loads)),
        }


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, in user and system mode, in all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def samples() -> list[tuple[str, str]]:
    """Prompt and response, each of the usual length, put together from the demo's held-out texts."""
    rows = [json.loads(line) for line in TEXTS.read_text(encoding="utf-8").splitlines()]
    found = []
    for start in range(len(rows)):
        turned = rows[start:] + rows[:start]
        found.append((
            _joined([row["prompt"] for row in turned], PROMPT_CHARACTERS),
            _joined([row["chosen"] for row in turned], RESPONSE_CHARACTERS),
        ))
    return found


def _joined(texts: list[str], characters: int) -> str:
    return " ".join(texts)[:characters]


def stub_alone(tokenizer: str | None, texts: list[tuple[str, str]]) -> float:
    """CPU milliseconds of rendering and scoring one sample, without any service around it."""
    stub = scorer(tokenizer)
    records = [Conversation(as_prompt(prompt), response) for prompt, response in texts]
    started = time.process_time()
    for record in records:
        stub.run([stub.render(record, truncate=False)])
    return 1000 * (time.process_time() - started) / len(records)


def until_ready(port: int) -> None:
    """Waits for the socket and the model, for up to half a minute."""
    probe = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
    for _ in range(300):
        try:
            uvloop.run(clients.closed_loop(port, [probe], connections=1, count=2))
        except (RuntimeError, ConnectionError):
            time.sleep(0.1)
        else:
            return
    msg = "the service did not become ready"
    raise TimeoutError(msg)


def measure(tokenizer: str | None, rounds: int, count: int) -> dict[str, dict[str, Sample]]:
    """All figures: candidate, then figure."""
    texts = samples()
    bodies = [json.dumps({"inputs": [{"prompt": prompt, "response": response}]}) for prompt, response in texts]
    requests = [clients.post("/score", body.encode()) for body in bodies]
    with running(partial(serve_service, tokenizer)) as service, running(serve_bare) as bare:
        until_ready(service[1])
        os.sched_setaffinity(0, {CLIENT_CORE})
        measurements = {
            f"{name}, {connections} clients": Measurement(*server, requests, connections, count)
            for connections in CONNECTIONS
            for name, server in (("service", service), ("bare", bare))
        }
        candidates: Mapping[str, Callable[[], float]] = {
            **measurements,
            "stub alone": partial(stub_alone, tokenizer, texts),
        }
        cpu = alternate(candidates, rounds)
    figures = {name: {"cpu_ms": sample} for name, sample in cpu.items()}
    for name, measurement in measurements.items():
        figures[name] |= measurement.seen(rounds)
    return figures


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tokenizer", help="directory of a tokenizer that renders in place of the stub's")
    parser.add_argument("--rounds", type=int, default=9, help="how often each candidate is measured")
    parser.add_argument("--requests", type=int, default=4000, help="requests of one measurement")
    parser.add_argument("--json", action="store_true", help="every value of every round, as JSON")
    flags = parser.parse_args()
    figures = measure(flags.tokenizer, flags.rounds, flags.requests)
    about = machine.describe() | {"texts": f"{PROMPT_CHARACTERS} + {RESPONSE_CHARACTERS} characters"}
    if flags.json:
        values = {name: {figure: sample.values for figure, sample in of.items()} for name, of in figures.items()}
        print(json.dumps({"machine": about, "figures": values}, indent=2))
        return
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print(f"\nmedian (lowest to highest) of {flags.rounds} alternating rounds of {flags.requests} requests\n")
    for name, of in figures.items():
        shown = (f"{figure} {one.median:.3f} ({one.low:.3f} to {one.high:.3f})" for figure, one in of.items())
        print(f"{name}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
