"""Best-of-n: how good is the response that the model picks from n, on average over all choices of n?

    {"prompt": ..., "responses": ["a", "b", ...], "scores": [7, 9.5, ...]}   gold quality, the higher the better
    {"prompt": ..., "responses": ["a", "b", ...], "ranks": [2, 1, ...]}      1 is the best; counts as quality -rank

From all candidates of a prompt the expectation over every subset of n is computed, not sampled (`picks.Picks`), for
each n up to the number that every prompt has. Knows rows and numbers, not models.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from training.benchmarks.items import Benchmark, Item, Scores, responses
from training.benchmarks.picks import Picks
from training.benchmarks.scorecard import grouped
from training.pairs import MALFORMED, BadRow, label_of, turns_of
from training.rankings import quality_of
from training.statistics import Accuracy, Floats, accuracy, t_quantile

NAME: Final = "best_of_n"
_RANKS: Final = "ranks"
_UNNAMED: Final = ""


@dataclass(frozen=True, slots=True)
class Candidates(Item):
    """Responses, the better known.

    Attributes:
        quality: gold, one for each response, the higher the better.
        measure: `ranks` or `scores`, what the quality was given as.
        category: to report by; empty where there is none.
    """

    quality: tuple[float, ...]
    measure: str
    category: str


def to_item(row: Mapping[str, Any], line: int) -> Candidates:
    """An item from a row with `prompt`, `responses` and `scores` or `ranks`, perhaps with `category`.

    Raises:
        BadRow: it is none.
    """
    texts = responses(row, "responses")
    if len(texts) < 2:
        msg = "`responses` must be two or more: there is no choice"
        raise BadRow(MALFORMED, msg)
    quality = tuple(quality_of(row, len(texts)))
    measure = "scores" if row.get(_RANKS) is None else _RANKS
    prompt = turns_of(row.get("prompt"), "prompt")
    return Candidates(prompt, texts, line, quality, measure, label_of(row, "category") or _UNNAMED)


def check(items: Sequence[Candidates]) -> None:
    """Looks for qualities of which there is no mean.

    Raises:
        BadRow: some rows have ranks, others scores.
    """
    first = items[0]
    for item in items:
        if item.measure != first.measure:
            msg = f"the row at {first.line} has `{first.measure}`, but that at {item.line} `{item.measure}`: use one"
            raise BadRow(MALFORMED, msg)


@dataclass(frozen=True, slots=True)
class Point:
    """What is picked from n candidates, on average.

    Attributes:
        n: of how many.
        quality: of the model's pick.
        quality_interval: 95 %, by prompt; None where there is one prompt.
        random, oracle: quality of a random pick and of the best one.
        best: how often the model's pick is as good as the best of the n, with its interval.
        random_best: how often a random pick is.
    """

    n: int
    quality: float
    quality_interval: tuple[float, float] | None
    random: float
    oracle: float
    best: Accuracy
    random_best: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        best = {"best": self.best.accuracy, "best_interval": self.best.accuracy_interval}
        return {name: value for name, value in asdict(self).items() if name != "best"} | best


@dataclass(frozen=True, slots=True)
class Curve:
    """The picks for every n.

    Attributes:
        points: for n = 1, 2, ...
        measure: what quality is: gold `scores`, or `ranks` made negative.
        fewest, most: candidates of a prompt; the curve ends at the fewest.
        by_category: of the rows that have one, how often the pick of the last point is as good as the best.
    """

    points: tuple[Point, ...]
    measure: str
    fewest: int
    most: int
    by_category: Mapping[str, Accuracy]

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON document; its accuracy is that of the last point."""
        return {
            "benchmark": NAME,
            **asdict(self.points[-1].best),
            "by_category": {name: asdict(one) for name, one in self.by_category.items()},
            "quality_of": self.measure,
            "candidates": {"fewest": self.fewest, "most": self.most},
            "curve": [point.to_json() for point in self.points],
        }

    def table(self) -> str:
        """The result as plain text."""
        more = f" (some {self.most:,}: the curve ends with the fewest)" if self.most > self.fewest else ""
        ranked = "; quality is minus the rank" if self.measure == _RANKS else ""
        lines = [
            f"{self.points[-1].best.n:,} prompts with {self.fewest:,} candidates{more}{ranked}",
            f"{'n':>5} {'random':>10} {'picked':>10} {'[95 % interval]':<22} {'oracle':>10}  picked the best (random)",
        ]
        for point in self.points:
            low, high = point.best.accuracy_interval
            interval = "[{:.4g}, {:.4g}]".format(*point.quality_interval) if point.quality_interval else "[unknown]"
            lines.append(
                f"{point.n:>5} {point.random:>10.4g} {point.quality:>10.4g} {interval:<22} {point.oracle:>10.4g}  "
                f"{point.best.accuracy:6.1%} [{low:.1%}, {high:.1%}] ({point.random_best:.1%})"
            )
        categories = [f"{name}: best in {one.accuracy:.1%} of {one.n:,}" for name, one in self.by_category.items()]
        return "\n".join(lines + categories)


def result(items: Sequence[Candidates], scores: Sequence[Scores]) -> Curve:
    """The curve.

    Args:
        items: one or more, that `check` has nothing to say of.
        scores: of all responses of each.
    """
    sizes = [len(item.responses) for item in items]
    n = min(sizes)
    picked = [Picks.of(values, item.quality, n) for item, values in zip(items, scores, strict=True)]
    random = [Picks.of([0.0] * len(item.quality), item.quality, n) for item in items]
    oracle = [Picks.of(item.quality, item.quality, n) for item in items]
    prompts = [item.prompt for item in items]
    points = tuple(
        Point(
            n=i + 1,
            quality=_mean(picked, i),
            quality_interval=mean_interval(np.array([one.quality[i] for one in picked]), prompts),
            random=_mean(random, i),
            oracle=_mean(oracle, i),
            best=accuracy([one.best[i] for one in picked], prompts),
            random_best=math.fsum(one.best[i] for one in random) / len(random),
        )
        for i in range(n)
    )
    named = [i for i, item in enumerate(items) if item.category != _UNNAMED]
    by_category = grouped(
        [items[i].category for i in named], [picked[i].best[-1] for i in named], [prompts[i] for i in named]
    )
    return Curve(points, items[0].measure, n, max(sizes), by_category)


def _mean(picks: Sequence[Picks], i: int) -> float:
    return math.fsum(one.quality[i] for one in picks) / len(picks)


def mean_interval(values: Floats, groups: Sequence[Hashable]) -> tuple[float, float] | None:
    """95 % interval for the mean of values that come in groups: Student's t on the groups' sums.

    Args:
        values: [items], on any scale.
        groups: what each belongs to; None comes of one group, which says nothing about others.
    """
    sums: dict[Hashable, float] = {}
    mean = float(values.mean())
    for group, value in zip(groups, values.tolist(), strict=True):
        sums[group] = sums.get(group, 0.0) + value - mean
    if (clusters := len(sums)) < 2:
        return None
    error = math.sqrt(clusters / (clusters - 1) * math.fsum(one**2 for one in sums.values())) / len(values)
    half = t_quantile(clusters - 1) * error
    return mean - half, mean + half


BEST_OF_N: Final = Benchmark(NAME, to_item, result, check)
