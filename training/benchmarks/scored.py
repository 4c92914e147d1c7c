"""The items of a benchmark with a model's scores, rendered as in training, evaluation and service.

Knows models and items, not what a benchmark makes of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from reward_model.calibration import reward_statistics
from reward_model.checkpoint import Checkpoint
from reward_model.rendering import Rendered, Renderer
from training.benchmarks.items import Benchmark, Item, ItemT, Result, Scores, fingerprint
from training.data import RowReport
from training.evaluation import Provenance
from training.examples import render_responses
from training.pairs import BadRow
from training.scoring import score_groups

#: Items that are held as tokens at a time, and sorted by length.
_WINDOW = 1024


class BenchmarkFailed(RuntimeError):
    """There is no result; the message says why."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model made of items.

    Attributes:
        scores: raw rewards of each item's candidates, by the item's place; items that cannot be scored are not there.
        truncated: items whose prompt had to be cut, once for all its candidates.
        not_scored: the others, by reason.
    """

    scores: dict[int, tuple[float, ...]]
    truncated: int
    not_scored: RowReport


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """A result and what it was computed from."""

    result: Result
    prompts: int
    scored: Scored
    provenance: Provenance

    def to_json(self) -> dict[str, Any]:
        """All as one JSON document."""
        rewards = [value for scores in self.scored.scores.values() for value in scores]
        return {
            **self.result.to_json(),
            "prompts": self.prompts,
            "reward": asdict(reward_statistics(rewards)),
            "truncated": self.scored.truncated,
            "not_scored": self.scored.not_scored.rejected,
            "not_scored_rows": self.scored.not_scored.to_json()["reasons"],
            **asdict(self.provenance),
        }

    def table(self) -> str:
        """All as plain text."""
        about, not_scored = self.provenance, self.scored.not_scored
        rows = [
            ("model", f"{about.model}  {about.model_fingerprint}"),
            ("data", f"{not_scored.rows:,} items on {self.prompts:,} prompts  {about.dataset_fingerprint}"),
            ("computed", f"{about.dtype} on {about.device}, max_length {about.max_length:,}"),
            ("truncated", f"{self.scored.truncated:,} items"),
            ("not scored", f"{not_scored.rejected:,} items"),
        ]
        blocks = ["\n".join(f"{name:<15}{value}" for name, value in rows), self.result.table()]
        if not_scored.rejected:
            blocks.append(f"Without scores, counted as if all candidates had the same:\n{not_scored.table()}")
        return "\n\n".join(blocks)


def run(
    benchmark: Benchmark[ItemT], items: Sequence[ItemT], checkpoint: Checkpoint, *, batch_tokens: int | None = None
) -> BenchmarkReport:
    """Scores all candidates and applies the benchmark's rules.

    An item that has a candidate that does not fit, or that the template cannot render, counts as if all its candidates
    had the same score, which is wrong wherever a strict order is asked for, and chance elsewhere; it is reported.

    Args:
        benchmark: its rules.
        items: one or more.
        checkpoint: a loaded checkpoint.
        batch_tokens: see `score_groups`.

    Raises:
        BenchmarkFailed: no item could be scored, or a score is not finite.
    """
    scored = score_items(checkpoint, items, batch_tokens=batch_tokens)
    if not scored.scores:
        msg = f"not one item could be scored\n{scored.not_scored.table()}"
        raise BenchmarkFailed(msg)
    scores: list[Scores] = [scored.scores.get(i, (0.0,) * len(item.responses)) for i, item in enumerate(items)]
    provenance = Provenance(
        model=checkpoint.name,
        model_fingerprint=checkpoint.fingerprint,
        dataset_fingerprint=fingerprint(items),
        max_length=checkpoint.renderer.max_length,
        device=str(checkpoint.model.precision.device),
        dtype=checkpoint.model.precision.dtype_name,
        temperature=checkpoint.calibration.trusted,
        calibrated=checkpoint.calibration.calibrated,
    )
    return BenchmarkReport(benchmark.result(items, scores), len({item.prompt for item in items}), scored, provenance)


def score_items(checkpoint: Checkpoint, items: Sequence[Item], *, batch_tokens: int | None = None) -> Scored:
    """Scores the candidates of every item.

    Prompts are cut where they must be, once for all candidates of an item; a response is never cut.

    Args:
        checkpoint: a loaded checkpoint.
        items: in any number.
        batch_tokens: see `score_groups`.

    Raises:
        BenchmarkFailed: a score is not finite.
    """
    scores: dict[int, tuple[float, ...]] = {}
    truncated, not_scored = 0, RowReport(rows=len(items))
    with tqdm(desc="scoring", total=len(items), unit="item", disable=None) as bar:
        for start in range(0, len(items), _WINDOW):
            window = range(start, min(start + _WINDOW, len(items)))
            rendered = _render(checkpoint.renderer, {i: items[i] for i in window}, not_scored)
            truncated += sum(any(one.truncated for one in group) for group in rendered.values())
            bar.update(len(window) - len(rendered))
            values = score_groups(checkpoint.model, list(rendered.values()), batch_tokens, bar.update)
            for i, own in zip(rendered, values, strict=True):
                score_of = dict(zip(_different(items[i]), own, strict=True))
                scores[i] = tuple(score_of[text] for text in items[i].responses)
    for i, own in scores.items():
        if not all(map(math.isfinite, own)):
            msg = f"the item at line {items[i].line} scores {own}: the model computes no finite reward for it"
            raise BenchmarkFailed(msg)
    return Scored(scores, truncated, not_scored)


def _render(renderer: Renderer, items: Mapping[int, Item], not_scored: RowReport) -> dict[int, tuple[Rendered, ...]]:
    rendered: dict[int, tuple[Rendered, ...]] = {}
    for i, item in items.items():
        try:
            rendered[i] = render_responses(item.prompt, _different(item), renderer)
        except BadRow as error:
            not_scored.add(item.line, error)
    return rendered


def _different(item: Item) -> list[str]:
    """The candidates without repeats: the same text computed twice need not score the same to the last bit."""
    return list(dict.fromkeys(item.responses))
