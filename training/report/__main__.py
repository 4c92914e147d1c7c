"""Writes `report.html` and a model card into a checkpoint's directory.

    python -m training.report --model_name_or_path checkpoints/mine
    python -m training.report --model_name_or_path checkpoints/mine --dataset_name test.jsonl --report_examples 20

Without `--dataset_name` the figures are those of the pairs that were held out from training, as recorded: nothing is
scored. `training.train` writes the same by itself. Texts of a data set are shown only with `--report_examples`.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from transformers.utils import logging as transformers_logging

from reward_model.calibration import sigmoid
from reward_model.checkpoint import Checkpoint, load
from reward_model.errors import CheckpointRefused
from reward_model.manifest import read_manifest
from reward_model.precision import DtypeName
from training.data import Preferences, RowReport, read_preferences
from training.evaluate import REFUSED
from training.pair_scorer import CheckpointScorer, EvaluationFailed, ScoredPair
from training.pairwise import score_pairs
from training.report.log import LOG_FILE, read_log
from training.report.subject import Disagreement, Subject
from training.report.verdicts import HELD_OUT_FILE, DataSet, Verdicts, read_verdicts
from training.report.writer import REPORT_FILE, write_report
from training.rows import DataError


def recorded(directory: Path) -> Subject:
    """What a checkpoint of ours and the files beside it say.

    Raises:
        CheckpointRefused: it says nothing, or cannot be understood.
        DataError: a file beside it is damaged.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        msg = "there is no reward_model.json, so nothing is known of it: name pairs to measure it on (--dataset_name)"
        raise CheckpointRefused(msg)
    log = read_log(directory / LOG_FILE)
    # The rewards of training's held-out pairs are not those of a model that was calibrated on others since.
    verdicts = None if "calibrated_on" in manifest.training else read_verdicts(directory / HELD_OUT_FILE)
    return Subject(directory.name, manifest.fingerprint, manifest, log, verdicts, own=True)


def measured(checkpoint: Checkpoint, directory: Path, name: str, preferences: Preferences, examples: int) -> Subject:
    """The same with what a loaded checkpoint makes of other pairs.

    Raises:
        EvaluationFailed: no pair could be scored, or a score is not finite.
        DataError: a file beside it is damaged.
    """
    unfit = RowReport()
    scored = score_pairs(CheckpointScorer(checkpoint), preferences.pairs, unfit, progress=True)
    if not scored:
        msg = f"{name}: not one pair could be scored\n{unfit.table()}"
        raise EvaluationFailed(msg)
    rewards = {i: (one.chosen, one.rejected) for i, one in scored.items()}
    verdicts = Verdicts.of_pairs(DataSet.named(name, preferences.fingerprint), preferences.pairs, rewards)
    return Subject(
        directory.name,
        checkpoint.fingerprint,
        checkpoint.manifest,
        read_log(directory / LOG_FILE),
        verdicts,
        own=False,
        not_used=preferences.rejected_rows.rejected,
        disagreements=_disagreements(list(scored.values()), checkpoint.calibration.trusted, examples),
    )


def _disagreements(scored: Sequence[ScoredPair], temperature: float, wanted: int) -> tuple[Disagreement, ...]:
    against = sorted((one for one in scored if one.margin < 0), key=lambda one: (one.margin, one.pair.line))
    return tuple(
        Disagreement(
            one.pair.line,
            one.pair.prompt,
            one.pair.chosen,
            one.pair.rejected,
            (one.chosen, one.rejected),
            sigmoid(one.margin / temperature),
        )
        for one in against[:wanted]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.report", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model_name_or_path", required=True, type=Path, help="checkpoint directory, where the report goes as well")
    add("--dataset_name", help="pairs to measure it on: .json, .jsonl, .jsonl.gz, .parquet, hub name or name:split")
    add("--report_examples", type=int, default=0, help="show the texts of so many confident disagreements")
    add("--max_pairs", type=int, help="use only the first so many pairs")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add("--dtype", default="auto", choices=get_args(DtypeName), help="number format of the backbone")
    return parser


def _checked(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    flags = parser.parse_args(argv)
    if flags.report_examples < 0:
        parser.error(f"--report_examples must be 0 or more, not {flags.report_examples}")
    if flags.max_pairs is not None and flags.max_pairs < 1:
        parser.error(f"--max_pairs must be positive, not {flags.max_pairs}")
    for name in ("report_examples", "max_pairs"):
        if getattr(flags, name) and not flags.dataset_name:
            parser.error(f"--{name} needs --dataset_name: a checkpoint keeps no texts and no pairs")
    if not flags.model_name_or_path.expanduser().is_dir():
        parser.error(f"--model_name_or_path {flags.model_name_or_path} is not a directory, where a report could go")
    return flags


def _run(flags: argparse.Namespace) -> str:
    """Writes everything and returns what to show."""
    directory = flags.model_name_or_path.expanduser().resolve()
    if flags.dataset_name:
        preferences = read_preferences(flags.dataset_name, limit=flags.max_pairs)
        checkpoint = load(directory, device=flags.device, dtype=flags.dtype)
        subject = measured(checkpoint, directory, flags.dataset_name, preferences, flags.report_examples)
    else:
        subject = recorded(directory)
    write_report(subject, directory)
    return f"wrote {directory / REPORT_FILE}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    flags = _checked(argv)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        print(_run(flags))
    except CheckpointRefused as error:
        print(f"{flags.model_name_or_path}: {error}", file=sys.stderr)
        return REFUSED
    except (DataError, EvaluationFailed, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
