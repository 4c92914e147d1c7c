"""The result of a benchmark of right and wrong choices: its score, what that is made of, and what is missing.

Knows numbers only.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from training.benchmarks.coverage import Coverage
from training.statistics import Accuracy, accuracy


@dataclass(frozen=True, slots=True)
class Scorecard:
    """What a model reached in a benchmark.

    Attributes:
        benchmark: its name.
        score: by the benchmark's own rule; None where a part that belongs to it is missing.
        overall: mean credit over all items, extra ones too.
        by_category: what the score is made of; None where a part is missing.
        by_subset: mean credit of each of the smallest parts, extra ones too.
        ties: comparisons between a right and a wrong candidate that came out equal, where that decided something.
        coverage: how the items differ from the published ones.
        details: figures that this benchmark alone has.
    """

    benchmark: str
    score: Accuracy | None
    overall: Accuracy
    by_category: Mapping[str, Accuracy | None]
    by_subset: Mapping[str, Accuracy]
    ties: int
    coverage: Coverage
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON document."""
        return {
            "benchmark": self.benchmark,
            "score": self.score and self.score.accuracy,
            "score_interval": self.score and self.score.accuracy_interval,
            **self.coverage.to_json(),
            **asdict(self.overall),
            "ties": self.ties,
            "by_category": {name: one and asdict(one) for name, one in self.by_category.items()},
            "by_subset": {name: asdict(one) for name, one in self.by_subset.items()},
            **self.details,
        }

    def table(self) -> str:
        """The result as plain text."""
        partial = "" if self.coverage.complete else "  NOT the published benchmark, see below"
        head = [
            f"{'score':<15}{_percent(self.score)}{partial}",
            f"{'items':<15}{self.overall.n:,}, mean credit {_percent(self.overall)}, ties {self.ties:,}",
            *(f"{name:<15}{_shown(value)}" for name, value in self.details.items()),
        ]
        groups = [_rows("category", self.by_category), _rows("subset", self.by_subset)]
        return "\n\n".join(["\n".join(head), *groups, *filter(None, [self.coverage.table()])])


def grouped(names: Sequence[str], credits_: Sequence[float], prompts: Sequence[Hashable]) -> dict[str, Accuracy]:
    """Mean credit by name, in the order of the names.

    Args:
        names, credits_, prompts: one for each item.
    """
    members: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        members.setdefault(name, []).append(i)
    return {
        name: accuracy([credits_[i] for i in which], [prompts[i] for i in which])
        for name, which in sorted(members.items())
    }


def weighted(parts: Sequence[Accuracy | None], weights: Sequence[float]) -> Accuracy | None:
    """Weighted mean of figures over different prompts; None where one of them is.

    Its interval is put together from theirs (MOVER: Zou & Donner 2008, Statistics in Medicine 27), which need not be
    symmetric and never leaves the range of the figures.

    Args:
        parts: one or more.
        weights: positive; only their proportions count.
    """
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    shares = [weight / math.fsum(weights) for weight in weights]
    mean = math.fsum(share * part.accuracy for share, part in zip(shares, known, strict=True))
    below, above = (
        math.hypot(*(s * (p.accuracy - p.accuracy_interval[side]) for s, p in zip(shares, known, strict=True)))
        for side in (0, 1)
    )
    return Accuracy(sum(part.n for part in known), mean, (mean - below, mean + above))


def _rows(name: str, members: Mapping[str, Accuracy | None]) -> str:
    width = max(len(name), *map(len, members))
    counts = {key: f"{one.n:,}" if one else "-" for key, one in members.items()}
    rows = [f"{key:<{width}}  {counts[key]:>8}  {_percent(one)}" for key, one in members.items()]
    return "\n".join([f"{name:<{width}}  {'items':>8}  score [95 % interval]", *rows])


def _percent(one: Accuracy | None) -> str:
    if one is None:
        return "  none: a part is missing"
    low, high = one.accuracy_interval
    return f"{one.accuracy:6.1%} [{low:.1%}, {high:.1%}]"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        nested = {name: f"({_shown(one)})" if isinstance(one, Mapping) else _shown(one) for name, one in value.items()}
        return ", ".join(f"{name} {text}" for name, text in nested.items())
    if isinstance(value, list):
        return "; ".join(" ".join(map(_shown, row)) if isinstance(row, list) else _shown(row) for row in value)
    return "none" if value is None else f"{value:.1%}" if isinstance(value, float) else f"{value:,}"
