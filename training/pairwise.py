"""How well rewards agree with preference pairs, whoever gives them: each pair counted once, ties and misses as half.

Knows neither how the rewards are computed nor what the result is shown in.
"""

import math
from collections.abc import Callable, Sequence

from tqdm import tqdm

from reward_model.calibration import agreement, reward_statistics
from reward_model.checkpoint import Checkpoint
from training.data import RowReport
from training.evaluation import Comparison, Evaluation, Provenance
from training.fingerprint import fingerprint
from training.pair_scorer import CheckpointScorer, EvaluationFailed, PairScorer, ScoredPair
from training.paired import paired_difference
from training.pairs import PreferencePair
from training.probabilities import probability_quality
from training.statistics import Accuracy, accuracy, balanced_accuracy, correlation

#: Pairs that are held as tokens at a time, and sorted by length.
_WINDOW = 2048


def evaluate(
    checkpoint: Checkpoint,
    pairs: Sequence[PreferencePair],
    *,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """`evaluate_with` for a checkpoint in this process.

    Args:
        checkpoint: a loaded checkpoint.
        pairs, progress: see `evaluate_with`.
        batch_tokens: see `score_groups`.
    """
    return evaluate_with(CheckpointScorer(checkpoint, batch_tokens), pairs, progress=progress)


def evaluate_with(scorer: PairScorer, pairs: Sequence[PreferencePair], *, progress: bool = True) -> Evaluation:
    """Scores both responses of every pair and compares.

    Prompts are cut where they must be, once for both responses; a response is never cut. A pair whose response does
    not fit, or that the model's template cannot render, counts 0.5 and is reported.

    Args:
        scorer: what gives the rewards.
        pairs: one or more.
        progress: show a progress bar on a terminal.

    Raises:
        EvaluationFailed: no pair could be scored, or a score is not finite.
    """
    not_scored = RowReport(rows=len(pairs))
    scored = score_pairs(scorer, pairs, not_scored, progress=progress)
    if not scored:
        msg = f"not one pair could be scored\n{not_scored.table()}" if pairs else "there are no pairs"
        raise EvaluationFailed(msg)
    return _summarise(scorer.provenance(fingerprint(pairs)), pairs, scored, not_scored)


def score_pairs(
    scorer: PairScorer, pairs: Sequence[PreferencePair], not_scored: RowReport, *, progress: bool
) -> dict[int, ScoredPair]:
    """The pairs that can be scored, by index; the others go to the report."""
    scored: dict[int, ScoredPair] = {}
    with tqdm(desc="scoring", total=len(pairs), unit="pair", disable=None if progress else True) as bar:
        for start in range(0, len(pairs), _WINDOW):
            window = range(start, min(start + _WINDOW, len(pairs)))
            scored |= scorer.score({i: pairs[i] for i in window}, not_scored, bar.update)
    return scored


def _summarise(
    provenance: Provenance,
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
    prompts = [pair.prompt for pair in pairs]
    return Evaluation(
        overall=accuracy(outcomes, prompts),
        outcomes=outcomes,
        prompts=len(set(prompts)),
        by_category=_by(pairs, outcomes, lambda pair: pair.category),
        by_source=_by(pairs, outcomes, lambda pair: pair.source),
        by_subset=_by(pairs, outcomes, lambda pair: pair.subset),
        longer_wins=math.fsum(longer) / len(longer),
        length_balanced=balanced_accuracy(outcomes, longer, prompts),
        probabilities=probability_quality(margins, provenance.temperature, labels),
        length_correlation=correlation(rewards, lengths),
        reward=reward_statistics(rewards),
        truncated=sum(one.truncated for one in scored.values()),
        not_scored=not_scored,
        provenance=provenance,
    )


def compare(evaluation: Evaluation, baseline: Evaluation, pairs: Sequence[PreferencePair]) -> Comparison:
    """Two evaluations on the same `pairs`."""
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
