"""What preference pairs say about a reward model: its temperature, the distribution of its rewards, and length.

Knows a loaded checkpoint and a data set, not where the result goes.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reward_model.calibration import MIN_GROUPS, MIN_PAIRS, Calibration, RewardStatistics, reward_statistics
from reward_model.checkpoint import Checkpoint
from reward_model.errors import CheckpointRefused
from reward_model.length_calibration import LengthCalibration
from training import length_bias
from training.data import NoPairs, RowReport, read_pairs
from training.examples import Example, SequencesOf, render_examples
from training.fingerprint import Fingerprint
from training.finish import NO_SPREAD, calibration_of, prompts_of, versions
from training.outcomes import Outcomes
from training.rows import DataError
from training.scoring import score_groups

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fitted:
    """The parts of a manifest that are fitted on pairs, under its names; `training` is what is new in the record."""

    calibration: Calibration
    reward: RewardStatistics
    length_calibration: LengthCalibration | None
    training: dict[str, Any]


def fit_pairs(
    checkpoint: Checkpoint,
    dataset: str,
    *,
    length_calibration: bool | None = None,
    max_pairs: int | None = None,
    batch_tokens: int | None = None,
) -> Fitted:
    """Scores pairs as the service would, and fits.

    Args:
        checkpoint: as it was loaded; changed where its length calibration is to be another one.
        dataset: pairs or rankings that the model was not trained on.
        length_calibration: fit one (true), leave it out (false), or keep what the checkpoint has (None).
        max_pairs: use only the first so many pairs.
        batch_tokens: see `score_groups`.

    Raises:
        DataError: the pairs cannot be used, or the checkpoint was trained on them.
        CheckpointRefused: its rewards say nothing.
    """
    report, identity = RowReport(), Fingerprint()
    examples = _read(dataset, checkpoint, max_pairs, report, identity)
    manifest, model = checkpoint.manifest, checkpoint.model
    if manifest is not None and manifest.training.get("dataset_fingerprint") == str(identity):
        msg = f"{dataset}: the checkpoint was trained on this very data set; name one that it was not trained on"
        raise DataError(msg)
    if length_calibration is not None:
        model.length_calibration = None
    values: length_bias.Values = score_groups(model, SequencesOf(examples), batch_tokens)
    _check_usable(Outcomes.of(examples, values))
    effect: dict[str, Any] = {}
    if length_calibration:
        effect = _effect(dataset, examples, values)
        model.length_calibration = length_bias.fit_curve(examples, values)
        values = length_bias.without_length(examples, values, model.length_calibration)
    outcomes = Outcomes.of(examples, values)
    calibration = calibration_of(outcomes, examples)
    _show(outcomes, calibration)
    record = {
        "model": checkpoint.name,
        "dataset": dataset,
        "dataset_fingerprint": str(identity),
        "pairs": len(outcomes.labels),
        "bad_rows": report.to_json(),
        "metrics": outcomes.metrics(loss=True),
        **effect,
        "versions": versions(),
    }
    return Fitted(
        calibration=calibration,
        reward=reward_statistics(outcomes.rewards),
        length_calibration=model.length_calibration,
        training={"reward_from": "calibration pairs", "calibrated_on": record},
    )


def _read(
    dataset: str, checkpoint: Checkpoint, limit: int | None, report: RowReport, identity: Fingerprint
) -> list[Example]:
    pairs = identity.of_pairs(read_pairs(dataset, report, limit=limit))
    examples = list(render_examples(pairs, checkpoint.renderer, report))
    if not examples:
        msg = f"{dataset}: nothing is left to use: {report.foremost}\n{report.table()}"
        raise NoPairs(msg)
    logger.info("%s: %s", dataset, report.table())
    return examples


def _check_usable(outcomes: Outcomes) -> None:
    metrics = outcomes.metrics()
    if not all(map(math.isfinite, metrics.values())) or metrics["reward_std"] < NO_SPREAD:
        msg = (
            "the model gives every response the same reward, or none that is finite (standard deviation"
            f" {metrics['reward_std']:.1e}): it cannot tell responses apart"
        )
        raise CheckpointRefused(msg)


def _effect(dataset: str, examples: Sequence[Example], values: length_bias.Values) -> dict[str, Any]:
    """What a length calibration changes on responses that it was not fitted on; also shown."""
    prompts = prompts_of(examples)
    if len(prompts) < MIN_PAIRS or len(set(prompts)) < MIN_GROUPS:
        msg = (
            f"{dataset}: a length calibration takes {MIN_PAIRS} pairs on {MIN_GROUPS} prompts or more, there are"
            f" {len(prompts)} on {len(set(prompts))}"
        )
        raise DataError(msg)
    if len({length for row in length_bias.lengths_of(examples) for length in row}) == 1:
        msg = f"{dataset}: all responses are of one length, so nothing can be said of others"
        raise DataError(msg)
    raw = length_bias.LengthDependence.of(examples, values)
    calibrated = length_bias.LengthDependence.of(examples, length_bias.cross_fitted(examples, values))
    logger.info("%s", length_bias.table(examples, raw, calibrated))
    if doubt := length_bias.doubt(examples, raw, calibrated):
        logger.warning("%s: look whether this data has a length bias to take off", doubt)
    return {"length": {"raw": asdict(raw), "calibrated": asdict(calibrated)}}


def _show(outcomes: Outcomes, calibration: Calibration) -> None:
    metrics = outcomes.metrics()
    before, after = (
        ", ".join(f"{name} {calibration.metrics[f'{name.lower()}_{when}']:.3f}" for name in ("ECE", "NLL", "Brier"))
        for when in ("before", "after")
    )
    logger.info(
        "accuracy %.1f %% on %d pairs, temperature %.3g (%s)\nT = 1: %s\nfitted: %s (each fold by the T of the others)",
        100 * metrics["accuracy"],
        len(outcomes.labels),
        calibration.temperature,
        calibration.reason or "calibrated",
        before,
        after,
    )
