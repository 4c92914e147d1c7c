"""Who gives the pairs of an evaluation their rewards, and a checkpoint in this process as one of them.

`training.service_scorer` has the other. Knows pairs and rewards, not what they say about a model.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from reward_model.checkpoint import Checkpoint
from reward_model.rendering import Rendered
from training.data import RowReport
from training.evaluation import Provenance
from training.examples import render_responses
from training.pairs import BadRow, PreferencePair
from training.scoring import score_groups


class EvaluationFailed(RuntimeError):
    """There is no result; the message says why."""


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair with its two raw rewards.

    Attributes:
        pair: what was scored.
        chosen, rejected: finite.
        truncated: the prompt had to be cut.
    """

    pair: PreferencePair
    chosen: float
    rejected: float
    truncated: bool

    @property
    def margin(self) -> float:
        """Chosen minus rejected."""
        return self.chosen - self.rejected


class PairScorer(Protocol):
    """A reward model, as an evaluation sees it."""

    def provenance(self, dataset_fingerprint: str) -> Provenance:
        """What gives the rewards, for the record."""
        ...

    def score(
        self, pairs: Mapping[int, PreferencePair], not_scored: RowReport, done: Callable[[int], object]
    ) -> dict[int, ScoredPair]:
        """The pairs that can be scored; the others go to the report, in their order.

        Prompts are cut where they must be, once for both responses; a response is never cut.

        Args:
            pairs: by whatever tells them apart.
            not_scored: is told of the others.
            done: called with numbers of pairs as they are done.

        Raises:
            EvaluationFailed: a score is not finite.
        """
        ...


class CheckpointScorer:
    """A loaded checkpoint as a `PairScorer`.

    Args:
        checkpoint: loaded and verified.
        batch_tokens: see `score_groups`.
    """

    def __init__(self, checkpoint: Checkpoint, batch_tokens: int | None = None) -> None:
        self._checkpoint = checkpoint
        self._batch_tokens = batch_tokens

    def provenance(self, dataset_fingerprint: str) -> Provenance:
        """See `PairScorer`."""
        checkpoint = self._checkpoint
        return Provenance(
            model=checkpoint.name,
            model_fingerprint=checkpoint.fingerprint,
            dataset_fingerprint=dataset_fingerprint,
            max_length=checkpoint.renderer.max_length,
            device=str(checkpoint.model.precision.device),
            dtype=checkpoint.model.precision.dtype_name,
            temperature=checkpoint.calibration.trusted,
            calibrated=checkpoint.calibration.calibrated,
            length_calibrated=checkpoint.model.length_calibration is not None,
        )

    def score(
        self, pairs: Mapping[int, PreferencePair], not_scored: RowReport, done: Callable[[int], object]
    ) -> dict[int, ScoredPair]:
        """See `PairScorer`."""
        renderer, rendered = self._checkpoint.renderer, dict[int, tuple[Rendered, ...]]()
        for i, pair in pairs.items():
            try:
                rendered[i] = render_responses(pair.prompt, [pair.chosen, pair.rejected], renderer)
            except BadRow as error:
                not_scored.add(pair.line, error)
        done(len(pairs) - len(rendered))
        values = score_groups(self._checkpoint.model, list(rendered.values()), self._batch_tokens, done)
        return {
            i: _scored(pairs[i], chosen, rejected, truncated=any(one.truncated for one in both))
            for (i, both), (chosen, rejected) in zip(rendered.items(), values, strict=True)
        }


def _scored(pair: PreferencePair, chosen: float, rejected: float, *, truncated: bool) -> ScoredPair:
    if not (math.isfinite(chosen) and math.isfinite(rejected)):
        msg = f"the pair at line {pair.line} scores {chosen} and {rejected}: the model computes no finite reward for it"
        raise EvaluationFailed(msg)
    return ScoredPair(pair, chosen, rejected, truncated)
