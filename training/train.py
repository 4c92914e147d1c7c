"""Trains a reward model from preference pairs.

    python -m training.train --model_name_or_path M --dataset_name pairs.jsonl --output_dir checkpoints/mine

Reads the pairs, trains with transformers' `Trainer`, fits the calibration on held-out pairs and writes a checkpoint
that the service loads. Flags: transformers' own and those of `training.arguments`. Knows nothing of HTTP.
"""

import json
import logging
import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from safetensors import SafetensorError
from transformers import HfArgumentParser, set_seed
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging as transformers_logging

from reward_model.atomic import checked_target
from reward_model.calibration import Calibration
from reward_model.errors import CheckpointRefused
from reward_model.manifest import Manifest
from reward_model.model import RewardModel
from reward_model.precision import Precision
from reward_model.pretrained import vocabulary_of
from reward_model.rendering import Renderer
from training.arguments import RewardTrainingArguments
from training.base import Base, load_base
from training.finish import NO_SPREAD, calibration_of, write_checkpoint
from training.first_sight import Judged, held_out, joined
from training.label_noise import LabelNoise, check_place
from training.lora import adapt, merge
from training.objectives import UnfitData
from training.optimizers import ordered_layers
from training.outcomes import Outcomes
from training.prepare import Data, check_readable, prepare
from training.processes import FailedElsewhere, gathered, together
from training.report.run import report_run
from training.resume import ResumeRefused, choose, describe_run
from training.rows import DataError
from training.sharding import CannotDivide, gather
from training.store import kept_while_used
from training.trainer import RewardTrainer, TrainingFailed

logger = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 1024
_CHANCE = 0.5
#: transformers annotates its parser for instances of dataclasses, and means the classes.
_FLAGS: Any = RewardTrainingArguments
#: What ends a run with a sentence.
_FORESEEN = (
    TrainingFailed, ResumeRefused, CannotDivide, CheckpointRefused, DataError, UnfitData, OSError, SafetensorError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the trained model makes of the held-out examples, and what it made of others when it saw them first."""

    outcomes: Outcomes
    first_sight: tuple[Judged, int] | None


def train(args: RewardTrainingArguments) -> Manifest:
    """Runs the whole stage and writes the checkpoint to `args.output_dir`; all processes of a run call it.

    Raises:
        TrainingFailed: nothing was learned, or the rewards diverged; nothing is written.
        CheckpointRefused: the base model cannot become a reward model.
        ResumeRefused: there is nothing to resume from that is of this run.
        CannotDivide: the model cannot be divided among processes in the way that was asked for.
        BlockingIOError: another run writes to `args.output_dir`.
        FailedElsewhere: another process raised one of these.
        training.data.NoPairs: no row of a data set could be used.
    """
    with together():
        directory = checked_target(Path(str(args.output_dir)))
        # The Trainer's own state stays beside the checkpoint, which is replaced as a whole.
        args.output_dir = f"{directory}.trainer"
        check_readable(args)
        if args.label_noise_file:
            data_sets = [name for name in (args.dataset_name, args.eval_dataset_name) if name]
            check_place(Path(args.label_noise_file).expanduser(), data_sets, (directory, Path(args.output_dir)))
    # Each process has its own: they may run on different machines.
    place = directory.with_name(f".{directory.name}.examples-{args.process_index}")
    with ExitStack() as stack:
        with together():
            examples = stack.enter_context(kept_while_used(place))
        return _train(args, directory, examples)


def _train(args: RewardTrainingArguments, directory: Path, examples: Path) -> Manifest:
    with together():
        set_seed(args.seed)
        base = load_base(
            str(args.model_name_or_path),
            labels=args.scalarisation.names,
            disable_dropout=args.disable_dropout,
            head_seed=args.head_seed,
        )
        if args.layer_decay != 1:
            ordered_layers(base.network)  # or it would be missed only after all data was rendered
        renderer = _renderer(base, args.max_length)
        data = prepare(args, renderer, examples)
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
    judged = Judgement(trainer.outcomes(data.validation or data.train), trainer.first_sight())
    gather(trainer.accelerator, model)
    manifest: Manifest | None = None
    with together():
        if trainer.is_world_process_zero():
            if adapted and divided:
                merge(adapted, base.network)
            manifest = _finish(trainer, base, renderer.max_length, data, judged, directory)
            with suppress(OSError):
                Path(str(args.output_dir)).rmdir()  # the Trainer makes it even where nothing is kept in it
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
    trainer: RewardTrainer, base: Base, max_length: int, data: Data, judged: Judgement, directory: Path
) -> Manifest:
    """Says what was learned, calibrates on the held-out pairs, and writes the checkpoint."""
    outcomes = judged.outcomes
    _check_learned(outcomes.metrics(loss=True), held_out=bool(data.validation))
    calibration = calibration_of(outcomes, data.validation)
    noise = _label_noise(trainer.args, data, judged, calibration)
    manifest = write_checkpoint(
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
    report_run(directory, manifest, trainer.args, trainer.state.log_history, data.validation, outcomes)
    return manifest


def _label_noise(
    args: RewardTrainingArguments, data: Data, judged: Judgement, calibration: Calibration
) -> LabelNoise | None:
    """What was judged at first sight while training, and the held-out pairs by the trained model."""
    if judged.first_sight is None:
        return None
    train, seen = judged.first_sight
    against = {str(args.dataset_name): train}
    if data.validation:
        name = str(args.eval_dataset_name or args.dataset_name)
        parts = [against[name]] if name in against else []
        against[name] = joined([*parts, held_out(data.validation, judged.outcomes.margins)])
    pairs = data.record["pairs"]
    return LabelNoise(against, calibration, min(seen, pairs), partial=seen < pairs)


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


def _flags(args: RewardTrainingArguments) -> dict[str, Any]:
    """The flags that were set to other than their defaults; no secrets, which transformers masks as <..._TOKEN>."""
    values: dict[str, Any] = args.to_dict()  # type: ignore[no-untyped-call]
    given = {name: value for name, value in values.items() if name in args.given - {"output_dir"}}
    return {name: v for name, v in given.items() if _is_json(v) and not str(v).startswith("<")}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


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
    if args.process_index > 0:
        logging.getLogger().setLevel(logging.WARNING)  # the first process says what all do
    try:
        train(args)
    except FailedElsewhere:
        return 1  # where it failed, it is said why
    except _FORESEEN as error:
        if args.process_index == 0 or not isinstance(error, TrainingFailed | ResumeRefused | CannotDivide):
            sys.stderr.write(f"training.train: {error}\n")  # the former are raised by all processes
        return 1
    PartialState().destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
