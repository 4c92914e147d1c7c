r"""Evaluates a checkpoint on preference pairs, with the very rendering and scores that the service has.

    python -m training.evaluate --model_name_or_path checkpoints/demo --dataset_name test.jsonl \
        --output_file metrics.json [--baseline checkpoints/before]

Knows neither how the model was trained nor HTTP.
"""

import argparse
import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from reward_model.calibration import agreement, reward_statistics
from reward_model.checkpoint import Checkpoint, load
from reward_model.errors import CheckpointRefused
from reward_model.precision import DtypeName
from reward_model.rendering import Rendered, Renderer
from training.benchmarks.catalogue import BENCHMARKS
from training.benchmarks.items import read_items
from training.benchmarks.scored import BenchmarkFailed, run
from training.data import RowReport, read_preferences
from training.documents import write_document
from training.evaluation import Comparison, Evaluation, Provenance
from training.examples import render_responses
from training.fingerprint import fingerprint
from training.paired import paired_difference
from training.pairs import BadRow, PreferencePair
from training.rows import DataError
from training.scoring import score_groups
from training.statistics import Accuracy, accuracy, balanced_accuracy, correlation, probability_quality

#: Exit status for a checkpoint that must not be used, the same as the service's.
REFUSED = 3
#: Pairs that are held as tokens at a time, and sorted by length.
_WINDOW = 2048


class EvaluationFailed(RuntimeError):
    """There is no result; the message says why."""


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair with its two raw rewards.

    Attributes:
        pair: what was scored.
        chosen, rejected: finite.
        truncated: the prompt had to be cut.
    """

    pair: PreferencePair
    chosen: float
    rejected: float
    truncated: bool

    @property
    def margin(self) -> float:
        """Chosen minus rejected."""
        return self.chosen - self.rejected


def evaluate(
    checkpoint: Checkpoint,
    pairs: Sequence[PreferencePair],
    *,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Scores both responses of every pair and compares.

    Prompts are cut where they must be, once for both responses; a response is never cut. A pair whose response does
    not fit, or that the checkpoint's template cannot render, counts 0.5 and is reported.

    Args:
        checkpoint: a loaded checkpoint.
        pairs: one or more.
        batch_tokens: see `score_groups`.
        progress: show a progress bar on a terminal.

    Raises:
        EvaluationFailed: no pair could be scored, or a score is not finite.
    """
    not_scored = RowReport(rows=len(pairs))
    scored = _score_pairs(checkpoint, pairs, not_scored, batch_tokens=batch_tokens, progress=progress)
    if not scored:
        msg = f"not one pair could be scored\n{not_scored.table()}" if pairs else "there are no pairs"
        raise EvaluationFailed(msg)
    return _summarise(checkpoint, pairs, scored, not_scored)


def _score_pairs(
    checkpoint: Checkpoint,
    pairs: Sequence[PreferencePair],
    not_scored: RowReport,
    *,
    batch_tokens: int | None,
    progress: bool,
) -> dict[int, ScoredPair]:
    """The pairs that can be scored, by index; the others go to the report."""
    scored: dict[int, ScoredPair] = {}
    with tqdm(desc="scoring", total=len(pairs), unit="pair", disable=None if progress else True) as bar:
        for start in range(0, len(pairs), _WINDOW):
            window = range(start, min(start + _WINDOW, len(pairs)))
            rendered = _render(checkpoint.renderer, {i: pairs[i] for i in window}, not_scored)
            bar.update(len(window) - len(rendered))
            values = score_groups(checkpoint.model, list(rendered.values()), batch_tokens, bar.update)
            for (i, both), (chosen, rejected) in zip(rendered.items(), values, strict=True):
                truncated = any(one.truncated for one in both)
                scored[i] = _scored(pairs[i], chosen, rejected, truncated=truncated)
    return scored


def _render(
    renderer: Renderer, pairs: dict[int, PreferencePair], not_scored: RowReport
) -> dict[int, tuple[Rendered, ...]]:
    rendered: dict[int, tuple[Rendered, ...]] = {}
    for i, pair in pairs.items():
        try:
            rendered[i] = render_responses(pair.prompt, [pair.chosen, pair.rejected], renderer)
        except BadRow as error:
            not_scored.add(pair.line, error)
    return rendered


def _scored(pair: PreferencePair, chosen: float, rejected: float, *, truncated: bool) -> ScoredPair:
    if not (math.isfinite(chosen) and math.isfinite(rejected)):
        msg = f"the pair at line {pair.line} scores {chosen} and {rejected}: the model computes no finite reward for it"
        raise EvaluationFailed(msg)
    return ScoredPair(pair, chosen, rejected, truncated)


def _summarise(
    checkpoint: Checkpoint,
    pairs: Sequence[PreferencePair],
    scored: dict[int, ScoredPair],
    not_scored: RowReport,
) -> Evaluation:
    outcomes = [agreement(scored[i].margin, pair.label) if i in scored else 0.5 for i, pair in enumerate(pairs)]
    rewards = [value for one in scored.values() for value in (one.chosen, one.rejected)]
    lengths = [len(text) for one in scored.values() for text in (one.pair.chosen, one.pair.rejected)]
    longer = [agreement(len(pair.chosen) - len(pair.rejected), pair.label) for pair in pairs]
    margins = [one.margin for one in scored.values()]
    labels = [one.pair.label for one in scored.values()]
    return Evaluation(
        overall=accuracy(outcomes, [pair.prompt for pair in pairs]),
        outcomes=outcomes,
        prompts=len({pair.prompt for pair in pairs}),
        by_category=_by(pairs, outcomes, lambda pair: pair.category),
        by_source=_by(pairs, outcomes, lambda pair: pair.source),
        by_subset=_by(pairs, outcomes, lambda pair: pair.subset),
        longer_wins=math.fsum(longer) / len(longer),
        length_balanced=balanced_accuracy(outcomes, longer, [pair.prompt for pair in pairs]),
        probabilities=probability_quality(margins, checkpoint.calibration.trusted, labels),
        length_correlation=correlation(rewards, lengths),
        reward=reward_statistics(rewards),
        truncated=sum(one.truncated for one in scored.values()),
        not_scored=not_scored,
        provenance=_provenance(checkpoint, pairs),
    )


def compare(evaluation: Evaluation, baseline: Evaluation, pairs: Sequence[PreferencePair]) -> Comparison:
    """Two checkpoints' evaluations on the same `pairs`."""
    groups = [pair.prompt for pair in pairs]
    return Comparison(baseline, paired_difference(evaluation.outcomes, baseline.outcomes, groups))


def _by(
    pairs: Sequence[PreferencePair], outcomes: Sequence[float], label: Callable[[PreferencePair], str | None]
) -> dict[str, Accuracy]:
    """Accuracy per label, in the labels' order; pairs without one are in none."""
    members: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        if (name := label(pair)) is not None:
            members.setdefault(name, []).append(i)
    return {
        name: accuracy([outcomes[i] for i in which], [pairs[i].prompt for i in which])
        for name, which in sorted(members.items())
    }


def _provenance(checkpoint: Checkpoint, pairs: Sequence[PreferencePair]) -> Provenance:
    return Provenance(
        model=checkpoint.name,
        model_fingerprint=checkpoint.fingerprint,
        dataset_fingerprint=fingerprint(pairs),
        max_length=checkpoint.renderer.max_length,
        device=str(checkpoint.model.precision.device),
        dtype=checkpoint.model.precision.dtype_name,
        temperature=checkpoint.calibration.trusted,
        calibrated=checkpoint.calibration.calibrated,
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        msg = f"{value} is not positive"
        raise argparse.ArgumentTypeError(msg)
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model_name_or_path", required=True, help="checkpoint: a directory or a hub name")
    add("--dataset_name", required=True, help="pairs: .jsonl, .jsonl.gz, .parquet, a hub name or name:split")
    add("--baseline", help="a second checkpoint, compared pair by pair on the same data")
    add("--benchmark", choices=list(BENCHMARKS), help="score the rows by the rules of this benchmark")
    add("--output_file", type=Path, help="where the result goes as JSON")
    add("--max_length", type=_positive, help="read fewer tokens than the checkpoint's own limit")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add("--dtype", default="auto", choices=get_args(DtypeName), help="number format of the backbone")
    add("--batch_tokens", type=_positive, help="tokens per forward pass; default: 4096 on a CPU, else 16384")
    add("--max_pairs", type=_positive, help="use only the first so many pairs (of a benchmark: rows)")
    add("--chat_template", type=Path, help="a Jinja file, for a foreign checkpoint without a template")
    add("--score_label", help="which label of a foreign head with several is the reward")
    return parser


def _run_benchmark(flags: argparse.Namespace) -> str:
    """The same as `_run` by the rules of a benchmark."""
    benchmark = BENCHMARKS[flags.benchmark]
    items = read_items(benchmark, flags.dataset_name, limit=flags.max_pairs)
    report = run(benchmark, items, _load(flags.model_name_or_path, flags), batch_tokens=flags.batch_tokens)
    if flags.output_file:
        write_document(report.to_json() | {"dataset": flags.dataset_name}, flags.output_file)
    return report.table()


def _run(flags: argparse.Namespace) -> str:
    """Evaluates, writes the result and returns what to show."""
    preferences = read_preferences(flags.dataset_name, limit=flags.max_pairs)
    evaluation = _evaluated(flags.model_name_or_path, preferences.pairs, flags)
    rejected = preferences.rejected_rows
    document: dict[str, Any] = evaluation.to_json() | {"dataset": flags.dataset_name}
    blocks = [evaluation.table()]
    if flags.baseline:
        comparison = compare(evaluation, _evaluated(flags.baseline, preferences.pairs, flags), preferences.pairs)
        document["baseline"] = comparison.to_json()
        blocks.append(comparison.table())
    if rejected.rejected:
        blocks.append(rejected.table())
    if flags.output_file:
        write_document(document | {"rejected_rows": rejected.to_json()}, flags.output_file)
    return "\n\n".join(blocks)


def _evaluated(name: str, pairs: Sequence[PreferencePair], flags: argparse.Namespace) -> Evaluation:
    """The evaluation of a checkpoint, which is let go of afterwards."""
    return evaluate(_load(name, flags), pairs, batch_tokens=flags.batch_tokens)


def _load(name: str, flags: argparse.Namespace) -> Checkpoint:
    """Raises CheckpointRefused, whose message begins with the checkpoint's name."""
    try:
        return load(
            name,
            device=flags.device,
            dtype=flags.dtype,
            max_length=flags.max_length,
            chat_template=flags.chat_template,
            score_label=flags.score_label,
        )
    except CheckpointRefused as error:
        msg = f"{name}: {error}"
        raise CheckpointRefused(msg) from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = _parser()
    flags = parser.parse_args(argv)
    if flags.benchmark and flags.baseline:
        parser.error("--baseline compares pairs: leave it out with --benchmark, or evaluate each checkpoint by itself")
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        print(_run_benchmark(flags) if flags.benchmark else _run(flags))
    except CheckpointRefused as error:
        print(error, file=sys.stderr)
        return REFUSED
    except (DataError, EvaluationFailed, BenchmarkFailed, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
