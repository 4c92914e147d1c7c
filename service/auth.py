"""Who may ask: API keys from a file, checked before anything else of a request is looked at.

Knows only digests of keys; a key is never logged, compared as text, or kept.
"""

import hashlib
import hmac
import logging
import time
from collections.abc import Iterable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Unauthorized

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
#: Seconds between two looks at the file: a rotated key works, or stops working, after at most that long.
REFRESH_SECONDS = 5.0

log = logging.getLogger(__name__)


class ApiKeys:
    """The keys of one file, one a line; blank lines and lines that start with # are skipped.

    The file is read again when it changes, so that keys can be rotated without a restart. Once it is gone or empty, no
    key is accepted any more.

    Raises:
        ValueError: the file has no key in it.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp, self._digests = self._read()
        self._next_look = time.monotonic() + REFRESH_SECONDS

    def accept(self, key: bytes) -> bool:
        """Whether `key` is one of them; takes as long for a wrong key as for any right one."""
        self._refresh()
        given = hashlib.sha256(key).digest()
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(matches)

    def _refresh(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + REFRESH_SECONDS
        try:
            if self._look() != self._stamp:
                self._stamp, self._digests = self._read()
        except (FileNotFoundError, ValueError) as error:
            log.error("no API key is accepted any more: %s", error)  # noqa: TRY400 - the message says it all
            self._stamp, self._digests = (), []
        except OSError as error:
            log.warning("the API key file cannot be read again, the keys stay as they were: %s", error)

    def _look(self) -> tuple[int, ...]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> tuple[tuple[int, ...], list[bytes]]:
        stamp = self._look()
        lines = [line.strip() for line in self._path.read_bytes().splitlines()]
        digests = [hashlib.sha256(line).digest() for line in lines if line and not line.startswith(b"#")]
        if not digests:
            msg = f"{self._path} holds no API key"
            raise ValueError(msg)
        return stamp, digests


class Authentication:
    """ASGI: lets requests through that carry a key as `Authorization: Bearer`, and all to `open_paths`."""

    def __init__(self, app: ASGIApp, keys: ApiKeys | None, open_paths: Iterable[str] = OPEN_PATHS) -> None:
        self.app = app
        self._keys = keys
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves `scope`.

        Raises:
            Unauthorized: there is no such key.
        """
        if self._keys is not None and scope["type"] == "http" and scope["path"] not in self._open_paths:
            self._check(self._keys, Headers(scope=scope).getlist("authorization"))
        await self.app(scope, receive, send)

    @staticmethod
    def _check(keys: ApiKeys, headers: list[str]) -> None:
        if len(headers) != 1:
            raise Unauthorized
        scheme, _, key = headers[0].partition(" ")
        # Starlette decodes headers as Latin-1, so this is the key as it was sent.
        if scheme.lower() != "bearer" or not keys.accept(key.strip(" \t").encode("latin-1")):
            raise Unauthorized
