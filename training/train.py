"""Trains a reward model from preference pairs.

    python -m training.train --model_name_or_path M --dataset_name pairs.jsonl --output_dir checkpoints/mine

Reads the pairs, trains with transformers' `Trainer`, fits the calibration on held-out pairs and writes a checkpoint
that the service loads. Flags: transformers' own and those of `training.arguments`. Knows nothing of HTTP.
"""

import logging
import math
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState  # type: ignore[import-untyped]
from transformers import HfArgumentParser, TrainingArguments, set_seed
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging as transformers_logging

import reward_model
from reward_model import checkpoint
from reward_model.atomic import checked_target
from reward_model.calibration import UNCALIBRATED, fit, reward_statistics
from reward_model.errors import CheckpointRefused
from reward_model.manifest import Manifest
from reward_model.model import RewardModel
from reward_model.precision import Precision
from reward_model.pretrained import vocabulary_of
from reward_model.rendering import Renderer
from training.arguments import RewardTrainingArguments
from training.base import Base, load_base
from training.lora import adapt, merge
from training.objectives import UnfitData
from training.outcomes import Outcomes
from training.prepare import Data, check_readable, prepare
from training.processes import FailedElsewhere, gathered, together
from training.resume import ResumeRefused, choose, describe_run
from training.rows import DataError
from training.sharding import CannotDivide, gather
from training.trainer import RewardTrainer, TrainingFailed

logger = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 1024
#: Rewards that differ by less than this have not been learned.
_NO_SPREAD = 1e-4
_CHANCE = 0.5
#: transformers annotates its parser for instances of dataclasses, and means the classes.
_FLAGS: Any = RewardTrainingArguments


def train(args: RewardTrainingArguments) -> Manifest:
    """Runs the whole stage and writes the checkpoint to `args.output_dir`; all processes of a run call it.

    Raises:
        TrainingFailed: nothing was learned, or the rewards diverged; nothing is written.
        CheckpointRefused: the base model cannot become a reward model.
        ResumeRefused: there is nothing to resume from that is of this run.
        CannotDivide: the model cannot be divided among processes in the way that was asked for.
        FailedElsewhere: another process raised one of these.
        training.data.NoPairs: no row of a data set could be used.
    """
    with together():
        directory = checked_target(Path(str(args.output_dir)))
        # The Trainer's own state stays beside the checkpoint, which is replaced as a whole.
        args.output_dir = f"{directory}.trainer"
        check_readable(args)
        set_seed(args.seed)
        base = load_base(
            str(args.model_name_or_path),
            labels=args.scalarisation.names,
            disable_dropout=args.disable_dropout,
            head_seed=args.head_seed,
        )
        renderer = _renderer(base, args.max_length)
        data = prepare(args, renderer)
        precision = Precision(torch.device("cpu"), getattr(torch, args.dtype), "training")
        model = RewardModel(base.network, precision, scalarisation=args.scalarisation)
        adapted = adapt(base.network, args.lora) if args.lora else None
    with together():
        _check_alike(args, data)
        run, start = _history(args, data) if args.process_index == 0 else ({}, None)
    trainer = RewardTrainer(model, args, args.objective, data.train, data.validation, run)
    trainer.train(resume_from_checkpoint=gathered(start)[0])
    # Without autocast, or the recorded rewards would not be those of the weights that are saved.
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    divided = trainer.is_fsdp_enabled
    if adapted and not divided:
        merge(adapted, base.network)
    outcomes = trainer.outcomes(data.validation or data.train)
    gather(trainer.accelerator, model)
    manifest: Manifest | None = None
    with together():
        if trainer.is_world_process_zero():
            if adapted and divided:
                merge(adapted, base.network)
            manifest = _finish(trainer, base, renderer.max_length, data, outcomes, directory)
            with suppress(OSError):
                Path(args.output_dir).rmdir()  # the Trainer makes it even where nothing is kept in it
    manifest = gathered(manifest)[0]
    assert manifest is not None
    return manifest


def _check_alike(args: RewardTrainingArguments, data: Data) -> None:
    seen = {(one["dataset_fingerprint"], one["pairs"], one["eval_pairs"]) for one in gathered(data.record)}
    if len(seen) > 1:
        msg = f"the processes of this run read different data from {args.dataset_name}: {sorted(seen)}"
        raise DataError(msg)


def _history(args: RewardTrainingArguments, data: Data) -> tuple[dict[str, Any], str | None]:
    """What this run is told by, and the checkpoint that it goes on from."""
    if args.save_strategy == SaveStrategy.NO and args.resume_from_checkpoint is None:
        return {}, None
    run = describe_run(args, data.record)
    start = choose(Path(str(args.output_dir)), args.resume_from_checkpoint, run)
    return run, None if start is None else str(start)


def _renderer(base: Base, max_length: int | None) -> Renderer:
    limit = min(base.positions, DEFAULT_MAX_LENGTH) if max_length is None else max_length
    if limit > base.positions:
        msg = f"--max_length {limit} is more than the {base.positions} tokens the base model can read"
        raise CheckpointRefused(msg)
    vocabulary = vocabulary_of(base.network)
    return Renderer(base.tokenizer, rendering="chat_template", max_length=limit, vocab_size=vocabulary)


def _finish(
    trainer: RewardTrainer, base: Base, max_length: int, data: Data, outcomes: Outcomes, directory: Path
) -> Manifest:
    """Judges what was learned, calibrates on the held-out pairs, and writes the checkpoint."""
    metrics = outcomes.metrics(loss=True)
    _check_learned(metrics, held_out=bool(data.validation))
    calibration = UNCALIBRATED
    if data.validation:
        prompts = [example.prompt for example in data.validation for _ in example.comparisons]
        calibration = fit(outcomes.margins, prompts, outcomes.labels)
    manifest = checkpoint.save(
        trainer.reward_model,
        base.tokenizer,
        directory,
        max_length=max_length,
        calibration=calibration,
        reward=reward_statistics(outcomes.rewards),
        training={**data.record, "metrics": metrics, "flags": _flags(trainer.args), "versions": _versions()},
    )
    logger.info(
        "%s: accuracy %.1f %% on %d %s pairs, temperature %.2f (%s); wrote %s",
        manifest.fingerprint[:19],
        100 * metrics.get("accuracy", math.nan),
        len(outcomes.labels),
        "held-out" if data.validation else "training",
        calibration.temperature,
        calibration.reason or "calibrated",
        directory,
    )
    return manifest


def _check_learned(metrics: dict[str, float], *, held_out: bool) -> None:
    if not all(math.isfinite(value) for value in metrics.values()):
        msg = "the trained model gives rewards that are not finite: lower --learning_rate or train in fp32"
        raise TrainingFailed(msg)
    if metrics["reward_std"] < _NO_SPREAD:
        msg = (
            f"all responses get the same reward (standard deviation {metrics['reward_std']:.1e}): nothing was learned."
            " Raise --learning_rate or --num_train_epochs, and look whether chosen and rejected differ within"
            " --max_length"
        )
        raise TrainingFailed(msg)
    if metrics.get("accuracy", 1.0) <= _CHANCE:
        logger.warning(
            "accuracy on %s pairs is %.1f %%, no better than chance: check which response the data calls chosen, train"
            " longer or on more pairs, or start from a larger base",
            "held-out" if held_out else "the training",
            100 * metrics["accuracy"],
        )


def _flags(args: TrainingArguments) -> dict[str, Any]:
    """The flags that differ from their defaults; no secrets, which transformers masks as <..._TOKEN>."""
    defaults = {field.name: field.default for field in fields(args) if field.name != "output_dir"}
    given: dict[str, Any] = {name: value for name, value in args.to_dict().items() if name in defaults}  # type: ignore[no-untyped-call]
    plain = {name: value for name, value in given.items() if isinstance(value, str | int | float)}
    return {name: v for name, v in plain.items() if v != defaults[name] and not str(v).startswith("<")}


def _versions() -> dict[str, str]:
    return {
        "reward_model": reward_model.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and trains; 2 for unusable flags, 1 where there is nothing to train on or with."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = HfArgumentParser(_FLAGS, prog="python -m training.train", allow_abbrev=False)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        (args,) = parser.parse_args_into_dataclasses(argv)
    except ValueError as error:
        parser.exit(2, f"training.train: {error}\n")
    if args.process_index > 0:
        logging.getLogger().setLevel(logging.WARNING)  # the first process says what all do
    try:
        train(args)
    except FailedElsewhere:
        return 1  # where it failed, it is said why
    except (TrainingFailed, ResumeRefused, CannotDivide, CheckpointRefused, DataError, UnfitData, OSError) as error:
        if args.process_index == 0 or not isinstance(error, TrainingFailed | ResumeRefused | CannotDivide):
            sys.stderr.write(f"training.train: {error}\n")  # the former are raised by all processes
        return 1
    PartialState().destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
