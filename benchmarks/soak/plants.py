"""What goes wrong in the model of a soak run: faults that a question asks for, and two that nobody asked for.

A question asks for its fault by a word, so that whoever asked knows what the answer must be. The plants are there to
be found: a run that misses them proves nothing. Knows batches, neither HTTP nor who looks for the plants.
"""

import enum
import time
from collections.abc import Sequence
from dataclasses import replace

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.stub import tokenize

SLOW_SECONDS = 0.2
#: Batches of two or more from one crossed answer to the next.
CROSSED_EVERY = 10


class Fault(enum.StrEnum):
    """What can be asked for; the value is the word that asks."""

    OUT_OF_MEMORY = "fault:out-of-memory"
    #: Memory that is short only while others are in the batch.
    CROWDED = "fault:crowded"
    EXCEPTION = "fault:exception"
    NAN = "fault:nan"
    SLOW = "fault:slow"


class Plant(enum.StrEnum):
    """Defects of a service, to see that they are found."""

    LEAK = "leak"
    CROSSED = "crossed"


_FAULTS = {tokenize(f" {fault}")[0]: fault for fault in Fault}


class Faulty:
    """A fault for the stub: does to a batch what its inputs ask for.

    Args:
        plant: what is wrong with it beside that.
        leaked_bytes: that a leak keeps of each input.
    """

    def __init__(self, plant: Plant | None, leaked_bytes: int) -> None:
        self._plant = plant
        self._leaked_bytes = leaked_bytes
        self._leaked: list[bytearray] = []
        self._batches = 0

    def __call__(self, batch: Sequence[Rendered], scores: list[Score]) -> list[Score]:
        """The scores that the model says.

        Raises:
            MemoryError, RuntimeError: an input asks for it.
        """
        asked = [_asked(one) for one in batch]
        if Fault.OUT_OF_MEMORY in asked or (Fault.CROWDED in asked and len(batch) > 1):
            raise MemoryError
        if Fault.EXCEPTION in asked:
            msg = "a fault that was asked for"
            raise RuntimeError(msg)
        if Fault.SLOW in asked:
            time.sleep(SLOW_SECONDS)
        said = [
            replace(score, value=float("nan")) if fault is Fault.NAN else score
            for fault, score in zip(asked, scores, strict=True)
        ]
        return self._planted(said)

    def _planted(self, scores: list[Score]) -> list[Score]:
        if self._plant is Plant.LEAK:
            self._leaked += [bytearray(self._leaked_bytes) for _ in scores]
        if self._plant is Plant.CROSSED and len(scores) > 1:
            self._batches += 1
            if self._batches % CROSSED_EVERY == 0:
                return [scores[1], scores[0], *scores[2:]]
        return scores


def _asked(one: Rendered) -> Fault | None:
    found = _FAULTS.keys() & set(one.token_ids)
    return _FAULTS[found.pop()] if found else None
