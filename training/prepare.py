"""The data of a run: read, held out by prompt, rendered, and counted for the record.

Knows flags, files and rendering, neither models nor losses.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from reward_model.rendering import Renderer
from training.arguments import RewardTrainingArguments
from training.data import NoPairs, RowReport, read_pairs
from training.examples import Example, render_examples
from training.fingerprint import Fingerprint
from training.ratings import fingerprinted, read_ratings, render_rated
from training.rows import read_rows
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


@dataclass(frozen=True, slots=True)
class _Source:
    examples: Sequence[Example]
    report: RowReport
    fingerprint: str


def check_readable(args: RewardTrainingArguments) -> None:
    """Raises DataError if a data set cannot be read at all, before a model is loaded for it."""
    for name in (args.dataset_name, args.eval_dataset_name):
        if name:
            next(read_rows(name), None)


def prepare(args: RewardTrainingArguments, renderer: Renderer) -> Data:
    """Reads and renders what the flags name.

    Raises:
        DataError: a data set cannot be used; NoPairs: nothing of one can.
        UnfitData: the objective needs what an example lacks.
    """
    name, eval_name = str(args.dataset_name), args.eval_dataset_name
    source = _read(name, args, renderer, limit=args.max_pairs)
    if eval_name:
        train, held_out = source.examples, _read(eval_name, args, renderer)
        validation, eval_report = held_out.examples, held_out.report.to_json()
    else:
        drawn = held_out_prompts((one.prompt for one in source.examples), args.eval_fraction, seed=args.seed)
        train = [one for one in source.examples if one.prompt not in drawn]
        validation = [one for one in source.examples if one.prompt in drawn]
        eval_report = RowReport(rows=len(validation)).to_json()
    record = {
        "dataset": name,
        "dataset_fingerprint": source.fingerprint,
        "pairs": _comparisons(train),
        "truncated_pairs": sum(any(sequence.truncated for sequence in one.sequences) for one in train),
        "bad_rows": source.report.to_json(),
        "eval_dataset": eval_name or f"{args.eval_fraction:.0%} of the prompts, seed {args.seed}",
        "eval_pairs": _comparisons(validation),
        "eval_bad_rows": eval_report,
        "reward_from": "held-out pairs" if validation else "training pairs",
    }
    return Data(train, validation, record)


def _comparisons(examples: Sequence[Example]) -> int:
    return sum(len(one.comparisons) for one in examples)


def _read(name: str, args: RewardTrainingArguments, renderer: Renderer, limit: int | None = None) -> _Source:
    """One data set, rendered; what cannot be used is shown."""
    report, identity = RowReport(), Fingerprint()
    examples = list(_examples(name, args, renderer, report, identity, limit))
    logger.info("%s: %d examples to use; %s", name, len(examples), report.table())
    if not examples:
        msg = f"{name}: nothing is left to use\n{report.table()}"
        raise NoPairs(msg)
    return _Source(examples, report, str(identity))


def _examples(
    name: str,
    args: RewardTrainingArguments,
    renderer: Renderer,
    report: RowReport,
    identity: Fingerprint,
    limit: int | None,
) -> Iterator[Example]:
    objective = args.objective
    if args.attributes:
        rated = fingerprinted(identity, read_ratings(name, args.attributes, report, limit=limit))
        examples = render_rated(rated, renderer, args.scalarisation, report)
    else:
        examples = render_examples(identity.of_pairs(read_pairs(name, report, limit=limit)), renderer, report)
    for example in examples:
        objective.check(example)
        yield example
