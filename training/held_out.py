"""Held-out examples for checkpoints that are there already: pairs or rankings, or responses rated on their attributes.

Knows rows and rendering, neither models nor how they were trained.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reward_model.rendering import Renderer
from reward_model.scores import Scalarisation
from training.data import NoPairs, RowReport, read_pairs
from training.examples import Example, render_examples
from training.fingerprint import Fingerprint
from training.ratings import fingerprinted, read_ratings, render_rated
from training.rows import read_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Examples nobody learned from.

    Attributes:
        examples: with at least one comparison among them.
        fingerprint: of the data set, as training records it.
        record: the data set, for the checkpoint.
    """

    examples: tuple[Example, ...]
    fingerprint: str
    record: dict[str, Any]


def read_held_out(name: str, renderer: Renderer, scalarisation: Scalarisation, limit: int | None = None) -> HeldOut:
    """Reads and renders a data set; rows with a `response` of their own are rated ones, all others pairs or rankings.

    Args:
        name: a file or a hub name; see `training.rows.read_rows`.
        renderer: the checkpoint's.
        scalarisation: which ratings to read, and what they add up to.
        limit: use only the first so many pairs (or ratings).

    Raises:
        DataError: it cannot be read; NoPairs: there is nothing to compare in it.
    """
    report, identity = RowReport(), Fingerprint()
    if _is_rated(name):
        rated = fingerprinted(identity, read_ratings(name, scalarisation.names, report, limit=limit))
        examples = tuple(render_rated(rated, renderer, scalarisation, report))
    else:
        pairs = identity.of_pairs(read_pairs(name, report, limit=limit))
        examples = tuple(render_examples(pairs, renderer, report))
    compared = sum(len(one.comparisons) for one in examples)
    logger.info("%s: %d comparisons; %s", name, compared, report.table())
    if not compared:
        msg = f"{name}: no two responses to compare are left\n{report.table()}"
        raise NoPairs(msg)
    record = {"eval_dataset": name, "eval_pairs": compared, "eval_bad_rows": report.to_json()}
    return HeldOut(examples, str(identity), record)


def _is_rated(name: str) -> bool:
    _, row = next(read_rows(name), (0, None))
    return isinstance(row, Mapping) and "response" in row
