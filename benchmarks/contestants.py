"""Who is measured against whom: how each server is started, asked for one score, and read.

Every server gets the same model and the same samples, one sample in a request, in the form that it takes. Knows nothing
of how fast anyone is.
"""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clients import post
from benchmarks.texts import Sample
from benchmarks.weights import Weights

_PEERS = Path(__file__).parent / "peers"
#: Seconds until a server must be ready.
_START = 180.0


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server.

    Attributes:
        name: for tables.
        environment: directory below that of all environments; empty: this one.
        command: of a port and the model's directories, without the environment's.
        ready: path that answers 200 once the model is loaded.
        path: where samples go.
        body: of one sample.
        score: of an answer.
    """

    name: str
    environment: str
    command: Callable[[int, Weights], list[str]]
    ready: str
    path: str
    body: Callable[[Sample], object]
    score: Callable[[dict[str, object]], float]

    def request(self, sample: Sample) -> bytes:
        """All of the request."""
        return post(self.path, json.dumps(self.body(sample)).encode())


def contestants() -> list[Contestant]:
    """This service first."""
    return [
        Contestant(
            "this service",
            "",
            lambda port, weights: ["python", "-m", "service", "--model", str(weights.checkpoint), "--port", str(port)],
            "/readyz",
            "/score",
            lambda sample: {"inputs": [{"prompt": sample.prompt, "response": sample.response}]},
            lambda answer: _first(answer["scores"]),
        ),
        *(_tutorial(dtype) for dtype in ("float32", "bfloat16")),
        *(_cross_encoder(dtype) for dtype in ("float32", "bfloat16")),
        *(_serve_rm(dtype) for dtype in ("float32", "bfloat16")),
        *(_infinity(dtype) for dtype in ("float32", "bfloat16")),
    ]


def _tutorial(dtype: str) -> Contestant:
    return Contestant(
        f"tutorial {dtype}",
        "transformers",
        lambda port, weights: _script("tutorial.py", port, weights.plain, dtype),
        "/health",
        "/predict",
        lambda sample: {"prompt": sample.prompt, "response": sample.response},
        lambda answer: float(str(answer["score"])),
    )


def _cross_encoder(dtype: str) -> Contestant:
    return Contestant(
        f"CrossEncoder {dtype}",
        "sentence-transformers",
        lambda port, weights: _script("cross_encoder.py", port, weights.plain, dtype),
        "/health",
        "/predict",
        lambda sample: {"query": sample.prompt, "document": sample.response},
        lambda answer: float(str(answer["score"])),
    )


def _serve_rm(dtype: str) -> Contestant:
    return Contestant(
        f"serve_rm {dtype}",
        "transformers",
        lambda port, weights: _script("serve_rm.py", port, weights.plain, dtype),
        "/health",
        "/get_reward",
        lambda sample: {"query": [f"[CLS]{sample.prompt}[SEP]{sample.response}[SEP]"]},
        lambda answer: _first(answer["rewards"]),
    )


def _infinity(dtype: str) -> Contestant:
    def command(port: int, weights: Weights) -> list[str]:
        # Its documented settings for a CPU; bettertransformer needs an older release of transformers.
        return [
            "infinity_emb", "v2", "--model-id", str(weights.two_labels), "--served-model-name", "reward",
            "--engine", "torch", "--device", "cpu", "--dtype", dtype, "--no-bettertransformer",
            "--batch-size", "32", "--port", str(port), "--log-level", "error",
        ]  # fmt: skip

    def score(answer: dict[str, object]) -> float:
        labels = json.loads(json.dumps(answer["data"]))[0]
        (p,) = (one["score"] for one in labels if one["label"] == "reward")
        # Its softmax of the reward and a zero is the reward's sigmoid.
        return math.log(p / (1 - p)) if 0 < p < 1 else math.inf

    return Contestant(
        f"Infinity {dtype}",
        "infinity",
        command,
        "/health",
        "/classify",
        lambda sample: {"model": "reward", "input": [f"{sample.prompt}[SEP]{sample.response}"]},
        score,
    )


def _script(name: str, port: int, model: Path, dtype: str) -> list[str]:
    return ["python", str(_PEERS / name), "--model", str(model), "--port", str(port), "--dtype", dtype]


def _first(values: object) -> float:
    assert isinstance(values, list)
    return float(values[0])


@dataclass(frozen=True, slots=True)
class Running:
    """A contestant whose process stands still but while it is measured."""

    contestant: Contestant
    port: int
    process: subprocess.Popen[bytes]
    seconds_to_ready: float

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Lets it run."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)

    def ask(self, sample: Sample) -> float:
        """The score of one sample."""
        body = json.dumps(self.contestant.body(sample)).encode()
        answer = json.loads(_fetch(self.port, self.contestant.path, body))
        return self.contestant.score(answer)

    def resident_megabytes(self) -> float:
        """Memory of its processes."""
        return sum(_resident(pid) for pid in _group(self.process.pid))


@contextmanager
def running(
    contestant: Contestant, weights: Weights, environments: Path, log: Path, variables: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Starts a server, waits until it is ready, and ends it after the block.

    Raises:
        RuntimeError: it did not start; its log says why.
    """
    port = _free_port()
    program, *arguments = contestant.command(port, weights)
    home = environments / contestant.environment / "bin" if contestant.environment else Path(sys.executable).parent
    offline = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - our own commands
            [str(home / program), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **offline, **(variables or {})},
            start_new_session=True,
        )
    try:
        _until_ready(process, port, contestant, log)
        yield Running(contestant, port, process, time.perf_counter() - started)
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            for number in (signal.SIGCONT, signal.SIGKILL):
                os.killpg(process.pid, number)
        process.wait()


def _until_ready(process: "subprocess.Popen[bytes]", port: int, contestant: Contestant, log: Path) -> None:
    until = time.monotonic() + _START
    while process.poll() is None and time.monotonic() < until:
        try:
            _fetch(port, contestant.ready)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.02)
        else:
            return
    msg = f"{contestant.name} did not become ready: {log.read_text(errors='replace')[-2000:]}"
    raise RuntimeError(msg)


def _fetch(port: int, path: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        data: bytes = answer.read()
        return data


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _group(leader: int) -> list[int]:
    """Processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[2]) == leader:
            found.append(int(path.parent.name))
    return found


def _resident(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
