r"""Calibrates a reward model on preference pairs: any of Hugging Face's, or a checkpoint of ours once more.

    python -m training.calibrate --model_name_or_path some/reward-model --dataset_name pairs.jsonl \
        --output_dir checkpoints/adopted

A model without `reward_model.json` gets one, with golden vectors, the distribution of its rewards and a temperature; in
one that is there, only what is fitted on pairs is replaced. `--length_calibration` also takes off rewards what they owe
to the length of responses. Knows neither how the model was trained nor HTTP.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from transformers.utils import logging as transformers_logging

from reward_model.atomic import checked_target, replaced_directory
from reward_model.checkpoint import Checkpoint, load
from reward_model.description import describe
from reward_model.errors import CheckpointRefused
from reward_model.manifest import Manifest, read_manifest, verify_files, write_manifest
from reward_model.precision import DtypeName
from reward_model.rendering import Rendering
from reward_model.scores import Scalarisation
from reward_model.source import check_safe, copy_files, locate
from reward_model.template import pin_clock
from training.fitting import Fitted, fit_pairs
from training.report.writer import CARD_FILE, REPORT_FILE, is_ours
from training.rows import DataError

logger = logging.getLogger(__name__)

#: Exit status for a checkpoint that must not be used, the same as the service's.
REFUSED = 3
#: Where transformers looks for a tokenizer's template first.
_TEMPLATE_FILE = "chat_template.jinja"


class UsageError(Exception):
    """Flags that do not go together, or not with this model; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to go about it.

    Attributes:
        output_dir: where a copy of the checkpoint goes; None: what is fitted goes beside the model's own files.
        chat_template, score_label, max_length, device, dtype: see `reward_model.checkpoint.load`.
        length_calibration, batch_tokens, max_pairs: see `fit_pairs`.
    """

    output_dir: Path | None = None
    chat_template: Path | None = None
    score_label: str | None = None
    max_length: int | None = None
    device: str = "auto"
    dtype: DtypeName = "auto"
    batch_tokens: int | None = None
    max_pairs: int | None = None
    length_calibration: bool | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """How a model turns a conversation into a score.

    Attributes:
        rendering, max_length, scalarisation: see `Manifest`.
        template: the chat template where it has to be written down, since it is not what the model's files say.
        device: what the model ran on.
    """

    rendering: Rendering
    max_length: int
    scalarisation: Scalarisation
    template: str | None
    device: torch.device


def calibrate(name: str, dataset: str, options: Options) -> Manifest:
    """Runs the whole stage and writes `reward_model.json`, in one step.

    Args:
        name: a directory, or a hub name.
        dataset: pairs or rankings that the model was not trained on.
        options: see there.

    Raises:
        UsageError: it is not said where the result goes, or a flag is not for this model.
        CheckpointRefused: it is refused at load too, or its rewards say nothing.
        DataError: the pairs cannot be used, or the checkpoint was trained on them.
        OSError: it cannot be written; what was there before is as it was.
    """
    target = _target(name, options)
    directory = locate(name)
    check_safe(directory)
    manifest = read_manifest(directory)
    if manifest is not None and options.max_length is not None:
        msg = "--max_length is for foreign models: that of this checkpoint is a part of its score function"
        raise UsageError(msg)
    found, fitted = _fit(name, dataset, options)
    if target is None:
        written = _manifest_of(directory, manifest, found, fitted)
        write_manifest(written, directory)
    else:
        with replaced_directory(target) as staging:
            copy_files(directory, staging)
            if found.template is not None:
                (staging / _TEMPLATE_FILE).write_text(found.template, encoding="utf-8")
            written = _manifest_of(staging, manifest, found, fitted)
            write_manifest(written, staging)
    place = directory if target is None else target
    logger.info("%s: wrote %s", written.fingerprint[:19], place)
    card = place / CARD_FILE
    if (place / REPORT_FILE).exists() or (card.exists() and is_ours(card)):
        again = f"python -m training.report --model_name_or_path {place} --dataset_name {dataset}"
        logger.warning("its report and card show the calibration from before; for new ones: %s", again)
    return written


def _target(name: str, options: Options) -> Path | None:
    """Where a copy goes; None where the checkpoint itself gets the result."""
    directory = Path(name).expanduser()
    if options.output_dir is None:
        if not directory.is_dir():
            msg = f"{name} is no directory here to write into: name one for a copy of the model with --output_dir"
            raise UsageError(msg)
        if options.chat_template is not None:
            msg = "with --chat_template the model's files are no longer as they were: name --output_dir for a copy"
            raise UsageError(msg)
        return None
    target = checked_target(options.output_dir)
    if directory.is_dir() and target == directory.resolve():
        msg = f"{options.output_dir} is the model itself: without --output_dir it gets the result"
        raise UsageError(msg)
    return target


def _fit(name: str, dataset: str, options: Options) -> tuple[_Found, Fitted]:
    """Loads the model as the service does, and lets go of it."""
    checkpoint = load(
        name,
        device=options.device,
        dtype=options.dtype,
        max_length=options.max_length,
        chat_template=options.chat_template,
        score_label=options.score_label,
    )
    found = _Found(
        checkpoint.renderer.rendering,
        checkpoint.renderer.max_length,
        checkpoint.model.scalarisation,
        _template(checkpoint, options),
        checkpoint.model.precision.device,
    )
    fitted = fit_pairs(
        checkpoint,
        dataset,
        length_calibration=options.length_calibration,
        max_pairs=options.max_pairs,
        batch_tokens=options.batch_tokens,
    )
    return found, fitted


def _manifest_of(directory: Path, manifest: Manifest | None, found: _Found, fitted: Fitted) -> Manifest:
    """A manifest for the files in `directory`: a new one, or `manifest` with other fitted parts."""
    if manifest is None:
        described = describe(
            directory,
            rendering=found.rendering,
            max_length=found.max_length,
            scalarisation=found.scalarisation,
            reward=fitted.reward,
            device=str(found.device),
        )
    else:
        verify_files(manifest, directory)
        described = manifest
    return replace(
        described,
        calibration=fitted.calibration,
        reward=fitted.reward,
        length_calibration=fitted.length_calibration,
        training={**described.training, **fitted.training},
    )


def _template(checkpoint: Checkpoint, options: Options) -> str | None:
    """The chat template, if it has to be written down: it came from a file, or read the clock."""
    if checkpoint.renderer.rendering == "text":
        msg = (
            "the model has no chat template, so pairs have no defined text: name a file with one with --chat_template,"
            " and --output_dir for a copy that has it"
        )
        raise CheckpointRefused(msg)
    if checkpoint.renderer.template is None or checkpoint.manifest is not None:
        return None
    source = checkpoint.renderer.template.source
    pinned = pin_clock(source)
    if pinned != source and options.output_dir is None:
        msg = (
            "the chat template inserts today's date, so that scores would differ tomorrow: name --output_dir for a copy"
            " in which the date is fixed"
        )
        raise UsageError(msg)
    return pinned if pinned != source or options.chat_template is not None else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.calibrate", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model_name_or_path", required=True, help="a reward model: a directory or a hub name")
    add("--dataset_name", required=True, help="pairs: .json, .jsonl, .jsonl.gz, .parquet, hub name or name:split")
    add("--output_dir", type=Path, help="where a copy of the model goes; default: the result goes into its directory")
    add("--chat_template", type=Path, help="a Jinja file, for a foreign model without a template")
    add("--score_label", help="which label of a foreign head with several is the reward")
    add("--max_length", type=int, help="tokens that a foreign model is to read, if fewer than it can")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add(
        "--dtype",
        default="auto",
        choices=get_args(DtypeName),
        help="number format of the backbone while pairs are scored",
    )
    add("--batch_tokens", type=int, help="tokens per forward pass; default: 4096 on a CPU, else 16384")
    add("--max_pairs", type=int, help="use only the first so many pairs")
    lengths = parser.add_mutually_exclusive_group()
    lengths.add_argument(
        "--length_calibration", action="store_true", default=None, help="take off what rewards owe to length"
    )
    lengths.add_argument(
        "--no_length_calibration",
        action="store_false",
        dest="length_calibration",
        help="leave out what the checkpoint has of it; default: keep it as it is",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = _parser()
    flags = vars(parser.parse_args(argv))
    for name in ("max_length", "max_pairs", "batch_tokens"):
        if flags[name] is not None and flags[name] < 1:
            parser.error(f"--{name} must be positive, not {flags[name]}")
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model, dataset = flags.pop("model_name_or_path"), flags.pop("dataset_name")
    try:
        calibrate(model, dataset, Options(**flags))
    except UsageError as error:
        parser.error(str(error))
    except CheckpointRefused as error:
        sys.stderr.write(f"{model}: {error}\n")
        return REFUSED
    except (DataError, OSError) as error:
        sys.stderr.write(f"training.calibrate: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
