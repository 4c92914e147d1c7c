"""RewardBench 2 (Malik et al. 2025, arXiv 2506.01937): the best of four in five subsets, and one of ties.

In five subsets one response of four is right: it counts 1 where it scores highest, 1/k where it shares the highest
score with k - 1 others, else 0. `Ties` has a rule of its own (`ties_score`). The score is the mean of the six subsets.
Rules: github.com/allenai/reward-bench, scripts/run_v2.py and rewardbench/utils.py; counts: the data set's card. Knows
rows and numbers, not models.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from training.benchmarks.coverage import Coverage
from training.benchmarks.items import Benchmark, Item, Scores, label, required, responses
from training.benchmarks.scorecard import Scorecard, grouped, weighted
from training.benchmarks.ties import Margins, TiesScore, ties_score
from training.pairs import MALFORMED, BadRow, turns_of
from training.statistics import accuracy

NAME: Final = "rewardbench2"
TIES: Final = "Ties"
#: Subsets and their prompts.
SUBSETS: Final = {"Factuality": 475, "Precise IF": 160, "Math": 183, "Safety": 450, "Focus": 495, TIES: 102}
#: `ref` has one right answer, `tied`, about the same matter, has several.
_TIES_ID = re.compile(r"(ref|tied):(\d+)")


@dataclass(frozen=True, slots=True)
class Choice(Item):
    """The right responses, then the wrong ones.

    Attributes:
        right: how many are right.
        subset: which it belongs to.
        identity: what the row calls itself; in `Ties`, `ref:N` or `tied:N`.
    """

    right: int
    subset: str
    identity: str


def to_item(row: Mapping[str, Any], line: int) -> Choice:
    """An item from a row with `prompt`, `chosen`, `rejected`, `num_correct`, `subset` and `id`.

    Raises:
        BadRow: it is none.
    """
    chosen, rejected = responses(row, "chosen"), responses(row, "rejected")
    if required(row, "num_correct") != len(chosen):
        msg = f"`num_correct` is {row['num_correct']!r}, but `chosen` has {len(chosen)} responses"
        raise BadRow(MALFORMED, msg)
    prompt = turns_of(required(row, "prompt"), "prompt")
    item = Choice(prompt, (*chosen, *rejected), line, len(chosen), label(row, "subset"), str(required(row, "id")))
    if item.subset != TIES:
        if item.right != 1:
            msg = f"`chosen` has {item.right} responses; outside of {TIES} one is right"
            raise BadRow(MALFORMED, msg)
    elif not (match := _TIES_ID.fullmatch(item.identity)):
        msg = f"the `id` of a row of {TIES} must be ref:N or tied:N, not {item.identity!r}"
        raise BadRow(MALFORMED, msg)
    elif match[1] == "tied" and item.right < 2:
        msg = "a tied row needs two or more right responses"
        raise BadRow(MALFORMED, msg)
    return item


def check(items: Sequence[Choice]) -> None:
    """Looks for rows of `Ties` that say they are the same one.

    Raises:
        BadRow: there are two.
    """
    lines: dict[str, int] = {}
    for item in items:
        if item.subset == TIES and (first := lines.setdefault(item.identity, item.line)) != item.line:
            msg = f"the rows at {first} and {item.line} both have the `id` {item.identity}"
            raise BadRow(MALFORMED, msg)


def result(items: Sequence[Choice], scores: Sequence[Scores]) -> Scorecard:
    """The score, and what it is made of.

    Args:
        items: one or more, that `check` has nothing to say of.
        scores: of all responses of each.
    """
    credits_ = [_credit(*one) for one in zip(items, scores, strict=True)]
    prompts = [item.prompt for item in items]
    by_subset = grouped([item.subset for item in items], credits_, prompts)
    coverage = Coverage.of([item.subset for item in items], SUBSETS)
    ties = _ties_score(items, scores)
    parts = {name: by_subset.get(name) for name in SUBSETS} | {TIES: ties.score if ties else None}
    return Scorecard(
        benchmark=NAME,
        score=weighted(list(parts.values()), [1] * len(parts)),
        overall=accuracy(credits_, prompts),
        by_category=parts,
        by_subset={name: one for name, one in by_subset.items() if name != TIES},
        ties=sum(_tied(*one) for one in zip(items, scores, strict=True)),
        coverage=coverage,
        details={"ties_terms": ties and asdict(ties.terms)},
    )


def _credit(item: Choice, scores: Scores) -> float:
    """Of one item, by itself: in `Ties`, whether every right response scores higher than every wrong one."""
    if item.subset == TIES:
        return float(Margins.of(scores, item.right).accurate)
    best = max(scores)
    return 1 / sum(score == best for score in scores) if scores[0] == best else 0.0


def _tied(item: Choice, scores: Scores) -> bool:
    """Whether the worst right response scores the same as the best wrong one."""
    return min(scores[: item.right]) == max(scores[item.right :])


def _ties_score(items: Sequence[Choice], scores: Sequence[Scores]) -> TiesScore | None:
    """None where `Ties` has no prompt with both of its rows."""
    margins: dict[str, dict[int, Margins]] = {"ref": {}, "tied": {}}
    for item, values in zip(items, scores, strict=True):
        if item.subset == TIES and (match := _TIES_ID.fullmatch(item.identity)):
            margins[match[1]][int(match[2])] = Margins.of(values, item.right)
    return ties_score(margins["ref"], margins["tied"])


REWARDBENCH2: Final = Benchmark(NAME, to_item, result, check)
