"""The data of a run: read, held out by prompt, rendered, and counted for the record.

Knows flags and data sets, neither models nor losses.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reward_model.rendering import Renderer
from training.arguments import RewardTrainingArguments
from training.data import RowReport, none_usable
from training.examples import Example
from training.pairs import IN_EVALUATION
from training.rows import DataError, identity, read_rows
from training.source import Reading, read_source
from training.split import held_out_prompts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Data:
    """The examples of a run.

    Attributes:
        train, validation: what is learned from, and what is not.
        record: fingerprints and counts for the checkpoint.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    record: dict[str, Any]


def check_readable(args: RewardTrainingArguments) -> None:
    """Looks at the first row of each data set, before a model is loaded for them.

    Raises:
        DataError: one cannot be read at all or has no rows, or both are the same.
    """
    names = [name for name in (args.dataset_name, args.eval_dataset_name) if name]
    for name in names:
        if next(read_rows(name), None) is None:
            raise none_usable(name, RowReport())
    if len({identity(name) for name in names}) < len(names):
        msg = (
            f"{args.eval_dataset_name} is also the training set: what is measured on it would be memory. Name another"
            " one, or leave --eval_dataset_name out and prompts are held out (--eval_fraction)"
        )
        raise DataError(msg)


def prepare(args: RewardTrainingArguments, renderer: Renderer, directory: Path) -> Data:
    """Reads and renders what the flags name; the examples are kept in `directory`.

    Raises:
        DataError: a data set cannot be used; NoPairs: nothing of one can.
        UnfitData: the objective needs what an example lacks.
        OSError: the disk is full.
    """
    name, eval_name = str(args.dataset_name), args.eval_dataset_name
    # An evaluation set is read as a whole: a figure on part of it would be another figure.
    whole = Reading(keep_repeats=True, ratings=args.scalarisation if args.attributes else None)
    how = replace(
        whole,
        limit=args.max_pairs,
        keep_repeats=args.keep_duplicates,
        keep_leaks=args.keep_leaks,
        objective=args.objective,
    )
    evaluation = None
    if eval_name:
        evaluation = read_source(eval_name, renderer, directory / "evaluation", whole)
        how = replace(how, evaluated=set(evaluation.examples.prompts()))
    source = read_source(name, renderer, directory / "training", how)
    if evaluation:
        train, validation = source.examples, evaluation.examples
        _warn_of_leaks(source.report)
    else:
        drawn = held_out_prompts(source.examples.prompts(), args.eval_fraction, seed=args.seed)
        held_out = np.array([prompt in drawn for prompt in source.examples.prompts()])
        train, validation = source.examples.those(~held_out), source.examples.those(held_out)
    eval_report = evaluation.report if evaluation else RowReport(rows=len(validation))
    record = {
        "dataset": name,
        "dataset_fingerprint": source.fingerprint,
        "pairs": train.count_comparisons(),
        "truncated_pairs": train.count_truncated(),
        "bad_rows": source.report.to_json(),
        "lengths": source.lengths_record(),
        "eval_dataset": eval_name or f"{args.eval_fraction:.0%} of the prompts, seed {args.seed}",
        "eval_dataset_fingerprint": evaluation.fingerprint if evaluation else None,
        "eval_pairs": validation.count_comparisons(),
        "eval_bad_rows": eval_report.to_json(),
        "eval_lengths": evaluation.lengths_record() if evaluation else None,
        "reward_from": "held-out pairs" if validation else "training pairs",
    }
    return Data(train, validation, record)


def _warn_of_leaks(report: RowReport) -> None:
    if kept := report.remarks.get(IN_EVALUATION):
        logger.warning(
            "%d training rows have a prompt of the evaluation set and are kept (--keep_leaks): figures on that set are"
            " better than they would be elsewhere",
            kept.count,
        )
