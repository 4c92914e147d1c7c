"""The end of every stage that makes a checkpoint: calibrated on held-out pairs, described, and written.

Knows outcomes of comparisons and checkpoints, not where the weights come from.
"""

import logging
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase

import reward_model
from reward_model import checkpoint
from reward_model.calibration import UNCALIBRATED, Calibration, fit, reward_statistics
from reward_model.manifest import Manifest
from reward_model.model import RewardModel
from training.examples import Example
from training.outcomes import Outcomes

logger = logging.getLogger(__name__)

#: Rewards that differ by less than this (their standard deviation) say nothing about responses.
NO_SPREAD = 1e-4


def write_checkpoint(
    model: RewardModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    *,
    max_length: int,
    outcomes: Outcomes,
    calibration: Calibration,
    record: dict[str, Any],
) -> Manifest:
    """Writes `model` as a checkpoint, in one step.

    Args:
        model: in fp32.
        tokenizer: with its chat template.
        directory: where to.
        max_length: tokens the model reads.
        outcomes: what the model makes of held-out examples, or of the training examples where there are no others.
        calibration: fitted on them; see `calibration_of`.
        record: how the model was made; metrics and versions are added.
    """
    metrics = outcomes.metrics(loss=True)
    manifest = checkpoint.save(
        model,
        tokenizer,
        directory,
        max_length=max_length,
        calibration=calibration,
        reward=reward_statistics(outcomes.rewards),
        training={**record, "metrics": metrics, "versions": versions()},
    )
    logger.info(
        "%s: accuracy %.1f %% on %d %s pairs, temperature %.2f (%s); wrote %s",
        manifest.fingerprint[:19],
        100 * metrics.get("accuracy", math.nan),
        len(outcomes.labels),
        "held-out" if calibration is not UNCALIBRATED else "training",
        calibration.temperature,
        calibration.reason or "calibrated",
        directory,
    )
    return manifest


def calibration_of(outcomes: Outcomes, held_out: Sequence[Example]) -> Calibration:
    """Fitted on what a model makes of `held_out`; none where that is empty."""
    return fit(outcomes.margins, prompts_of(held_out), outcomes.labels) if held_out else UNCALIBRATED


def prompts_of(examples: Sequence[Example]) -> list[bytes]:
    """The prompt of each comparison, in the order of their outcomes."""
    return [example.prompt for example in examples for _ in example.comparisons]


def versions() -> dict[str, str]:
    """Of what decides a score."""
    return {
        "reward_model": reward_model.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
