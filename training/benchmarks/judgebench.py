"""JudgeBench (Tan et al. 2024, arXiv 2410.12784): pairs of which one response is objectively right.

The score is the share of all pairs whose right response scores higher. A tie is wrong, as it is for judges that may
say A=B; the benchmark's own reward models give a tie to B. Categories are the beginnings of `source`. Rules and counts:
github.com/ScalerLab/JudgeBench, run_judge.py (`--single_game`) and data/. Knows rows and numbers, not models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from training.benchmarks.coverage import Coverage
from training.benchmarks.items import Benchmark, Item, Scores, label, required
from training.benchmarks.scorecard import Scorecard, grouped
from training.pairs import MALFORMED, BadRow, response_of, turns_of
from training.statistics import accuracy

NAME: Final = "judgebench"
#: Of each model whose responses are compared, the pairs of each category.
PUBLISHED: Final = {
    "gpt-4o-2024-05-13": {"mmlu-pro": 154, "livebench-reasoning": 98, "livebench-math": 56, "livecodebench": 42},
    "claude-3-5-sonnet-20240620": {
        "mmlu-pro": 154,
        "livebench-reasoning": 51,
        "livebench-math": 34,
        "livecodebench": 31,
    },
}
CATEGORIES: Final = ("mmlu-pro", "livebench-reasoning", "livebench-math", "livecodebench")
#: The columns of the right and of the wrong response.
_SIDES: Final = {"A>B": ("response_A", "response_B"), "B>A": ("response_B", "response_A")}


@dataclass(frozen=True, slots=True)
class Judged(Item):
    """The right response, then the wrong one.

    Attributes:
        source: where the question is from.
        response_model: what wrote the responses.
    """

    source: str
    response_model: str

    @property
    def category(self) -> str:
        """The category that the source belongs to."""
        return next((name for name in CATEGORIES if self.source.startswith(name)), self.source)


def to_item(row: Mapping[str, Any], line: int) -> Judged:
    """An item from a row with `question`, `response_A`, `response_B`, `label`, `source` and `response_model`.

    Raises:
        BadRow: it is none.
    """
    decision = label(row, "label")
    if decision not in _SIDES:
        msg = f"`label` must be one of {', '.join(_SIDES)}, not {decision!r}"
        raise BadRow(MALFORMED, msg)
    both = tuple(response_of(required(row, column), column) for column in _SIDES[decision])
    prompt = turns_of(required(row, "question"), "question")
    return Judged(prompt, both, line, label(row, "source"), label(row, "response_model"))


def check(items: Sequence[Judged]) -> None:
    """Looks for two benchmarks in one.

    Raises:
        BadRow: the responses are not all of one published model.
    """
    models = sorted({item.response_model for item in items})
    if len(models) > 1 or models[0] not in PUBLISHED:
        msg = (
            f"`response_model` is {' and '.join(models)}; JudgeBench is scored for one of {' or '.join(PUBLISHED)} "
            f"at a time (on the hub the splits `gpt` and `claude`)"
        )
        raise BadRow(MALFORMED, msg)


def result(items: Sequence[Judged], scores: Sequence[Scores]) -> Scorecard:
    """The score, and what it is made of.

    Args:
        items: one or more, that `check` has nothing to say of.
        scores: of both responses of each.
    """
    credits_ = [float(right > wrong) for right, wrong in scores]
    prompts = [item.prompt for item in items]
    by_category = grouped([item.category for item in items], credits_, prompts)
    coverage = Coverage.of([item.category for item in items], PUBLISHED[items[0].response_model])
    known = [i for i, item in enumerate(items) if item.category in CATEGORIES]
    return Scorecard(
        benchmark=NAME,
        score=None if coverage.missing else accuracy([credits_[i] for i in known], [prompts[i] for i in known]),
        overall=accuracy(credits_, prompts),
        by_category={name: by_category.get(name) for name in CATEGORIES},
        by_subset=grouped([item.source for item in items], credits_, prompts),
        ties=sum(right == wrong for right, wrong in scores),
        coverage=coverage,
    )


JUDGEBENCH: Final = Benchmark(NAME, to_item, result, check)
