"""One data set on its way from rows to examples on disk, with an account of what became of every row.

Knows files and rendering, neither flags nor models, nor what the examples are for.
"""

import logging
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_model.rendering import Renderer
from reward_model.scores import Scalarisation
from training.data import NoPairs, RowReport, read_pairs
from training.examples import Example, render_examples
from training.fingerprint import Fingerprint
from training.leaks import without_leaks
from training.lengths import Lengths
from training.likeness import near_identical
from training.objectives import Objective, UnfitData
from training.pairs import TOO_LONG
from training.ratings import fingerprinted, read_ratings, render_rated
from training.repeats import Repeats
from training.store import ExampleStore, write

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """A data set that was read.

    Attributes:
        examples: on disk.
        report: what was not used, and what is worth a look.
        fingerprint: identity of its good rows, those left out as repeats or leaks among them.
        lengths: of the examples.
    """

    examples: ExampleStore
    report: RowReport
    fingerprint: str
    lengths: Lengths

    def lengths_record(self) -> dict[str, Any]:
        """Length statistics for the checkpoint."""
        return self.lengths.to_json() | {"too_long": self.report.counts.get(TOO_LONG, 0)}


@dataclass(frozen=True, slots=True)
class Reading:
    """How a data set is to be read.

    Attributes:
        limit: stop after so many good pairs.
        keep_repeats: use what a row before says already.
        evaluated: digests of the prompts that are asked in the evaluation set.
        keep_leaks: use rows with such prompts.
        ratings: what responses are rated on, and what that adds up to; None for pairs and rankings.
        objective: to be minimised on it, so that every example must have what that needs; None: on nothing.
    """

    limit: int | None = None
    keep_repeats: bool = False
    evaluated: AbstractSet[bytes] = frozenset()
    keep_leaks: bool = False
    ratings: Scalarisation | None = None
    objective: Objective | None = None


def read_source(name: str, renderer: Renderer, directory: Path, how: Reading) -> Source:
    """Reads a data set once, from its first row to its last, and writes its examples to `directory`, a new one.

    Raises:
        DataError: it cannot be read; NoPairs: nothing of it can be used.
        UnfitData: the objective needs what an example lacks.
        OSError: the disk is full.
    """
    report, identity, lengths = RowReport(), Fingerprint(), Lengths()
    if how.ratings is None:
        examples = _compared(name, renderer, how, report, identity)
    else:
        examples = _rated(name, how.ratings, renderer, how, report, identity)
    if how.objective is not None:
        examples = _learnable(name, examples, how.objective)
    examples = _remarked(examples, report)
    stored = write(lengths.of_examples(examples), directory)
    if not stored:
        msg = f"{name}: nothing is left to use: {report.foremost}\n{report.table()}"
        raise NoPairs(msg)
    logger.info("%s: %d examples to use; %s\n%s", name, len(stored), report.table(), lengths.table())
    return Source(stored, report, str(identity), lengths)


def _compared(
    name: str, renderer: Renderer, how: Reading, report: RowReport, identity: Fingerprint
) -> Iterator[Example]:
    pairs = identity.of_pairs(read_pairs(name, report, limit=how.limit))
    pairs = Repeats(report, keep=how.keep_repeats).of_pairs(pairs)
    pairs = without_leaks(pairs, how.evaluated, report, keep=how.keep_leaks)
    return render_examples(pairs, renderer, report)


def _rated(
    name: str,
    ratings: Scalarisation,
    renderer: Renderer,
    how: Reading,
    report: RowReport,
    identity: Fingerprint,
) -> Iterator[Example]:
    rated = fingerprinted(identity, read_ratings(name, ratings.names, report, limit=how.limit))
    rated = Repeats(report, keep=how.keep_repeats).of_rated(rated)
    rated = without_leaks(rated, how.evaluated, report, keep=how.keep_leaks)
    return render_rated(rated, renderer, ratings, report)


def _learnable(name: str, examples: Iterable[Example], objective: Objective) -> Iterator[Example]:
    for example in examples:
        try:
            objective.check(example)
        except UnfitData as error:
            msg = f"{name}: {error}"
            raise UnfitData(msg) from error
        yield example


def _remarked(examples: Iterable[Example], report: RowReport) -> Iterator[Example]:
    for example in examples:
        responses = [one.token_ids[example.prompt_tokens :] for one in example.sequences]
        if any(near_identical(responses[one.chosen], responses[one.rejected]) for one in example.comparisons):
            report.remark(example.line, "near_identical", "the two responses differ in one short place only")
        yield example
