"""The server process of a soak run, started as an operator does it, and what can be seen of it from outside.

As a command it serves a stub that fails on demand. Knows processes, not questions.
"""

import argparse
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from benchmarks.soak.plants import Faulty, Plant
from service import logs
from service.app import create_app
from service.server import Server, settled
from service.settings import Settings
from service.stub import StubScorer

START_SECONDS = 120.0
END_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Process:
    """A server that is ready.

    Attributes:
        port: where it listens.
        pid: its process id.
        started: the process.
        log: what it has written to stderr.
    """

    port: int
    pid: int
    started: subprocess.Popen[bytes]
    log: IO[bytes]

    def resident_bytes(self) -> int:
        """VmRSS: pages of the process that are in memory."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])

    def open_files(self) -> int:
        """File descriptors, sockets included."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def gauge(self, name: str) -> float:
        """The value of a metric without labels."""
        page = httpx.get(f"http://127.0.0.1:{self.port}/metrics").text
        return next(float(line.split()[1]) for line in page.splitlines() if line.startswith(f"{name} "))

    def tell_to_end(self) -> None:
        """As Kubernetes does."""
        self.started.send_signal(signal.SIGTERM)

    def end(self) -> int:
        """Waits until it has ended, and returns its exit code."""
        return self.started.wait(END_SECONDS)

    def logged(self, message: str) -> bool:
        """Whether `message` is in its log."""
        self.log.seek(0)
        return any(message.encode() in line for line in self.log)


@contextmanager
def stub(
    *,
    inputs_per_second: float,
    plant: Plant | None = None,
    leaked_bytes: int = 0,
    flags: Sequence[str] = (),
    port: int | None = None,
) -> Iterator[Process]:
    """A service whose model is a stub of that speed; `flags` are the service's."""
    ours = ["--inputs_per_second", str(inputs_per_second), "--leaked_bytes", str(leaked_bytes)]
    ours += ["--plant", plant] if plant else []
    with _running(["-m", "benchmarks.soak.servers", *ours, "--", "--model", "stub", *flags], port) as process:
        yield process


@contextmanager
def real(model: str, flags: Sequence[str] = ()) -> Iterator[Process]:
    """A service with a checkpoint."""
    with _running(["-m", "service", "--model", model, *flags]) as process:
        yield process


@contextmanager
def _running(command: Sequence[str], port: int | None = None) -> Iterator[Process]:
    port = free_port() if port is None else port
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen([sys.executable, *command, "--port", str(port)], stderr=log)  # noqa: S603
        process = Process(port, started.pid, started, log)
        try:
            _until_ready(process)
            yield process
        finally:
            started.kill()
            started.wait()


def free_port() -> int:
    """A port that nobody listens on; the system gives none so low to clients, so it stays free between two servers."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    msg = "100 ports that were tried are taken"
    raise RuntimeError(msg)


def _until_ready(process: Process) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.started.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{process.port}/readyz").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    process.log.seek(0)
    msg = f"the server did not become ready: {process.log.read().decode(errors='replace')[-2000:]}"
    raise RuntimeError(msg)


def main(argv: list[str]) -> int:
    """Serves until a signal; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--inputs_per_second", type=float, required=True)
    parser.add_argument("--plant", type=Plant)
    parser.add_argument("--leaked_bytes", type=int, default=0)
    parser.add_argument("service", nargs="*", help="flags of the service, after --")
    flags = parser.parse_args(argv)
    settings = Settings.load(flags.service)
    logs.configure(settings.log_level)

    def load() -> StubScorer:
        return StubScorer(inputs_per_second=flags.inputs_per_second, fault=Faulty(flags.plant, flags.leaked_bytes))

    server = Server(create_app(settings, settled(load)), settings)
    server.run(sockets=[server.config.bind_socket()])
    return server.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
