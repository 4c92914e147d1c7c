"""Running a batch so that an input the model cannot score fails alone.

Knows inputs and functions that score them; nothing of requests, and nothing of what their callers are told.
"""

import enum
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from reward_model.rendering import Rendered
from reward_model.scores import Score
from service.scorer import DeviceLost, Pending

log = logging.getLogger(__name__)


class Failure(enum.Enum):
    """Why an input has no score."""

    NON_FINITE = "non_finite"
    OUT_OF_MEMORY = "oom"
    FAULT = "fault"


Outcome = Score | Failure
#: What became of the launch of a batch.
Launched = Pending | Failure
#: The scores of a batch, or why there are none.
Result = list[Score] | Failure
#: `Scorer.run`.
Run = Callable[[Sequence[Rendered]], list[Score]]
T = TypeVar("T")


def launch_isolated(launch: Callable[[Sequence[Rendered]], Pending], batch: Sequence[Rendered]) -> Launched:
    """Launches `batch`; where that fails, `run_isolated` finds out why.

    Raises:
        DeviceLost: nothing can be computed any more.
    """
    return _attempt(lambda: launch(batch), len(batch))


def result_of(launched: Launched, batch: Sequence[Rendered]) -> Result:
    """Waits for what became of a launched `batch` as a whole.

    Raises:
        DeviceLost: nothing can be computed any more.
    """
    return launched if isinstance(launched, Failure) else _scores(launched.result, batch)


def run_isolated(run: Run, batch: Sequence[Rendered], result: Result) -> list[Outcome]:
    """The outcomes of a `batch` that was run; where it failed, each guilty input gets a Failure, all others a score.

    Args:
        run: scores a part of the batch once more.
        batch: one or more inputs.
        result: what became of it as a whole.

    Raises:
        DeviceLost: nothing can be computed any more.
    """
    if isinstance(result, Failure):
        return _search(run, batch)
    return _without_non_finite(run, batch, result)


def _search(run: Run, batch: Sequence[Rendered]) -> list[Outcome]:
    """Tries a batch that failed once more, in halves; a single input gets one more chance alone."""
    middle = len(batch) // 2
    parts = [batch[:middle], batch[middle:]] if middle else [batch]
    outcomes: list[Outcome] = []
    for part in parts:
        result = _scores(partial(run, part), part)
        if not isinstance(result, Failure):
            outcomes += _without_non_finite(run, part, result)
        elif len(part) > 1:
            outcomes += _search(run, part)
        else:
            outcomes.append(result)
    return outcomes


def _scores(score: Callable[[], list[Score]], batch: Sequence[Rendered]) -> Result:
    """One run: as many scores as there are inputs, or why not."""
    scores = _attempt(score, len(batch))
    if not isinstance(scores, Failure) and len(scores) != len(batch):
        log.error("the model gave %d scores for %d inputs", len(scores), len(batch))
        return Failure.FAULT
    return scores


def _attempt(call: Callable[[], T], inputs: int) -> T | Failure:
    """One call of the model. The error is gone when this returns: its traceback would keep the batch's memory."""
    try:
        return call()
    except DeviceLost:
        raise
    except MemoryError:
        log.warning("out of memory on a batch of %d inputs", inputs)
        return Failure.OUT_OF_MEMORY
    except Exception:  # whatever a model can raise: the inputs beside the guilty one must not suffer for it
        log.warning("the model failed on a batch of %d inputs", inputs, exc_info=True)
        return Failure.FAULT


def _without_non_finite(run: Run, batch: Sequence[Rendered], scores: list[Score]) -> list[Outcome]:
    """Checks the scores; an input whose score is not finite is run again alone.

    A NaN can spread to neighbours through masked positions (0 * NaN), and they are not to blame.
    """
    outcomes: list[Outcome] = list(scores)
    for i, score in enumerate(scores):
        if _finite(score):
            continue
        alone = batch[i : i + 1]
        again = _scores(partial(run, alone), alone) if len(batch) > 1 else scores
        if isinstance(again, Failure):
            outcomes[i] = again
        else:
            outcomes[i] = again[0] if _finite(again[0]) else Failure.NON_FINITE
    return outcomes


def _finite(score: Score) -> bool:
    return math.isfinite(score.value) and all(map(math.isfinite, (score.attributes or {}).values()))
