"""Trains a reward model from preference pairs.

    python -m training.train --model_name_or_path M --dataset_name pairs.jsonl --output_dir checkpoints/mine

Reads the pairs, trains with transformers' `Trainer`, fits the calibration on held-out pairs and writes a checkpoint
that the service loads. Flags: transformers' own and those of `training.arguments`. Knows nothing of HTTP.
"""

import logging
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import HfArgumentParser, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from reward_model.atomic import checked_target
from reward_model.calibration import Calibration
from reward_model.errors import CheckpointRefused
from reward_model.manifest import Manifest, read_manifest
from reward_model.model import RewardModel
from reward_model.precision import Precision
from reward_model.pretrained import vocabulary_of
from reward_model.rendering import Renderer
from training.arguments import RewardTrainingArguments
from training.base import Base, load_base
from training.finish import NO_SPREAD, calibration_of, write_checkpoint
from training.first_sight import Judged, held_out, together
from training.label_noise import LabelNoise
from training.objectives import UnfitData
from training.outcomes import Outcomes
from training.prepare import Data, check_readable, prepare
from training.rows import DataError
from training.store import kept_while_used
from training.trainer import RewardTrainer, TrainingFailed

logger = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 1024
_CHANCE = 0.5
#: transformers annotates its parser for instances of dataclasses, and means the classes.
_FLAGS: Any = RewardTrainingArguments


def train(args: RewardTrainingArguments) -> Manifest:
    """Runs the whole stage and writes the checkpoint to `args.output_dir`.

    Raises:
        TrainingFailed: nothing was learned, or the rewards diverged; nothing is written.
        CheckpointRefused: the base model cannot become a reward model.
        training.data.NoPairs: no row of a data set could be used.
    """
    directory = checked_target(Path(str(args.output_dir)))
    # The Trainer's own state stays beside the checkpoint, which is replaced as a whole.
    args.output_dir = f"{directory}.trainer"
    check_readable(args)
    # Each process has its own: they may run on different machines.
    examples = directory.with_name(f".{directory.name}.examples-{args.process_index}")
    with kept_while_used(examples):
        return _train(args, directory, examples)


def _train(args: RewardTrainingArguments, directory: Path, examples: Path) -> Manifest:
    set_seed(args.seed)
    base = load_base(
        str(args.model_name_or_path),
        labels=args.scalarisation.names,
        disable_dropout=args.disable_dropout,
        head_seed=args.head_seed,
    )
    renderer = _renderer(base, args.max_length)
    data = prepare(args, renderer, examples)
    precision = Precision(torch.device("cpu"), torch.float32, "training")
    model = RewardModel(base.network, precision, scalarisation=args.scalarisation)
    trainer = RewardTrainer(model, args, args.objective, data.train, data.validation)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    # Without autocast, or the recorded rewards would not be those of the weights that are saved.
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    seen = trainer.first_sight()
    if trainer.is_world_process_zero():
        _finish(trainer, base, renderer.max_length, data, directory, seen)
    trainer.accelerator.wait_for_everyone()
    with suppress(OSError):
        Path(str(args.output_dir)).rmdir()  # the Trainer makes it even where nothing is kept in it
    manifest = read_manifest(directory)
    assert manifest is not None
    return manifest


def _renderer(base: Base, max_length: int | None) -> Renderer:
    limit = min(base.positions, DEFAULT_MAX_LENGTH) if max_length is None else max_length
    if limit > base.positions:
        msg = f"--max_length {limit} is more than the {base.positions} tokens the base model can read"
        raise CheckpointRefused(msg)
    vocabulary = vocabulary_of(base.network)
    return Renderer(base.tokenizer, rendering="chat_template", max_length=limit, vocab_size=vocabulary)


def _finish(
    trainer: RewardTrainer,
    base: Base,
    max_length: int,
    data: Data,
    directory: Path,
    seen: tuple[Judged, int] | None,
) -> None:
    """Judges what was learned, calibrates on the held-out pairs, and writes the checkpoint."""
    outcomes = trainer.outcomes(data.validation or data.train)
    _check_learned(outcomes.metrics(loss=True), held_out=bool(data.validation))
    calibration = calibration_of(outcomes, data.validation)
    noise = _label_noise(trainer.args, data, seen, outcomes, calibration) if seen else None
    write_checkpoint(
        trainer.reward_model,
        base.tokenizer,
        directory,
        max_length=max_length,
        outcomes=outcomes,
        calibration=calibration,
        record={
            **data.record,
            **({"label_noise": noise.record()} if noise else {}),
            "seed": trainer.args.seed,
            "head_initialisation": base.head_initialisation,
            "flags": _flags(trainer.args),
        },
    )
    if noise:
        noise.write(Path(str(trainer.args.label_noise_file)).expanduser())


def _label_noise(
    args: RewardTrainingArguments,
    data: Data,
    seen: tuple[Judged, int],
    outcomes: Outcomes,
    calibration: Calibration,
) -> LabelNoise:
    """What was judged at first sight while training, and the held-out pairs by the trained model."""
    train, judged = seen
    against = {str(args.dataset_name): train}
    if data.validation:
        name = str(args.eval_dataset_name or args.dataset_name)
        parts = [against[name]] if name in against else []
        against[name] = together([*parts, held_out(data.validation, outcomes.margins)])
    pairs = data.record["pairs"]
    return LabelNoise(against, calibration, min(judged, pairs), partial=judged < pairs)


def _check_learned(metrics: dict[str, float], *, held_out: bool) -> None:
    if not all(math.isfinite(value) for value in metrics.values()):
        msg = "the trained model gives rewards that are not finite: lower --learning_rate or train in fp32"
        raise TrainingFailed(msg)
    if metrics["reward_std"] < NO_SPREAD:
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


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and trains; 2 for unusable flags, 1 where there is nothing to train on or with."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = HfArgumentParser(_FLAGS, prog="python -m training.train", allow_abbrev=False)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        parsed: tuple[Any, ...] = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    except ValueError as error:
        parser.exit(2, f"training.train: {error}\n")
    args, unknown = parsed
    if unknown:
        similar = get_close_matches(unknown[0], [f"--{field.name}" for field in fields(_FLAGS)], 1)
        hint = f"did you mean {similar[0]}?" if similar else "--help lists all"
        parser.exit(2, f"training.train: there is no flag {unknown[0]}; {hint}\n")
    try:
        train(args)
    except (CheckpointRefused, DataError, UnfitData, TrainingFailed, OSError, SafetensorError) as error:
        sys.stderr.write(f"training.train: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
