"""The command itself: its exit codes, and that nothing holds up its end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "service", *flags]


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RM_")}
    return subprocess.run(command(*flags), cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("environment", "count"), [({}, "3000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "passive"}, "0")]
)
def test_threads_that_wait_for_each_other_leave_their_cores_to_others_soon(
    environment: dict[str, str], count: str
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    shown = clean | {"OMP_DISPLAY_ENV": "verbose"} | environment
    told = subprocess.run(command("--help"), cwd=ROOT, env=shown, capture_output=True, text=True, check=True).stderr
    if "GOMP_SPINCOUNT" not in told:
        pytest.skip("torch's OpenMP is not GNU's here")
    assert f"GOMP_SPINCOUNT = '{count}'" in told


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(*flags: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    process = subprocess.Popen(command("--port", str(port), *flags), cwd=ROOT, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield process, url
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_refused_checkpoint_ends_the_process_with_3_and_says_why(tmp_path: Path) -> None:
    ended = run("--model", str(tmp_path), "--port", str(free_port()))
    assert ended.returncode == 3
    (line,) = [line for line in ended.stderr.splitlines() if "the checkpoint is refused" in line]
    assert "holds no *.safetensors weights" in line


@pytest.mark.slow
def test_a_taken_port_is_not_a_refused_checkpoint(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        ended = run("--model", str(tmp_path), "--port", str(port))
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


@pytest.mark.slow
def test_a_wrong_setting_is_2() -> None:
    assert run("--modle", "x").returncode == 2


@pytest.mark.slow
def test_a_signal_ends_it_with_0_even_while_a_huge_text_is_being_tokenised(
    checkpoint_of: Callable[[str], Path],
) -> None:
    flags = ("--model", str(checkpoint_of("llama")), "--drain-seconds", "1")
    with started(*flags) as (process, url):
        # As long as an input may be, and as many as a body may hold.
        body = {"inputs": [{"prompt": "the cat " * 131_000, "response": "r"}] * 30, "truncate": True}
        late = httpx.post(f"{url}/score", json=body, headers={"X-Request-Timeout": "0.5"}, timeout=60)
        assert late.status_code == 504
        assert httpx.get(f"{url}/livez", timeout=1).status_code == 200
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert time.monotonic() - begun < 10
