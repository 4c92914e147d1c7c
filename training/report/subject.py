"""What a report is about: a checkpoint as it describes itself, how it was trained, and what it made of some pairs.

Knows what was recorded; neither how it is shown nor where it goes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reward_model.calibration import UNCALIBRATED, Calibration
from reward_model.manifest import Manifest
from reward_model.records import Prompt
from training.report.log import TrainingLog
from training.report.verdicts import Verdicts


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A pair whose rejected response got the higher reward, with its texts.

    Attributes:
        line: where it stands in its data set.
        prompt, chosen, rejected: texts.
        rewards: of chosen and rejected.
        probability: that the label is right, as the model sees it.
    """

    line: int
    prompt: Prompt
    chosen: str
    rejected: str
    rewards: tuple[float, float]
    probability: float


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint and what is known of it.

    Attributes:
        name: of the checkpoint.
        fingerprint: identity of its score function.
        manifest: None for a foreign checkpoint.
        log: of its training, where there is one.
        verdicts: on the pairs that it is measured on; None where there are none.
        own: the pairs are those that were held out when it was made, on which it is calibrated.
        not_used: rows of the pairs' data set that could not be used.
        disagreements: texts to show, the most confident first; none unless they were asked for.
    """

    name: str
    fingerprint: str
    manifest: Manifest | None
    log: TrainingLog | None
    verdicts: Verdicts | None
    own: bool
    not_used: int = 0
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def calibration(self) -> Calibration:
        """The fitted one, or the identity."""
        return self.manifest.calibration if self.manifest else UNCALIBRATED

    @property
    def record(self) -> Mapping[str, Any]:
        """How it was made, as its checkpoint says."""
        return self.manifest.training if self.manifest else {}

    @property
    def calibration_errors(self) -> tuple[float, float] | None:
        """ECE with temperature 1 and with the fitted one; cross-fitted on the pairs that it was fitted on."""
        if self.own:
            metrics = self.calibration.metrics
            return (metrics["ece_before"], metrics["ece_after"]) if metrics else None
        if self.verdicts is None or not self.verdicts.scored:
            return None
        return self.verdicts.quality(1.0).ece, self.verdicts.quality(self.calibration.trusted).ece
