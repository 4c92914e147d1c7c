"""nginx and HAProxy in front of replicas, each told of what comes and goes in the way that is usual for it.

HAProxy asks the replicas' /readyz. nginx, which asks nobody, gets a new list of them, some time after the fact, as
controllers of clusters give it. Both in their ordinary settings: what has been sent to a replica is not sent again to
another one. Needs Debian's packages nginx and haproxy. Knows ports, not what is asked for.
"""

import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.soak.servers import free_port

#: What a controller takes to tell nginx; HAProxy finds out in about as long.
NEWS_SECONDS = 1.0
START_SECONDS = 10.0

_NGINX = """daemon off;
pid {folder}/nginx.pid;
error_log {folder}/log;
worker_processes 1;
worker_shutdown_timeout 60s;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/bodies;
  proxy_temp_path {folder}/answers;
  fastcgi_temp_path {folder}/unused; uwsgi_temp_path {folder}/unused; scgi_temp_path {folder}/unused;
  upstream replicas {{
    {servers}
    keepalive 16;
  }}
  server {{
    listen 127.0.0.1:{port};
    # With a new list the old worker hangs up on idle clients, which is between them and nginx.
    keepalive_timeout 0;
    location / {{
      proxy_pass http://replicas;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""

_HAPROXY = """defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  option redispatch
frontend clients
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  balance roundrobin
  option httpchk GET /readyz
  default-server check inter 400ms fall 2 rise 1
  {servers}
"""


class Proxy(ABC):
    """A proxy that runs until it is stopped.

    Args:
        folder: for its files.
        replicas: their ports.

    Attributes:
        port: where it listens.
    """

    program: str

    def __init__(self, folder: Path, replicas: Sequence[int]) -> None:
        self.folder = folder
        self.port = free_port()
        self.configure(replicas)
        with (folder / "output").open("wb") as output:
            self._process = subprocess.Popen(self.command(), stdout=output, stderr=output)  # noqa: S603

    @abstractmethod
    def configure(self, replicas: Sequence[int]) -> None:
        """Writes its settings."""

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    @abstractmethod
    def tell(self, replicas: Sequence[int]) -> None:
        """Tells it that these are the replicas now, in so far as it wants to be told."""

    def until_ready(self) -> None:
        """Waits until it passes on what it is asked.

        Raises:
            RuntimeError: it does not.
        """
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        files = [self.folder / name for name in ("log", "output")]
        said = "".join(path.read_text(errors="replace") for path in files if path.exists())
        msg = f"{self.program} does not serve: {said[-2000:]}"
        raise RuntimeError(msg)

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Nginx(Proxy):
    """nginx."""

    program = "nginx"

    def configure(self, replicas: Sequence[int]) -> None:
        """Writes its settings."""
        servers = "\n    ".join(f"server 127.0.0.1:{port};" for port in replicas)
        text = _NGINX.format(folder=self.folder, port=self.port, servers=servers)
        (self.folder / "nginx.conf").write_text(text, encoding="utf-8")

    def command(self) -> list[str]:
        """What starts it."""
        return [_path(self.program), "-e", str(self.folder / "log"), "-c", str(self.folder / "nginx.conf")]

    def tell(self, replicas: Sequence[int]) -> None:
        """Gives it a new list, late."""
        time.sleep(NEWS_SECONDS)
        self.configure(replicas)
        subprocess.run([*self.command(), "-s", "reload"], check=True, capture_output=True)  # noqa: S603


class HAProxy(Proxy):
    """HAProxy."""

    program = "haproxy"

    def configure(self, replicas: Sequence[int]) -> None:
        """Writes its settings."""
        servers = "\n  ".join(f"server replica{port} 127.0.0.1:{port}" for port in replicas)
        text = _HAPROXY.format(port=self.port, servers=servers)
        (self.folder / "haproxy.cfg").write_text(text, encoding="utf-8")

    def command(self) -> list[str]:
        """What starts it."""
        return [_path(self.program), "-db", "-f", str(self.folder / "haproxy.cfg")]

    def tell(self, replicas: Sequence[int]) -> None:  # noqa: ARG002 - it asks them
        """Leaves it the time to find out."""
        time.sleep(NEWS_SECONDS)


PROXIES: dict[str, type[Proxy]] = {kind.program: kind for kind in (Nginx, HAProxy)}


@contextmanager
def running(name: str, folder: Path, replicas: Sequence[int]) -> Iterator[Proxy]:
    """A proxy that passes on to `replicas`."""
    proxy = PROXIES[name](folder, replicas)
    try:
        proxy.until_ready()
        yield proxy
    finally:
        proxy.stop()


def installed(name: str) -> bool:
    """Whether it is on this machine."""
    return _find(name) is not None


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _path(name: str) -> str:
    found = _find(name)
    if found is None:
        msg = f"{name} is not on this machine: apt-get install {name}"
        raise RuntimeError(msg)
    return found
