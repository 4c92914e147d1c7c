"""What is noted down about one request while it is served, for headers, log and metrics.

Only numbers and ids: never a text, a token or a key.
"""

import random
import re
import time
from dataclasses import dataclass, field

from starlette.types import Scope

_USABLE_ID = re.compile(r"[\x20-\x7e]{1,128}")
_KEY = "trace"


@dataclass(slots=True)
class Trace:
    """Filled in by whoever knows; read when the response leaves.

    Attributes:
        started: time.perf_counter() when the request came in.
        inputs: how many records it held.
        tokenize, queue, forward: seconds, None where the request did not get that far.
        problem: the type of the problem it was answered with.
    """

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    inputs: int | None = None
    tokenize: float | None = None
    queue: float | None = None
    forward: float | None = None
    problem: str | None = None

    @classmethod
    def begin(cls, scope: Scope, sent_id: str | None) -> "Trace":
        """Starts the trace of `scope`; keeps the sent id if it is 1 to 128 printable ASCII characters."""
        usable = sent_id is not None and _USABLE_ID.fullmatch(sent_id)
        # Told apart, not kept secret: uuid4 asks the kernel each time.
        made = f"{random.getrandbits(128):032x}"
        trace = cls(sent_id if sent_id is not None and usable else made)
        scope.setdefault("state", {})[_KEY] = trace
        return trace

    @classmethod
    def of(cls, scope: Scope) -> "Trace":
        """The trace of `scope`."""
        trace = scope["state"][_KEY]
        assert isinstance(trace, cls)
        return trace

    def server_timing(self) -> str:
        """A Server-Timing header, in ms: `tokenize;dur=0.41, queue;dur=1.20, forward;dur=8.75`."""
        stages = (("tokenize", self.tokenize), ("queue", self.queue), ("forward", self.forward))
        return ", ".join(f"{name};dur={1000 * (seconds or 0.0):.3f}" for name, seconds in stages)
