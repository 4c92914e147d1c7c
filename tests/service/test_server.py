"""A process: how it ends, with which exit code, and what it says."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sockets import answer

from service.server import settled
from service.stub import StubScorer

ROOT = Path(__file__).parents[2]
SERVE = """
import sys, time
from service import logs
from service.app import create_app
from service.server import Server
from service.settings import Settings
from service.scorer import DeviceLost
from service.stub import StubScorer

settings = Settings.load(sys.argv[1:])
logs.configure(settings.log_level)

def lose(batch, scores):
    if len(batch) == 3:
        raise DeviceLost
    return scores

def load():
    time.sleep(float(settings.score_label or 0))
    return StubScorer(inputs_per_second=2, fault=lose)

server = Server(create_app(settings, load), settings)
server.run(sockets=[server.config.bind_socket()])
sys.exit(server.exit_code)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, *command, "--port", str(port)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    ) as started:  # fmt: skip
        try:
            yield started, f"http://127.0.0.1:{port}"
        finally:
            started.kill()


def until_status(url: str, status: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == status:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail(f"{url} did not become {status}")


def end(started: subprocess.Popen[str]) -> tuple[int, list[dict[str, object]]]:
    _, errors = started.communicate(timeout=30)
    return started.returncode, [json.loads(line) for line in errors.splitlines()]


def test_what_is_there_after_loading_is_left_alone_by_the_garbage_collector() -> None:
    scorer = StubScorer()
    before = gc.get_freeze_count()
    try:
        assert settled(lambda: scorer)() is scorer
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()


@contextmanager
def asked(url: str, inputs: int) -> Iterator[socket.socket]:
    """A connection on which a request with so many inputs is under way."""
    body = json.dumps({"inputs": [{"text": str(i)} for i in range(inputs)]}).encode()
    head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(0.2)
        yield connection


def ask_and_tell_to_end(started: subprocess.Popen[str], url: str) -> bytes:
    """The answer to a request that was under way when SIGTERM came."""
    with asked(url, 4) as connection:
        started.send_signal(signal.SIGTERM)
        until_status(f"{url}/readyz", 503)
        return connection.recv(65536)


def test_sigterm_finishes_accepted_work_and_exits_with_zero() -> None:
    with process("-c", SERVE, "--model", "stub", "--shutdown-delay-seconds", "0") as (started, url):
        until_status(f"{url}/readyz", 200)
        assert ask_and_tell_to_end(started, url).startswith(b"HTTP/1.1 200")
        code, lines = end(started)
    assert code == 0
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    requests = [line for line in lines if line["message"] == "request"]
    assert [(line["route"], line["status"], line["inputs"]) for line in requests] == [("/score", 200, 4)]


def test_after_sigterm_new_work_is_accepted_until_the_delay_is_over() -> None:
    with process("-c", SERVE, "--model", "stub", "--shutdown-delay-seconds", "2") as (started, url):
        until_status(f"{url}/readyz", 200)
        told = time.monotonic()
        ask_and_tell_to_end(started, url)
        new = httpx.post(f"{url}/score", json={"inputs": [{"text": "b"}]})
        assert (new.status_code, new.headers["connection"]) == (200, "close")
        code, _ = end(started)
        assert time.monotonic() - told > 2
    assert code == 0


def test_what_is_still_being_sent_when_the_drain_time_is_over_is_answered_503() -> None:
    flags = ("--shutdown-delay-seconds", "0", "--drain-seconds", "0.2")
    with process("-c", SERVE, "--model", "stub", *flags) as (started, url):
        until_status(f"{url}/readyz", 200)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
            connection.sendall(head + b'{"inputs": ')
            time.sleep(0.3)
            started.send_signal(signal.SIGTERM)
            # Head and body may come one after the other.
            received = answer(connection)
        code, _ = end(started)
    assert received.startswith(b"HTTP/1.1 503")
    assert b"urn:reward-model:draining" in received
    assert code == 0


def test_a_lost_model_is_told_to_whoever_waits_and_ends_the_process() -> None:
    with process("-c", SERVE, "--model", "stub") as (started, url):
        until_status(f"{url}/readyz", 200)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as unfinished:
            unfinished.sendall(
                b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
            )
            time.sleep(0.2)
            lost = httpx.post(f"{url}/score", json={"inputs": [{"text": "a"}, {"text": "b"}, {"text": "c"}]})
            assert unfinished.recv(65536).startswith(b"HTTP/1.1 503")
        assert (lost.status_code, lost.json()["type"]) == (503, "urn:reward-model:broken")
        code, lines = end(started)
    assert code == 1
    assert not any("exception" in line for line in lines if line["logger"] == "uvicorn.error")
    assert any("the process must be restarted" in str(line["message"]) for line in lines)


def test_nobody_who_presses_ctrl_c_waits_for_the_delay() -> None:
    with process("-c", SERVE, "--model", "stub", "--shutdown-delay-seconds", "60") as (started, url):
        until_status(f"{url}/readyz", 200)
        started.send_signal(signal.SIGINT)
        code, _ = end(started)
    assert code == 0


def test_sigterm_while_loading_exits_at_once() -> None:
    with process("-c", SERVE, "--model", "stub", "--score-label", "60") as (started, url):
        until_status(f"{url}/livez", 200)
        started.send_signal(signal.SIGTERM)
        code, _ = end(started)
    assert code == 0


def test_a_second_signal_ends_the_process_on_the_spot() -> None:
    with process("-c", SERVE, "--model", "stub", "--drain-seconds", "60") as (started, url):
        until_status(f"{url}/readyz", 200)
        with asked(url, 100):
            started.send_signal(signal.SIGTERM)
            until_status(f"{url}/readyz", 503)
            started.send_signal(signal.SIGINT)
            code, _ = end(started)
    assert code == 128 + signal.SIGINT


def test_a_refused_checkpoint_ends_the_process_with_three_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with process("-m", "service", "--model", str(tmp_path / "empty")) as (started, _):
        code, lines = end(started)
    assert code == 3
    (critical,) = [line for line in lines if line["level"] == "critical"]
    assert "the checkpoint is refused: " in str(critical["message"])
    assert "exception" not in critical


@pytest.mark.parametrize(("argument", "named"), [("--prot=1", "--port"), ("--dtype=int8", "--dtype")])
def test_a_wrong_setting_ends_the_process_with_two_and_one_line(argument: str, named: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "--model", "x", argument],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert named in done.stderr


def test_a_key_file_without_a_key_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    command = [sys.executable, "-m", "service", "--model", "x", "--api-key-file", str(tmp_path / "keys")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "RM_API_KEY_FILE" in done.stderr
