"""The identity of a data set, whatever format it is stored in. Knows pairs, not files."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from reward_model.records import Prompt
from training.pairs import PreferencePair


def fingerprint(pairs: Iterable[PreferencePair]) -> str:
    """`sha256:` over prompts, responses, margins and soft labels in order, whatever format they were stored in."""
    identity = Fingerprint()
    for _ in identity.of_pairs(pairs):
        pass
    return str(identity)


class Fingerprint:
    """The identity of a data set, taken while it passes by; `str()` gives it at the end."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def of_pairs(self, pairs: Iterable[PreferencePair]) -> Iterator[PreferencePair]:
        """Passes `pairs` on."""
        for pair in pairs:
            label = [pair.label] if pair.label != 1 else []
            self.add(pair.prompt, pair.chosen, pair.rejected, pair.margin, *label)
            yield pair

    def add(self, prompt: Prompt, *fields: Any) -> None:
        """Adds one record: a prompt, and what JSON can express."""
        turns = [[message.role, message.content] for message in prompt]
        self._digest.update(json.dumps([turns, *fields], separators=(",", ":")).encode() + b"\n")

    def __str__(self) -> str:
        """The identity so far."""
        return f"sha256:{self._digest.hexdigest()}"
