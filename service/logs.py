"""One JSON object a line on stderr, for whoever collects it.

Knows nothing of requests: callers put structured fields into `extra={"fields": {...}}`. What is logged never
holds a prompt, a response or a key.
"""

import json
import logging
import sys
import time
from typing import Any

#: Made once: json.dumps with a default makes an encoder for each line.
_encode = json.JSONEncoder(default=str).encode


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time (UTC), level, logger, message and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Puts `record` on one line; a traceback becomes the string field `exception`."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


def configure(level: str) -> None:
    """Sends everything that is logged at `level` or above, and all warnings, to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    # Its loggers would print every request a second time, and connection noise at debug.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True
